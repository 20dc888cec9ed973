"""A job that is asked to stop while it evaluates, and what a resumed one knows of its earlier attempts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from container_src import sft
from container_src.sft.checkpoint import list_checkpoints
from container_src.sft.config import TrainConfig
from container_src.sft.costs import Costs, read_sums, write_sums
from container_src.sft.failure import JobError
from container_src.sft.job import check_same_start
from container_src.sft.meter import Meter
from container_src.sft.steps import make_schedule

TRAIN = Path(sft.__file__).parent.parent / "train.py"
# one row a batch and many of them: an evaluation that takes seconds
SETTINGS: dict[str, Any] = {
    "smoke": True,
    "max_steps": 10,
    "max_length": 64,
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "per_device_eval_batch_size": 1,
    "logging_steps": 2,
    "eval_steps": 4,
    "load_best_model_at_end": True,
    "report_to": "tensorboard",
}
# far too fast: after a first fall the eval loss only rises
EARLY: dict[str, Any] = {
    **SETTINGS,
    "max_steps": 60,
    "learning_rate": 3e-2,
    "lr_scheduler_type": "constant",
    "eval_steps": 1,
    "per_device_eval_batch_size": 4,
    "early_stopping_patience": 3,
}
DEADLINE_S = 120
ADAPTER = "adapter_model.safetensors"


class Attempt(NamedTuple):
    """What an attempt printed, and what lay in the model folder after it."""

    code: int
    log: str
    files: dict[str, bytes]

    def read(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.files[name]))

    def lines(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in self.files["metrics.jsonl"].splitlines()]


def _files(base: Path) -> dict[str, bytes]:
    model = base / "model"
    return {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}


def _attempt(base: Path, process: subprocess.Popen[str], stop_at: str) -> Attempt:
    """SIGTERM once a line begins so: an evaluation follows it at once."""
    lines: list[str] = []
    killer = threading.Timer(DEADLINE_S, process.kill)
    killer.start()
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith(stop_at):
                os.kill(int((base / "output" / "pid").read_text()), signal.SIGTERM)
    killer.cancel()
    return Attempt(process.returncode, "".join(lines), _files(base))


def _many_rows(base: Path) -> Path:
    for channel, count in (("eval", 300), ("test", 400)):
        folder = base / "input" / "data" / channel
        folder.mkdir(exist_ok=True)
        rows = [
            {"prompt": f"Question {row}: what helps?", "completion": " Rest it." * (row % 3 + 1)}
            for row in range(count)
        ]
        (folder / f"{channel}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return base


@pytest.fixture(scope="module")
def attempts(
    tmp_path_factory: pytest.TempPathFactory,
    make_base: Callable[[Path], Path],
    start_training: Callable[..., subprocess.Popen[str]],
    train_together: Callable[..., str],
) -> dict[str, Attempt]:
    """A job stopped in its first evaluation, then in its final one, then left alone; beside it one left alone."""
    folder = tmp_path_factory.mktemp("attempts")
    base, whole = _many_rows(make_base(folder / "base")), _many_rows(make_base(folder / "whole"))
    found = {
        "first": _attempt(base, start_training(base, **SETTINGS), "[metrics] step=4/10"),
        "checkpoints": Attempt(0, str([found.step for found in list_checkpoints(base / "checkpoints")]), {}),
        "second": _attempt(base, start_training(base, **SETTINGS), "Final evaluation:"),
        "outcome": Attempt(0, (base / "checkpoints" / "outcome.json").read_text(), {}),
    }
    early = make_base(folder / "early")
    (folder / "again").symlink_to(early)
    log = train_together({base: SETTINGS, whole: SETTINGS, early: EARLY, folder / "again": EARLY})
    third, alone, once, again = log.split("ends with 0\n")[:4]
    return found | {
        "third": Attempt(0, third, _files(base)),
        "whole": Attempt(0, alone, _files(whole)),
        "early": Attempt(0, once, {}),
        "again": Attempt(0, again, _files(early)),
    }


def test_sigterm_in_an_evaluation_saves_the_adapter_without_one(attempts: dict[str, Attempt]) -> None:
    first = attempts["first"]
    assert first.code == 0, first.log
    assert "The evaluation of step 4 is given up: SIGTERM received" in first.log
    manifest = first.read("manifest.json")
    assert (manifest["outcome"], manifest["steps_done"]) == ("stopped", 4)
    assert "SIGTERM" in manifest["reason"]
    assert attempts["checkpoints"].log == "[4]"
    assert ADAPTER in first.files


def test_an_evaluation_that_was_given_up_leaves_no_numbers(attempts: dict[str, Attempt]) -> None:
    first = attempts["first"]
    assert "evaluation.json" not in first.files
    assert not [name for name in first.read("metrics.json") if name.startswith("eval_")]
    assert not [line for line in first.lines() if "eval_loss" in line]


def test_sigterm_in_the_final_evaluation_leaves_the_adapter_and_says_why(attempts: dict[str, Attempt]) -> None:
    second, whole = attempts["second"], attempts["whole"]
    assert second.code == 0, second.log
    assert "The final evaluation is given up: SIGTERM received" in second.log
    manifest = second.read("manifest.json")
    assert (manifest["outcome"], manifest["steps_done"]) == ("stopped", 10)
    assert manifest["reason"].startswith("SIGTERM received")
    assert manifest["reason"].endswith("the training itself was done, an evaluation was not")
    left = json.loads(attempts["outcome"].log)
    assert (left["outcome"], left["steps"], left["steps_total"]) == ("stopped", 10, 10)
    assert left["reason"] == manifest["reason"]
    assert second.files[ADAPTER] == whole.files[ADAPTER]
    assert "evaluation.json" not in second.files
    assert "verdict" not in second.read("metrics.json")


def test_a_resumed_job_makes_up_for_what_was_given_up(attempts: dict[str, Attempt]) -> None:
    second, third, whole = (attempts[name] for name in ("second", "third", "whole"))
    assert "The evaluation of step 4 is made now" in second.log
    assert "The evaluation of step" not in third.log
    assert third.read("manifest.json")["outcome"] == "completed"
    assert third.files[ADAPTER] == whole.files[ADAPTER]
    assert third.files["evaluation.json"] == whole.files["evaluation.json"]
    kept = ("step", "loss", "mean_token_accuracy", "grad_norm", "eval_loss", "eval_tokens")
    assert [[line.get(name) for name in kept] for line in third.lines()] == [
        [line.get(name) for name in kept] for line in whole.lines()
    ]


def test_metrics_of_a_resumed_job_are_of_all_its_attempts(attempts: dict[str, Attempt]) -> None:
    first, second, third, whole = (
        attempts[name].read("metrics.json") for name in ("first", "second", "third", "whole")
    )
    assert [found["attempts"] for found in (first, second, third, whole)] == [1, 2, 3, 1]
    for name in ("tokens", "trained_tokens", "first_loss", "loss", "eval_loss", "eval_step"):
        assert third[name] == whole[name]
    for name in ("seconds", "seconds_importing"):
        assert 0 < first[name] < second[name] < third[name]
    # the third found every step done: what is left of its training can be nothing at all, in milliseconds
    assert 0 < first["seconds_training"] < second["seconds_training"] <= third["seconds_training"]
    assert first["peak_memory_gib"] <= second["peak_memory_gib"] <= third["peak_memory_gib"]


def test_tensorboard_shows_a_resumed_job_as_one_curve(attempts: dict[str, Attempt], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = []
    for name in ("third", "whole"):
        events = {path: content for path, content in attempts[name].files.items() if path.startswith("tensorboard")}
        assert len(events) == 1
        (tmp_path / name).mkdir()
        for path, content in events.items():
            (tmp_path / name / Path(path).name).write_bytes(content)
        read = EventAccumulator(str(tmp_path / name))
        read.Reload()
        curves.append({tag: [(at.step, at.value) for at in read.Scalars(tag)] for tag in ("train/loss", "eval/loss")})
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]["train/loss"]] == [1, 2, 4, 6, 8, 10]
    assert [step for step, _ in curves[0]["eval/loss"]] == [4, 8, 10]


def test_a_job_that_stopped_early_stays_so_when_it_is_submitted_again(attempts: dict[str, Attempt]) -> None:
    early, again = attempts["early"], attempts["again"]
    end = next(line for line in early.log.splitlines() if line.startswith("Outcome: completed (early stopping"))
    assert "[metrics]" not in again.log
    assert end.split(" steps,")[0] in again.log
    manifest = again.read("manifest.json")
    assert manifest["outcome"] == "completed"
    assert manifest["reason"].startswith("early stopping")
    assert again.read("metrics.json")["verdict"]


def test_two_processes_give_up_an_evaluation_together(tmp_path: Path, make_base: Callable[[Path], Path]) -> None:
    """SIGTERM reaches the first of them alone."""
    base = _many_rows(make_base(tmp_path / "two"))
    argv = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(TRAIN), *argv],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = _attempt(base, process, "[metrics] step=4/10")
    assert found.code == 0, found.log
    assert "The evaluation of step 4 is given up: SIGTERM received" in found.log
    assert [saved.step for saved in list_checkpoints(base / "checkpoints")] == [4]
    sums = read_sums(base / "checkpoints" / "checkpoint-4")
    assert sums["optimizer"] == "paged_adamw_32bit"
    # each one's share of the steps since the last metric line, of which there are none
    assert sums["meter"]["since_line"]["sums"] == [[0, 0], [0, 0]]


def test_processes_that_found_different_checkpoints_train_nothing() -> None:
    """They would wait for each other for ever, or mix the states of two steps."""
    two = SimpleNamespace(num_processes=2, device="cpu", gather=lambda mine: torch.cat([torch.tensor([100]), mine]))
    check_same_start(two, 100)
    with pytest.raises(JobError, match=r"different steps \(100, 50\), so nothing was trained. Submit it again"):
        check_same_start(two, 50)
    check_same_start(SimpleNamespace(num_processes=1), 50)


def test_processes_that_share_a_cpu_can_read_what_they_saved(tmp_path: Path) -> None:
    from container_src.sft.trainer import read_states_on_cpu

    torch.save({"weight": torch.ones(3)}, tmp_path / "optimizer.pt")
    read_states_on_cpu()
    found = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu:0"), weights_only=True)
    assert found["weight"].tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore")  # the libraries' own
def test_the_trainer_saves_before_a_long_evaluation_and_again_after_it(
    tmp_path: Path, tokenizers: dict[str, Any]
) -> None:
    from transformers import TrainerCallback

    trainer = _tiny_trainer(tmp_path, tokenizers["llama"])
    trainer.after_step.load({"evaluation_s": 601.0})  # as an earlier attempt measured it: longer than a save may wait
    saved = []

    class Watch(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            saved.append((state.global_step, any("eval_loss" in line for line in state.log_history)))

    trainer.add_callback(Watch())
    trainer.train()
    # of step 4, once without its evaluation and once with it; by then an evaluation is known to be short
    assert saved == [(4, False), (4, True), (8, True)]
    assert [found.step for found in list_checkpoints(tmp_path / "checkpoints")] == [4, 8]
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())
    assert [line["step"] for line in state["log_history"] if "eval_loss" in line] == [4]


def _tiny_trainer(folder: Path, tokenizer: Any) -> Any:
    import transformers
    from peft import LoraConfig, get_peft_model

    from container_src.sft.architectures import KNOWN, shrink
    from container_src.sft.batches import Padding
    from container_src.sft.checkpoint import Origin
    from container_src.sft.data import Encoded
    from container_src.sft.stop import Stopping
    from container_src.sft.trainer import make_trainer

    config = TrainConfig(max_steps=8, eval_steps=4, save_steps=4, optim="adamw_torch", fast_step="off")
    shape = shrink(KNOWN["TinyLlama/TinyLlama-1.1B-Chat-v1.0"], vocabulary=64)
    model = get_peft_model(
        transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**shape)),
        LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    rows = [Encoded([1, 2, 3], [1, 2, 3], False, True)] * 64
    paths: Any = SimpleNamespace(checkpoints=folder / "checkpoints", output=folder / "model")
    return make_trainer(
        model, tokenizer, Padding(0, 0), rows, rows[:4], config, make_schedule(config, len(rows), 1), paths,
        Origin("", ""), Stopping(), torch.float32,
    )  # fmt: skip


ALONE = SimpleNamespace(
    process_index=0, num_processes=1, device="cpu", reduce=lambda sums, reduction: sums, gather=lambda sums: sums
)
STEP = {"rows": 2, "tokens": 20, "trained": 10}


def _add(meter: Meter, losses: list[float]) -> None:
    for loss in losses:
        meter.add(STEP, torch.tensor(loss), torch.tensor(3))


def test_a_metric_line_across_a_resume_is_that_of_all_its_steps() -> None:
    losses = [0.1, 1.7, 0.3, 2.9]
    whole, before, after = (Meter(make_schedule(TrainConfig(max_steps=9), 100, 1)) for _ in range(3))
    _add(whole, losses)
    _add(before, losses[:3])
    after.load(json.loads(json.dumps(before.save(ALONE))), ALONE)
    _add(after, losses[3:])
    assert (after.tokens, after.trained_tokens) == (80, 40)
    ours, theirs = after.take(4, ALONE), whole.take(4, ALONE)
    # to the last bit
    assert [ours[name] for name in ("loss", "mean_token_accuracy")] == [
        theirs[name] for name in ("loss", "mean_token_accuracy")
    ]


def test_seconds_add_up_over_attempts_and_memory_does_not(tmp_path: Path) -> None:
    now = [100.0]

    def attempt(seconds: float, peak: float, earlier: dict[str, float]) -> dict[str, float]:
        costs = Costs(lambda: peak, clock=lambda: now[0])
        costs.load(earlier)
        now[0] += 2
        with costs.phase("loading"):
            now[0] += 1
        words = "First step done after 3.0 s: importing 0.0, encoding 0.0, loading 1.0, the rest 2.0."
        assert [costs.note_first_step() for _ in range(2)] == [words, ""]
        with costs.phase("training"):
            now[0] += seconds
            return costs.sums()  # as a checkpoint does, in the middle of it

    first = attempt(10, 3.5, {})
    assert first["seconds_training"] == 10 and first["seconds"] == 13
    write_sums(tmp_path, {"costs": first})
    second = attempt(5, 2.5, read_sums(tmp_path)["costs"])
    assert (second["seconds_training"], second["seconds_to_first_step"], second["seconds"]) == (15, 6, 21)
    assert (second["attempts"], second["peak_memory_gib"]) == (2, 3.5)
    assert read_sums(tmp_path / "of an earlier version") == {}
