"""Metric lines: printed, kept in metrics.jsonl, and after a resume put into TensorBoard's files again."""

# the class here inherits from what is heavy to import; trainer.py is its only user
from __future__ import annotations

import copy
import math
from typing import Any

import transformers  # noqa: TID253

from .curves import find_explosion, find_notes
from .failure import JobError
from .log import MetricsFile, metric_line, say
from .steps import Schedule

METRIC_ORDER = (
    "epoch", "loss", "learning_rate", "grad_norm", "mean_token_accuracy", "tokens_per_second", "samples_per_second",
    "steps_per_second", "eta_s", "eval_loss", "eval_perplexity", "eval_mean_token_accuracy", "eval_tokens",
)  # fmt: skip


class MetricLines(transformers.TrainerCallback):
    """Prints and keeps what the trainer logs; ends the job when the loss is no longer a number or explodes."""

    def __init__(self, schedule: Schedule, file: MetricsFile, board: Any = None) -> None:
        self._schedule = schedule
        self._file = file
        self._board = board
        self._noted: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._file.start(_select(line) for line in state.log_history if _is_metric(line))
        if self._board is not None:
            _replay(self._board, args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or not _is_metric(logs):
            return
        values = _select({**logs, "step": state.global_step})
        self._file.append(values)
        del values["step"]
        say(metric_line(state.global_step, self._schedule.total, values))
        _check_finite(values, state.global_step)
        for note in find_notes(state.log_history):
            if note.kind not in self._noted:
                self._noted.add(note.kind)
                say(f"[health] {note.text}")
        if explosion := find_explosion(state.log_history):
            raise JobError(explosion)


def _replay(board: Any, args: Any, state: Any, control: Any) -> None:
    """What was logged before the checkpoint, as if it were logged now: the files of that attempt are gone."""
    for line in state.log_history:
        then = copy.copy(state)
        then.global_step = line["step"]
        board.on_log(args, then, control, logs={name: value for name, value in line.items() if name != "step"})


def _is_metric(logs: dict[str, float]) -> bool:
    return "loss" in logs or "eval_loss" in logs


def _select(logs: dict[str, float]) -> dict[str, float]:
    return {name: logs[name] for name in ("step", *METRIC_ORDER) if name in logs}


def _check_finite(values: dict[str, float], step: int) -> None:
    for name in ("loss", "eval_loss"):
        if not math.isfinite(values.get(name, 0.0)):
            raise JobError(
                f"The {name} became {values[name]} at step {step}, so training on is of no use. Lower learning_rate or "
                "max_grad_norm, add warmup_steps, or use bfloat16 instead of float16, and submit with --fresh."
            )
