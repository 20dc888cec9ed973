"""The memory model against what was measured, and what it says of models it does not know."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from container_src.sft.architectures import KNOWN, count_parameters
from container_src.sft.config import TrainConfig
from launcher.estimates.memory_model import Lengths, UnknownShape, estimate_memory, find_shape, make_shape
from launcher.estimates.time_model import Rows, estimate_step
from launcher.recipe import load_recipe

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(
    r"^\| ([\w.-]+)(, `--dtype (\w+)`)? \| ([\d,]+) of ([\d,]+) \|.*\| \d+x\d+x\d+ \| ([\d.]+) \| ([\d.]+) \|$", re.M
)


@dataclasses.dataclass(frozen=True)
class Measured:
    config: TrainConfig
    trainable: int
    parameters: int
    peak_gib: float
    steps_per_second: float


def measured() -> dict[str, Measured]:
    """The GPU table of the README."""
    table = {}
    for name, _, dtype, trainable, total, peak, speed in ROW.findall(README.read_text(encoding="utf-8")):
        config = load_recipe(name).config
        config = dataclasses.replace(config, compute_dtype=dtype) if dtype else config
        counts = (int(number.replace(",", "")) for number in (trainable, total))
        table[f"{name} {dtype}".strip()] = Measured(config, *counts, float(peak), float(speed))
    return table


TABLE = measured()


def test_the_table_is_there() -> None:
    assert len(TABLE) == 8


@pytest.mark.parametrize("name", TABLE)
def test_the_peak_is_within_six_percent_of_the_measured_one(name: str) -> None:
    config = TABLE[name].config
    rows = Lengths(config.max_length, config.max_length)
    memory = estimate_memory(find_shape(config, None), config, rows, rows)
    assert memory.peak == pytest.approx(TABLE[name].peak_gib, rel=0.06)
    assert memory.low < TABLE[name].peak_gib < memory.high


@pytest.mark.parametrize("name", TABLE)
def test_parameters_are_counted_exactly(name: str) -> None:
    shape, row = find_shape(TABLE[name].config, None), TABLE[name]
    assert shape.adapter_parameters(row.config) == row.trainable
    # norms and biases are a thousandth, and stay out of the model
    assert shape.parameters + row.trainable == pytest.approx(row.parameters, rel=0.001)


@pytest.mark.parametrize("name", TABLE)
def test_a_measured_step_lies_within_the_range_of_time(name: str) -> None:
    config = TABLE[name].config
    rows = Rows(256, 0.8 * config.max_length, config.max_length)
    step = estimate_step(find_shape(config, None), config, rows, "H200")
    assert step.low < 1 / TABLE[name].steps_per_second < step.high


def test_the_seed_on_an_a10g_lies_within_the_range_of_time() -> None:
    """8 rows of 241 tokens a step took 0.65 s there."""
    config = load_recipe("qwen2.5-1.5b-medical").config
    step = estimate_step(find_shape(config, None), config, Rows(256, 241, 241), "A10G")
    assert step.low < 0.65 < step.high


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_model_has_a_shape(name: str) -> None:
    assert make_shape(KNOWN[name]).parameters == pytest.approx(count_parameters(KNOWN[name]), rel=0.001)


def test_what_saves_memory_lowers_the_estimate() -> None:
    plain = dataclasses.replace(TrainConfig(), load_in_4bit=False)
    shape = find_shape(plain, None)

    def peak(**changes: object) -> float:
        return estimate_memory(shape, dataclasses.replace(plain, **changes), Lengths(1024, 1024)).peak  # type: ignore[arg-type]

    base = peak()
    for change in (
        {"load_in_4bit": True},
        {"gradient_checkpointing": True},
        {"per_device_train_batch_size": 1},
        {"lora_target_modules": "q_proj,v_proj"},
        {"optim": "adamw_8bit"},
        {"lora_r": 4},
    ):
        assert peak(**change) < base, change
    assert peak(compute_dtype="float32") > base
    assert peak(load_in_4bit=True) < peak(load_in_4bit=True, bnb_4bit_use_double_quant=False)


def test_short_rows_lower_the_low_end_alone() -> None:
    config = TrainConfig()
    shape = find_shape(config, None)
    full, short = (estimate_memory(shape, config, Lengths(1024, surely)) for surely in (1024, 100))
    assert short.low < full.low
    assert (short.peak, short.high) == (full.peak, full.high)


def test_one_process_steps_down_and_several_cannot() -> None:
    config = TrainConfig(per_device_train_batch_size=16)
    shape, rows = find_shape(config, None), Lengths(1024, 1024)
    alone, together = (estimate_memory(shape, config, rows, processes=count) for count in (1, 4))
    assert (alone.low, alone.high) == (together.low, together.high) == (together.least, together.enough)
    one = dataclasses.replace(config, per_device_train_batch_size=1, gradient_checkpointing=True)
    smallest = estimate_memory(shape, one, rows)
    assert (alone.least, alone.enough) == (smallest.low, smallest.high)
    assert alone.enough < alone.low / 5


def test_an_evaluation_of_many_rows_at_once_takes_what_its_logits_take() -> None:
    config = TrainConfig(gradient_checkpointing=True, per_device_eval_batch_size=16)
    shape, rows = find_shape(config, None), Lengths(1024, 500)
    without, with_one = (estimate_memory(shape, config, rows, scored) for scored in (None, rows))
    logits = 16 * 1024 * 151_936 * 8 / 2**30
    assert logits < with_one.peak < logits + 2 and without.peak < logits
    assert with_one.high > logits


def test_one_process_evaluates_fewer_rows_at_once_and_several_cannot() -> None:
    config = TrainConfig(gradient_checkpointing=True, per_device_eval_batch_size=16)
    shape, rows = find_shape(config, None), Lengths(1024, 500)
    alone, several = (estimate_memory(shape, config, rows, rows, processes=count) for count in (1, 4))
    one = estimate_memory(shape, dataclasses.replace(config, per_device_eval_batch_size=1), rows, rows)
    assert (alone.least, alone.enough, alone.scored) == (one.least, one.enough, one.scored)
    assert several.least > 2 * alone.least and several.scored > 2 * alone.scored


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "not a model's config"),
        ("{}", "hidden_size"),
        (json.dumps({**KNOWN["Qwen/Qwen2.5-1.5B"], "num_hidden_layers": 0}), "num_hidden_layers"),
        (json.dumps({**KNOWN["Qwen/Qwen2.5-1.5B"], "vocab_size": "many"}), "vocab_size"),
        (json.dumps({**KNOWN["Qwen/Qwen2.5-1.5B"], "num_experts": 8}), "experts"),
    ],
)
def test_a_folder_whose_config_does_not_say_it_is_unknown(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UnknownShape, match=words):
        find_shape(TrainConfig(), tmp_path)


def test_a_folder_s_config_wins_and_a_picture_model_s_decoder_is_found(tmp_path: Path) -> None:
    small = {**KNOWN["Qwen/Qwen2.5-1.5B"], "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": small, "vision_config": {}}))
    assert find_shape(TrainConfig(), tmp_path).layers == 3


def test_an_unheard_of_model_is_said_to_be_unknown() -> None:
    with pytest.raises(UnknownShape, match="nobody/nothing"):
        find_shape(TrainConfig(model_name_or_path="nobody/nothing"), None)
