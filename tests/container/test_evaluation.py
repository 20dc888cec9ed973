"""Base against tuned: the intervals, the verdict, and what a job leaves of it."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from container_src.sft.artifact import write_json
from container_src.sft.champion import make_placeholder
from container_src.sft.comparison import compare
from container_src.sft.evaluate import RowScores
from container_src.sft.final_evaluation import find_broken_result

SETTINGS: dict[str, Any] = {"smoke": True, "max_length": 64, "max_steps": 9, "logging_steps": 3, "eval_steps": 3}


def _scores(losses: list[float], tokens: int = 10) -> RowScores:
    return RowScores([loss * tokens for loss in losses], [tokens // 2] * len(losses), [tokens] * len(losses))


def _spread(count: int, around: float, seed: int) -> list[float]:
    source = random.Random(seed)
    return [around + source.gauss(0, 0.3) for _ in range(count)]


@pytest.mark.parametrize(
    ("shift", "verdict", "words"),
    [
        (-0.2, "better", "Tuning lowered the loss from"),
        (0.2, "worse", "Tuning raised the loss from"),
        (0.0, "no detectable change", "No detectable change of the loss from"),
    ],
)
def test_verdicts(shift: float, verdict: str, words: str) -> None:
    base = _spread(40, 2.0, seed=1)
    noise = _spread(40, 0.0, seed=2)
    mean = sum(noise) / len(noise)
    tuned = [loss + shift + (other - mean) / 10 for loss, other in zip(base, noise, strict=True)]
    found = compare(_scores(base), _scores(tuned), "test", seed=3)
    assert found["verdict"] == verdict
    assert found["sentence"].startswith(words)
    assert found["difference"]["loss"]["value"] == pytest.approx(shift, abs=1e-9)


def test_an_untouched_model_shows_no_detectable_change() -> None:
    scores = _scores(_spread(30, 2.0, seed=1))
    found = compare(scores, scores, "eval", seed=1)
    assert found["verdict"] == "no detectable change"
    assert found["difference"]["loss"] == {"value": 0, "low": 0, "high": 0}
    assert not found["chosen_by_these_rows"]


def test_a_difference_within_the_noise_of_rows_is_not_detectable() -> None:
    base, tuned = _spread(30, 2.0, seed=1), _spread(30, 1.98, seed=9)
    assert compare(_scores(base), _scores(tuned), "eval", seed=1)["verdict"] == "no detectable change"


def test_pairing_finds_what_unpaired_rows_would_hide() -> None:
    """Rows differ by 1.0 among each other, but each one falls by about 0.05."""
    base = [1.0 + row % 5 * 0.5 for row in range(20)]
    tuned = [loss - 0.05 - row % 3 * 0.01 for row, loss in enumerate(base)]
    found = compare(_scores(base), _scores(tuned), "eval", seed=1)
    assert found["verdict"] == "better"
    assert found["base"]["loss"]["low"] < found["tuned"]["loss"]["value"]  # the intervals themselves overlap


@pytest.mark.parametrize(("rows", "verdict"), [(5, "too few rows"), (14, "too few rows"), (15, "better")])
def test_a_few_rows_tell_nothing(rows: int, verdict: str) -> None:
    found = compare(_scores([2.0] * rows), _scores([1.0] * rows), "eval", seed=1)
    assert found["verdict"] == verdict
    assert found["sentence"].startswith("Too few rows to tell (15 or more") == (verdict == "too few rows")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (("tuned",), "(base 2, tuned not a number)"),
        (("base",), "(base not a number, tuned 2)"),
        (("base", "tuned"), "(base not a number, tuned not a number)"),
    ],
)
def test_a_loss_that_is_not_a_number_is_a_verdict_of_its_own(broken: tuple[str, ...], words: str) -> None:
    rows = {who: _scores([2.0] * 19 + [math.nan if who in broken else 2.0]) for who in ("base", "tuned")}
    found = compare(rows["base"], rows["tuned"], "eval", seed=1)
    assert found["verdict"] == "not a number"
    assert words in found["sentence"]
    assert bool(find_broken_result(found)) == ("tuned" in broken)


def test_an_infinite_perplexity_is_null_and_said(tmp_path: Path) -> None:
    found = compare(_scores([2.0] * 20), _scores([800.0] * 20), "eval", seed=1)
    assert "perplexity 7.389 to infinite" in found["sentence"]
    write_json(tmp_path / "evaluation.json", found)
    read = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert read["tuned"]["perplexity"] == {"value": None, "low": None, "high": None}
    assert read["tuned"]["loss"]["value"] == 800


def test_a_verdict_by_the_rows_that_chose_the_checkpoint_says_so() -> None:
    rows = _scores(_spread(30, 2.0, seed=1))
    found = compare(rows, rows, "eval", seed=1, chosen_by_rows=True)
    assert found["chosen_by_these_rows"]
    assert found["sentence"].endswith(
        "These rows also chose the best checkpoint, which flatters it; a test channel would not."
    )


def test_rows_that_nearly_all_stay_alike_tell_nothing() -> None:
    """One row of twenty got better: resamples without it have no spread at all."""
    found = compare(_scores([2.0] * 20), _scores([2.0] * 19 + [1.0]), "eval", seed=1)
    assert found["verdict"] == "no detectable change"
    assert -1 < found["difference"]["loss"]["low"] < found["difference"]["loss"]["high"] < 1


def test_losses_are_over_tokens_and_intervals_hang_on_the_seed_alone() -> None:
    base = RowScores([10.0, 1.0, 2.0, 3.0, 4.0], [1.0] * 5, [2, 1, 1, 1, 5])
    first, again, other = (compare(base, base, "eval", seed) for seed in (1, 1, 2))
    assert first["base"]["loss"]["value"] == 2.0
    assert first["base"]["token_accuracy"]["value"] == 0.5
    assert first["base"]["loss"]["low"] < 2.0 < first["base"]["loss"]["high"]
    assert first == again
    assert first["base"]["loss"]["high"] != other["base"]["loss"]["high"]


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for trial in range(60):
        scores = _scores(_spread(40, 2.0, seed=trial))
        low, high = (compare(scores, scores, "eval", seed=trial)["base"]["loss"][name] for name in ("low", "high"))
        covered += low <= 2.0 <= high
    assert covered >= 51  # 95 % of 60 is 57; fewer than 51 of them happens by chance once in a thousand


def test_intervals_of_a_few_skewed_rows_are_not_too_narrow() -> None:
    """Rows of very unlike loss and length: percentiles of a plain bootstrap cover the truth in 75 of these cases."""
    covered = 0
    for trial in range(100):
        source = random.Random(trial)
        tokens = [round(source.lognormvariate(3, 0.8)) + 1 for _ in range(15)]
        scores = RowScores([source.lognormvariate(0, 1) * count for count in tokens], [1.0] * 15, tokens)
        found = compare(scores, scores, "eval", seed=trial)["base"]["loss"]
        covered += found["low"] <= math.exp(0.5) <= found["high"]
    assert covered >= 84


@pytest.fixture(scope="module")
def bases(
    tmp_path_factory: pytest.TempPathFactory,
    make_base: Callable[..., Path],
    train_together: Callable[..., str],
) -> dict[str, Path]:
    """Jobs whose end differs; "continued" begins from the adapter of "learns"."""
    names = ("untouched", "learns", "best", "continued", "timed", "overflows", "blind")
    found = {name: make_base(tmp_path_factory.mktemp("ends"), evaluated=16) for name in names}
    shutil.rmtree(found["blind"] / "input" / "data" / "eval")
    champion = found["overflows"] / "input" / "data" / "champion"
    champion.mkdir()
    (champion / "champion.json").write_text(json.dumps(make_placeholder("s3://bucket/none/", "s3://bucket/pointer")))
    learns = {**SETTINGS, "learning_rate": 5e-3}
    logs = train_together(
        {
            # an adapter's second matrix starts at zero, and at this rate float32 logits do not move
            found["untouched"]: {**SETTINGS, "learning_rate": 1e-30},
            found["learns"]: learns,
            # far too fast: after a first fall the eval loss only rises
            found["best"]: {
                **SETTINGS,
                "learning_rate": 3e-2,
                "max_steps": 60,
                "eval_steps": 1,
                "lr_scheduler_type": "constant",
                "load_best_model_at_end": True,
                "early_stopping_patience": 3,
                "adapter_folder": "lora_adapters",
                "report_to": "tensorboard",
            },
            found["continued"]: {
                **learns,
                "adapter_path": found["learns"] / "model",
                "adapter_source": "runs/learns",
            },
            # its margin is 5 s, so it has 4 of them
            found["timed"]: {**SETTINGS, "max_steps": 100_000, "logging_steps": 10_000, "max_runtime_s": 9},
            # its one step is logged with the loss before it, and no evaluation follows until the last
            found["overflows"]: {
                **SETTINGS,
                "max_steps": 1,
                "learning_rate": 1e30,
                "max_grad_norm": 1e30,
                "eval_strategy": "no",
                "promote": "if-better",
            },
            found["blind"]: {**SETTINGS, "load_best_model_at_end": True, "early_stopping_patience": 3},
        }
    )
    (found["untouched"] / "log").write_text(logs)
    return found


def _read(base: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((base / "model" / name).read_text()))


def test_an_untouched_adapter_says_so(bases: dict[str, Path]) -> None:
    found = _read(bases["untouched"], "evaluation.json")
    assert found["verdict"] == "no detectable change"
    assert found["difference"]["loss"]["value"] == 0
    assert "Evaluation: No detectable change of the loss" in (bases["untouched"] / "log").read_text()


def test_a_job_that_learns_says_by_how_much(bases: dict[str, Path]) -> None:
    found, metrics = _read(bases["learns"], "evaluation.json"), _read(bases["learns"], "metrics.json")
    assert found["verdict"] == metrics["verdict"] == "better"
    assert metrics["base_loss"] == found["base"]["loss"]["value"] > metrics["eval_loss"]
    assert metrics["evaluated_on"] == "eval"
    last = [json.loads(line) for line in (bases["learns"] / "model" / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-6)


def test_the_best_by_eval_loss_is_kept_and_the_job_stops_early(bases: dict[str, Path]) -> None:
    manifest, metrics = _read(bases["best"], "manifest.json"), _read(bases["best"], "metrics.json")
    lines = [json.loads(line) for line in (bases["best"] / "model" / "metrics.jsonl").read_text().splitlines()]
    evaluations = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    best = min(evaluations, key=lambda step: evaluations[step])
    assert manifest["outcome"] == "completed"
    assert "early stopping" in manifest["reason"]
    assert manifest["steps_done"] == best + 3 < 60
    assert manifest["kept_step"] == metrics["kept_step"] == best
    # measured again with the adapter that the artifact holds
    assert metrics["eval_loss"] == pytest.approx(evaluations[best], rel=1e-5)


def test_the_verdict_says_that_its_rows_chose_the_checkpoint(bases: dict[str, Path]) -> None:
    assert "also chose the best checkpoint" in _read(bases["best"], "evaluation.json")["sentence"]
    assert "also chose" not in _read(bases["learns"], "evaluation.json")["sentence"]


def test_a_tuned_loss_that_is_no_number_fails_the_job_and_is_refused(bases: dict[str, Path]) -> None:
    base = bases["overflows"]
    assert (base / "output" / "failure").read_text().startswith("The tuned model is of no use. A loss is not a number")
    assert _read(base, "evaluation.json")["tuned"]["loss"]["value"] is None
    assert _read(base, "manifest.json")["outcome"] == "failed"
    assert json.loads((base / "checkpoints" / "outcome.json").read_text())["outcome"] == "failed"
    verdict = _read(base, "verdict.json")
    assert (verdict["decision"], verdict["better"]) == ("refused", False)
    assert "not a number" in verdict["reasons"][0]


def test_no_json_of_a_job_holds_what_is_no_json(bases: dict[str, Path]) -> None:
    written = [path for base in bases.values() for path in (base / "model").glob("*.json*")]
    assert len(written) > 20
    for path in written:
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=pytest.fail)


def test_settings_that_go_by_the_eval_loss_want_eval_rows(bases: dict[str, Path]) -> None:
    written = (bases["blind"] / "output" / "failure").read_text()
    assert written.startswith("load_best_model_at_end and early_stopping_patience go by the eval loss")
    assert "eval_data_path" in written


def test_the_adapter_lies_under_a_second_name_too(bases: dict[str, Path]) -> None:
    model = bases["best"] / "model"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (model / "lora_adapters" / name).read_bytes() == (model / name).read_bytes()


def test_the_manifest_names_the_adapter_that_was_continued(bases: dict[str, Path]) -> None:
    weights = (bases["learns"] / "model" / "adapter_model.safetensors").read_bytes()
    assert _read(bases["continued"], "manifest.json")["continued_from"] == {
        "source": "runs/learns",
        "job": "",  # no job of SageMaker's
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert _read(bases["learns"], "manifest.json")["continued_from"] == {}


def test_tensorboard_files_lie_in_the_output(bases: dict[str, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(bases["best"] / "model" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/learning_rate", "eval/loss"} <= set(events.Tags()["scalars"])


def test_a_job_stops_by_itself_before_its_time_limit(bases: dict[str, Path]) -> None:
    manifest, metrics = _read(bases["timed"], "manifest.json"), _read(bases["timed"], "metrics.json")
    assert (manifest["outcome"], manifest["reason"]) == ("stopped", "the job's time limit is near (max_runtime_s)")
    assert 0 < manifest["steps_done"] < 100_000
    assert metrics["seconds"] < 9
    assert (bases["timed"] / "model" / "adapter_model.safetensors").is_file()
    assert list((bases["timed"] / "checkpoints").glob(f"checkpoint-{manifest['steps_done']}"))


def test_the_best_adapter_survives_a_checkpoint(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from container_src.sft.architectures import KNOWN, shrink
    from container_src.sft.best import Best

    small = shrink(KNOWN["TinyLlama/TinyLlama-1.1B-Chat-v1.0"], vocabulary=64)
    model = get_peft_model(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**small)),
        LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    weight = next(value for name, value in model.named_parameters() if "lora_B" in name)
    best = Best()
    for step, loss in ((10, 2.0), (20, 1.0), (30, float("nan")), (40, 1.5)):
        torch.nn.init.constant_(weight, step)
        best.offer(step, loss, model)
    best.save(tmp_path)
    resumed = Best()
    resumed.load(tmp_path)
    assert (resumed.step, resumed.loss) == (20, 1.0)
    resumed.restore(model)
    assert weight.detach().unique().tolist() == [20]


def test_training_goes_on_from_an_earlier_adapter(bases: dict[str, Path]) -> None:
    earlier, later = (_read(bases[name], "metrics.json") for name in ("learns", "continued"))
    assert later["first_loss"] < earlier["first_loss"]
    assert later["eval_loss"] < earlier["eval_loss"]


def test_merged_and_unmerged_agree_in_a_fresh_process(bases: dict[str, Path]) -> None:
    """The base loaded in float32: 1e-4 of logits that reach about 10."""
    script = """
import torch, transformers
from peft import PeftModel
base = transformers.AutoModelForCausalLM.from_pretrained("base", torch_dtype=torch.float32)
ids = transformers.AutoTokenizer.from_pretrained(".")("Question 1: what helps?", return_tensors="pt").input_ids
with torch.no_grad():
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, ".").eval()
    unmerged = adapted(ids).logits
    merged = adapted.merge_and_unload()(ids).logits
print((merged - unmerged).abs().max().item(), (merged - plain).abs().max().item())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=bases["learns"] / "model", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    apart, learnt = map(float, done.stdout.split())
    assert apart < 1e-4 < 1e-1 < learnt
