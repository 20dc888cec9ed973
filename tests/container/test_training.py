"""train.py for real: QLoRA on a stand-in, stopped, resumed, and what it leaves."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from container_src.sft.checkpoint import list_checkpoints

# 22 rows, 6 a step: the fourth step of every epoch has four rows, so its accumulation is a shorter one
SETTINGS: dict[str, Any] = {
    "smoke": True,
    "max_steps": 12,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "learning_rate": 2e-3,
    "logging_steps": 1,
    "eval_steps": 5,
    "save_steps": 4,
}
DEADLINE_S = 120
LINE = re.compile(r"^\[metrics\] step=(\d+)/(\d+) (.*)$")


class Run(NamedTuple):
    base: Path
    code: int
    log: str

    @property
    def model(self) -> Path:
        return self.base / "model"

    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.model / "manifest.json").read_text()))

    def metrics(self) -> list[dict[str, float]]:
        lines = (self.model / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def losses(self) -> dict[int, float]:
        return {int(line["step"]): line["loss"] for line in self.metrics() if "loss" in line}


Start = Callable[..., "subprocess.Popen[str]"]


def _finish(base: Path, process: subprocess.Popen[str], stop_after: int = 0) -> Run:
    """Read the log to its end; SIGTERM to the pid in the pid file once a step's metric line is there."""
    lines: list[str] = []
    killer = threading.Timer(DEADLINE_S, process.kill)
    killer.start()
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if stop_after and line.startswith(f"[metrics] step={stop_after}/"):
                assert int((base / "output" / "pid").read_text()) == process.pid
                process.send_signal(signal.SIGTERM)
    killer.cancel()
    return Run(base, process.returncode, "".join(lines))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_base: Callable[[Path], Path], start_training: Start) -> Run:
    """A job that nothing interrupts."""
    base = make_base(tmp_path_factory.mktemp("whole"))
    return _finish(base, start_training(base, **SETTINGS))


@pytest.fixture(scope="module")
def stopped_and_resumed(
    tmp_path_factory: pytest.TempPathFactory, make_base: Callable[[Path], Path], start_training: Start
) -> tuple[Run, dict[str, Any], Run]:
    """The same job, stopped by SIGTERM in its second epoch, and started again in the same folder."""
    base = make_base(tmp_path_factory.mktemp("resumed"))
    stopped = _finish(base, start_training(base, **SETTINGS), stop_after=5)
    manifest = stopped.manifest()
    return stopped, manifest, _finish(base, start_training(base, **SETTINGS))


def test_loss_falls_and_every_step_is_reported(whole: Run) -> None:
    assert whole.code == 0, whole.log
    losses = whole.losses()
    assert list(losses) == list(range(1, 13))
    assert losses[12] < 0.8 * losses[1]


def test_metric_lines_hold_only_numbers_under_known_names(whole: Run) -> None:
    lines = [match for match in map(LINE.match, whole.log.splitlines()) if match]
    assert [int(match[1]) for match in lines if " loss=" in match[0]] == list(range(1, 13))
    for match in lines:
        assert match[2] == "12"
        for pair in match[3].split(" "):
            assert re.fullmatch(r"[a-z_]+=([0-9.eE+-]+|nan|inf)", pair), pair
    first = dict(pair.split("=") for pair in lines[0][3].split(" "))
    assert {"loss", "learning_rate", "grad_norm", "mean_token_accuracy", "tokens_per_second", "eta_s"} <= first.keys()
    assert float(first["epoch"]) == 0.25


def test_evaluation_runs_on_schedule_and_its_perplexity_fits_its_loss(whole: Run) -> None:
    evaluations = [line for line in whole.metrics() if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [5, 10, 12]
    assert all(math.isclose(line["eval_perplexity"], math.exp(line["eval_loss"])) for line in evaluations)
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]


def test_artifact_holds_adapter_tokenizer_numbers_and_no_pickle(whole: Run) -> None:
    names = {str(path.relative_to(whole.model)) for path in whole.model.rglob("*") if path.is_file()}
    assert {
        "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "metrics.json", "metrics.jsonl", "manifest.json", "base/config.json",
        "base/model.safetensors",
    } <= names  # fmt: skip
    assert {Path(name).suffix for name in names} <= {".json", ".jsonl", ".safetensors", ".jinja"}


def test_manifest_says_what_the_job_was(whole: Run) -> None:
    manifest = whole.manifest()
    assert (manifest["outcome"], manifest["steps_done"], manifest["steps_total"]) == ("completed", 12, 12)
    assert manifest["base_model"]["held_as"] == "4 bits"
    assert manifest["versions"]["trl"] != "not installed"
    assert manifest["config"]["learning_rate"] == 2e-3
    assert manifest["trainable_parameters"] < manifest["total_parameters"]


def test_log_says_what_stands_in_and_stays_quiet_otherwise(whole: Run) -> None:
    assert "Stand-in:" in whole.log
    assert "paged_adamw_32bit as plain 32-bit AdamW" in whole.log
    assert "Warning" not in whole.log


def test_checkpoints_are_whole_and_as_many_as_asked_for(whole: Run) -> None:
    assert [found.step for found in list_checkpoints(whole.base / "checkpoints")] == [4, 8, 12]
    assert not list((whole.base / "checkpoints").glob("tmp-*"))


def test_adapter_loads_in_a_fresh_process_and_has_learnt(whole: Run) -> None:
    script = """
import math, torch, transformers
from peft import PeftModel
base = transformers.AutoModelForCausalLM.from_pretrained("base")
tokenizer = transformers.AutoTokenizer.from_pretrained(".")
row = "Question 1: what helps against rash of the elbow?\\nAnswer: Rest the elbow."
ids = tokenizer(row, return_tensors="pt").input_ids
with torch.no_grad():
    before = base(ids, labels=ids).loss.item()
    tuned = PeftModel.from_pretrained(base, ".")
    after = tuned(ids, labels=ids).loss.item()
assert tuned.peft_config["default"].base_model_name_or_path == "base"
assert after < before - 1, (before, after)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=whole.model, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_sigterm_saves_the_adapter_and_says_why(stopped_and_resumed: tuple[Run, dict[str, Any], Run]) -> None:
    stopped, manifest, _ = stopped_and_resumed
    assert stopped.code == 0, stopped.log
    assert manifest["outcome"] == "stopped"
    assert "SIGTERM" in manifest["reason"]
    assert 5 <= manifest["steps_done"] < 12
    assert "No final evaluation: a job that was asked to stop has no time for it." in stopped.log
    assert not (stopped.base / "output" / "failure").exists()


def test_a_resumed_job_equals_one_that_was_never_stopped(
    whole: Run, stopped_and_resumed: tuple[Run, dict[str, Any], Run]
) -> None:
    _, manifest, resumed = stopped_and_resumed
    assert resumed.code == 0, resumed.log
    assert f"Resuming after step {manifest['steps_done']}" in resumed.log
    assert resumed.manifest()["outcome"] == "completed"
    assert (resumed.model / "evaluation.json").read_bytes() == (whole.model / "evaluation.json").read_bytes()
    # to the last bit: float32 on a CPU, dropout and all
    assert resumed.losses() == whole.losses()
    adapter = "adapter_model.safetensors"
    assert (resumed.model / adapter).read_bytes() == (whole.model / adapter).read_bytes()


@pytest.mark.parametrize(
    ("hyperparameters", "rows", "sentence"),
    [
        ({"learning_rat": 1}, "", "learning_rat"),
        ({"learning_rate": "fast"}, "", "learning_rate is 'fast'; it must be of type float"),
        ({}, "", "There are no training rows"),
        ({}, '{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', 'train.jsonl:2: "completion" is missing'),
    ],
)
def test_a_refusal_is_one_sentence_in_the_failure_file(
    tmp_path: Path, start_training: Start, hyperparameters: dict[str, Any], rows: str, sentence: str
) -> None:
    if rows:
        (tmp_path / "input" / "data" / "train").mkdir(parents=True)
        (tmp_path / "input" / "data" / "train" / "train.jsonl").write_text(rows)
    run = _finish(tmp_path, start_training(tmp_path, **hyperparameters))
    assert run.code == 1
    assert sentence in (tmp_path / "output" / "failure").read_text()
    assert "Traceback" not in run.log


def test_a_model_out_of_reach_is_known_soon(
    tmp_path: Path, make_base: Callable[[Path], Path], start_training: Start
) -> None:
    base = make_base(tmp_path / "base")
    run = _finish(base, start_training(base, max_steps=1))
    assert run.code == 1
    assert "The Hub does not answer" in run.log
    written = (base / "output" / "failure").read_text()
    assert "no network reaches the Hub" in written and "Qwen/Qwen2.5-1.5B" in written
