"""The model of a fast step against every step that the README shows of one, and what a plan makes of it."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from container_src.sft.architectures import KNOWN, find_architecture
from container_src.sft.config import TrainConfig
from container_src.sft.memory_plan import Load, Setting, Shape, estimate_bytes, iter_settings
from launcher.estimates import fast_model
from launcher.estimates.fast_model import (
    TERABYTES_PER_S,
    Chosen,
    Step,
    choose_setting,
    estimate_fast_memory,
    estimate_scoring_seconds,
    estimate_seconds,
    find_reason_against,
    spread_of,
)
from launcher.estimates.memory_model import Lengths, Memory, estimate_memory, find_shape, usable_gib, whole_gib
from launcher.estimates.step_model import Steps, estimate_steps
from launcher.estimates.time_model import Rows
from launcher.instances import INSTANCES, Instance
from launcher.recipe import load_recipe, shipped_recipes

README = Path(__file__).parents[2] / "README.md"
H200 = Instance(1, "H200", 141, 256)
BENCH = re.compile(r"^\| ([^|]+) \| ([\d,.]+) \| ([\d,.]+) \|[^|]*\|[^|]*\| ([\d.]+) \| `([^`]+)` \|$", re.M)
JOB = re.compile(r"^\| ([\w.-]+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \|$", re.M)
EVALUATION = re.compile(r"^\| [^|]+ \| ([\d.]+) \| [\d.]+ \| [\d.]+, [\d.]+ \| [\d.]+ \| (.+) \|$", re.M)
MODELS = {
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "gemma-2b": "google/gemma-2b-it",
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    config: TrainConfig
    step: Step
    fullest: Step  # of the run: what the container chose its setting for
    seconds: float
    peak_gib: float
    usable: float


def bench() -> dict[str, Measured]:
    """The table of steps; each row's command says what was run (tests/bench/training.py)."""
    found = {}
    for _, milliseconds, _, peak, command in BENCH.findall(README.read_text(encoding="utf-8")):
        model = re.search(r"--model (\S+)", command)
        config = TrainConfig(model_name_or_path=MODELS[model[1] if model else "qwen2.5-1.5b"], max_length=2048)
        cap = re.search(r"--cap-gib (\d+)", command)
        lengths = [2048] * 8 if "--rows long" in command else draw_lengths("--equal" in command)
        steps = [lengths[start : start + 8] for start in range(0, len(lengths), 8)]
        found[command] = Measured(
            config,
            Step(sum(lengths) / len(steps), 8, sum(lengths) / len(lengths)),
            Step(max(map(sum, steps)), 8, max(lengths)),
            float(milliseconds.replace(",", "")) / 1e3,
            float(peak),
            float(cap[1]) if cap else usable_gib(H200),
        )
    return found


def draw_lengths(short: bool) -> list[int]:
    """As the benchmark draws them."""
    source = random.Random(0)
    if short:
        return [(source.randrange(97), source.choice((1, 2, 3)), source.randint(24, 96))[2] for _ in range(8 * 64)]
    return [max(32, min(1024, int(source.lognormvariate(5.3, 0.6)))) for _ in range(8 * 64)]


def jobs() -> dict[str, Measured]:
    """The recipes as jobs."""
    found = {}
    for name, peak, per_second, tokens in JOB.findall(README.read_text(encoding="utf-8")):
        config = load_recipe(name).config
        in_step = float(tokens.replace(",", "")) / float(per_second)
        rows = config.effective_batch_size
        full = Step(rows * config.max_length, rows, config.max_length)
        average = Step(in_step, rows, in_step / rows)
        found[name] = Measured(config, average, full, 1 / float(per_second), float(peak), usable_gib(H200))
    return found


def architecture(config: TrainConfig) -> dict[str, Any]:
    found = find_architecture(config.model_name_or_path)
    assert found is not None
    return found


TABLE = bench() | jobs()


def choose(row: Measured) -> Chosen:
    return Chosen(row.fullest, choose_setting(find_shape(row.config, None), row.config, row.fullest, row.usable))


def seconds_of(row: Measured, gpu: str = "H200") -> float:
    setting = choose(row).setting
    assert setting is not None
    return estimate_seconds(find_shape(row.config, None), row.config, row.step, setting, gpu)


def memory_of(row: Measured) -> Memory:
    shape = find_shape(row.config, None)
    plain = estimate_memory(shape, row.config, Lengths(row.config.max_length, row.config.max_length))
    return estimate_fast_memory(shape, row.config, choose(row), choose(row), None, plain, row.usable)


def test_the_tables_are_there() -> None:
    assert len(bench()) == 7
    assert sorted(jobs()) == sorted(shipped_recipes())
    assert not any(find_reason_against(row.config, architecture(row.config), "H200", 1) for row in TABLE.values())


@pytest.mark.parametrize("name", bench())
def test_the_fit_meets_each_step_that_it_was_made_from_within_ten_percent(name: str) -> None:
    """Of time. What the model says of a step that it has not seen is the next tests'."""
    assert seconds_of(TABLE[name]) == pytest.approx(TABLE[name].seconds, rel=0.1)


@pytest.mark.parametrize("name", jobs())
def test_the_time_of_the_recipes_is_met_within_ten_percent(name: str) -> None:
    """But for their 8-bit optimizers, they were not fitted to."""
    seconds, measured = seconds_of(TABLE[name]), TABLE[name].seconds
    assert seconds == pytest.approx(measured, rel=0.1)
    assert seconds / spread_of("H200") < measured < seconds * spread_of("H200")


def test_the_time_of_a_packed_evaluation_is_met_within_ten_percent() -> None:
    found = EVALUATION.findall(README.read_text(encoding="utf-8"))
    assert len(found) == 2
    for seconds, options in found:
        model = re.search(r"--model ([\w.-]+)", options)
        config = TrainConfig(model_name_or_path=MODELS[model[1] if model else "qwen2.5-1.5b"])
        estimated = estimate_scoring_seconds(find_shape(config, None), config, 512, 123_346 / 512, "H200")
        assert estimated == pytest.approx(float(seconds), rel=0.1)


@pytest.mark.parametrize("unseen", MODELS.values())
def test_a_model_left_out_of_the_fit_is_met_within_thirteen_percent(
    monkeypatch: pytest.MonkeyPatch, unseen: str
) -> None:
    """The two coefficients that all rows share; what one row alone tells of 4-bit unpacking and 8 bits stays."""
    rows = list(bench().values())
    parts = []
    for traffic, layer_s in ((0, 0), (1, 0), (0, 1)):
        monkeypatch.setattr(fast_model, "TRAFFIC", traffic)
        monkeypatch.setattr(fast_model, "LAYER_S", layer_s)
        parts.append(np.array([seconds_of(row) / row.seconds for row in rows]))
    rest, per_traffic, per_layer = parts[0], parts[1] - parts[0], parts[2] - parts[0]
    known = np.array([row.config.model_name_or_path != unseen for row in rows])
    weights = np.column_stack([per_traffic, per_layer])
    fitted, *_ = np.linalg.lstsq(weights[known], (1 - rest)[known], rcond=None)
    assert 1 <= sum(~known) <= 3
    assert (rest + weights @ fitted)[~known] == pytest.approx(1, abs=0.13)


@pytest.mark.parametrize("name", TABLE)
def test_a_measured_peak_is_met_within_ten_percent(name: str) -> None:
    """The container's estimate is arithmetic, with something to spare; but it was made knowing these figures."""
    row, memory = TABLE[name], memory_of(TABLE[name])
    assert memory.peak == pytest.approx(row.peak_gib, rel=0.1)
    assert memory.low < row.peak_gib < memory.high


def test_the_way_is_the_one_that_the_container_took() -> None:
    held = "--steps 20 --model llama2-7b --ways ours --rows long --cap-gib 24"
    ways = {name: choose(row).setting for name, row in TABLE.items()}
    assert ways.pop(held) == Setting(4096, resident=False, checkpointing=False)
    assert all(way and way.resident and not way.checkpointing for way in ways.values())


@pytest.mark.parametrize(
    ("gpu", "processes", "settings", "words"),
    [
        ("A10G", 1, {}, ""),
        ("A10G", 1, {"fast_step": "off"}, "fast_step = off"),
        ("A10G", 4, {}, "several processes"),
        ("T4", 1, {}, "older than Ampere"),
        ("T4", 1, {"compute_dtype": "float16"}, "older than Ampere"),
        ("A10G", 1, {"compute_dtype": "float16"}, ""),
        ("A10G", 1, {"compute_dtype": "float32"}, "the arithmetic is float32"),
        ("A10G", 1, {"lora_bias": "all"}, "biases are trained"),
        ("A10G", 1, {"lora_r": 256}, "a rank of 256"),
        ("A10G", 1, {"lora_target_modules": "q_proj,lm_head"}, "other modules"),
    ],
)
def test_a_plan_knows_when_a_job_takes_the_plain_path(
    gpu: str, processes: int, settings: dict[str, Any], words: str
) -> None:
    config = TrainConfig(**settings)
    reason = find_reason_against(config, architecture(config), gpu, processes)
    assert words in reason and bool(words) == bool(reason)
    assert find_reason_against(config, {"model_type": "phi9"}, gpu, processes)


def steps_on(instance: str, rows: Rows, evaluation: Rows | None = None, processes: int = 1, **settings: Any) -> Steps:
    config = TrainConfig(**settings)
    return estimate_steps(config, architecture(config), rows, evaluation, INSTANCES[instance], processes)


def test_what_the_fast_step_can_run_is_not_refused() -> None:
    """Every known model, short and long rows, few and many, on every GPU that has its speed known."""
    tried = itertools.product(KNOWN, (256, 2048, 32768), (1, 32), ("ml.g5.xlarge", "ml.g6e.xlarge"), (True, False))
    fast = plain = 0
    for model, length, rows, instance, in_4bit in tried:
        config = TrainConfig(
            model_name_or_path=model, max_length=length, per_device_train_batch_size=rows, load_in_4bit=in_4bit
        )
        found = estimate_steps(config, architecture(config), Rows(64, length, length), None, INSTANCES[instance], 1)
        full = Step(config.effective_batch_size * length, config.effective_batch_size, length)
        if choose_setting(find_shape(config, None), config, full, usable_gib(INSTANCES[instance])):
            fast += 1
            assert found.way.startswith("fast: ")
            assert found.memory.least <= found.memory.enough <= usable_gib(INSTANCES[instance])
            assert found.memory.high <= whole_gib(INSTANCES[instance])
        else:
            plain += 1
            assert found.way.startswith("plain")
    assert fast > 150 and plain > 5


def test_the_home_case_fits_and_takes_little_at_its_smallest() -> None:
    rows = Rows(500, 2048, 2048)
    home = steps_on("ml.g5.xlarge", rows, model_name_or_path="meta-llama/Llama-2-7b-hf", max_length=2048)
    assert home.memory.high <= usable_gib(INSTANCES["ml.g5.xlarge"])
    assert steps_on("ml.g5.xlarge", rows, max_length=1024).memory.enough < 6


def test_what_fits_nowhere_on_a_gpu_is_known_before_it_is_billed() -> None:
    whole = {"model_name_or_path": "meta-llama/Llama-2-7b-hf", "load_in_4bit": False, "compute_dtype": "float32"}
    assert steps_on("ml.g5.xlarge", Rows(500, 100, 100), **whole).memory.least > whole_gib(INSTANCES["ml.g5.xlarge"])
    unpacked = {**whole, "compute_dtype": "bfloat16"}
    assert steps_on("ml.g5.xlarge", Rows(500, 100, 100), **unpacked).memory.least < 22


def test_a_slower_gpu_takes_longer_and_the_fast_step_is_the_faster_one() -> None:
    rows = Rows(500, 241, 241)
    by_gpu = {gpu: seconds_of(TABLE["--steps 40 --ways ours trl"], gpu) for gpu in TERABYTES_PER_S}
    assert sorted(by_gpu, key=lambda gpu: by_gpu[gpu]) == ["H200", "H100", "A100", "L40S", "A10G", "L4"]
    fast, plain = (steps_on("ml.g5.xlarge", rows, fast_step=way) for way in ("auto", "off"))
    assert fast.duration and plain.duration
    assert fast.duration.low < by_gpu["A10G"] < fast.duration.high < plain.duration.high
    assert "measured on an H200, scaled to the A10G's" in fast.basis
    # the seed's 0.65 s there, and arithmetic that nothing can do in less than 0.17 s
    assert 0.17 < by_gpu["A10G"] < 0.65


def test_padding_is_for_the_plain_path_alone() -> None:
    rows = Rows(500, 100, 100)
    for way in ("auto", "off"):
        padded, packed = (
            steps_on("ml.g5.xlarge", rows, fast_step=way, padding=padding).duration
            for padding in ("max_length", "longest")
        )
        assert padded and packed
        assert (padded.low > packed.low) == (way == "off")


@pytest.mark.parametrize(
    ("instance", "settings", "words"),
    [
        ("ml.p5.48xlarge", {}, "; one ml.p5.4xlarge, with a single H100, takes the fast step"),
        ("ml.g5.12xlarge", {}, "; one ml.g5.xlarge, with a single A10G, takes the fast step"),
        ("ml.g5.2xlarge", {}, "; one ml.g5.xlarge, with a single A10G, takes the fast step"),
        ("ml.p5en.48xlarge", {}, ""),  # no type has one of them
        ("ml.p4de.24xlarge", {}, ""),
        ("ml.g4dn.12xlarge", {}, ""),  # float16, on one of them too
        ("ml.g5.12xlarge", {"max_length": 131_072}, ""),  # no packed row fits
    ],
)
def test_where_several_gpus_alone_make_the_path_plain_a_type_with_one_is_named(
    instance: str, settings: dict[str, Any], words: str
) -> None:
    rows = Rows(500, 300, 700)
    found = steps_on(instance, rows, processes=4, model_name_or_path="Qwen/Qwen2.5-7B", **settings)
    assert found.way == f"plain, since several processes share a step{words}"


def test_an_unknown_gpu_has_a_way_and_its_memory_but_no_time() -> None:
    config = TrainConfig()
    found = estimate_steps(config, architecture(config), Rows(500, 100, 200), None, None, 1)
    assert found.way.startswith("fast: ") and found.duration is None
    assert found.memory.peak > 10


def test_rows_too_long_for_a_packed_row_may_take_the_plain_path() -> None:
    long = {"model_name_or_path": "Qwen/Qwen2.5-7B", "max_length": 131_072}
    found = steps_on("ml.g5.xlarge", Rows(500, 300, 700), **long)
    assert found.way.startswith("fast: ") and "plain where rows are too long" in found.way
    assert found.duration and found.duration.low < found.duration.high
    assert found.memory.least < 22
    assert steps_on("ml.g5.xlarge", Rows(500, 131_072, 131_072), **long).way == "plain, since no packed row fits"


def test_every_way_to_run_a_step_packs_whole_tiles() -> None:
    """Buckets are whole tiles: a limit that is none would be exceeded by the rows that are packed up to it."""
    ways = list(iter_settings(Load(tokens=8 * 2048 + 70, rows=8, longest=2048)))
    assert {way.tokens for way in ways} == {16_576, 8256, 4096, 2048}


def test_many_short_rows_take_more_than_a_few_long_ones_of_as_many_tokens() -> None:
    """Flash attention sums dq in float32 over 128 tokens more than each example has: 0.5 GiB of 256 rows of a 7B."""
    shape = Shape(32, 4096, 11008, heads=32, kv_heads=32, head=128, vocabulary=32_000, rank=16)
    few, many = (estimate_bytes(Setting(16_448, True, False), shape, Load(16_384, rows, 2048)) for rows in (8, 8 + 256))
    assert many - few == pytest.approx(1.03 * 256 * 128 * 32 * 128 * 4, rel=0.001)
