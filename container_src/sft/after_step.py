"""What follows a step: a metric line, an evaluation, a checkpoint, the end."""

# the class here inherits from what is heavy to import; trainer.py is its only user
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import transformers  # noqa: TID253

from .curves import evaluations_without_gain
from .steps import Schedule
from .stop import ANOTHER, Stopping, agree

# a save at least this often, so that a lost machine never costs more
SAVE_AT_LEAST_EVERY_S = 600.0
# an evaluation that was never timed may be long: with more than a minute's steps unsaved, a save goes before it
UNTIMED_EVALUATION_S = SAVE_AT_LEAST_EVERY_S - 60.0


class AfterStep(transformers.TrainerCallback):
    """Decides after every step whether to log, evaluate, save or stop, and during an evaluation whether to go on."""

    def __init__(
        self, schedule: Schedule, stopping: Stopping, accelerator: Any, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._schedule = schedule
        self._stopping = stopping
        self._accelerator = accelerator
        self._clock = clock
        self._saved = self._began = clock()
        self._saved_step = 0
        self._longest_step_s = 0.0
        self._evaluation_s: float | None = None
        self._evaluates = True
        self.saves_first = False
        self.early_stop = ""

    def without_evaluation(self) -> AfterStep:
        self._evaluates = False
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed job that had stopped early has nothing to train."""
        self._saved, self._saved_step = self._clock(), state.global_step
        self._stop_early(state, control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, now = state.global_step, self._clock()
        self._longest_step_s = max(self._longest_step_s, now - self._began)
        due = self._is_due(step)
        stops, overdue = self._agree(bool(self._stopping.check(self._ahead_s(step, due))), self._is_overdue(now, due))
        control.should_log = self._schedule.logs_after(step) or stops
        # a job that stops saves instead: the evaluation is made when it goes on
        control.should_evaluate = due and not stops
        self.saves_first = control.should_evaluate and overdue
        control.should_save = self._schedule.saves_after(step) or stops or (overdue and not self.saves_first)
        control.should_training_stop = control.should_training_stop or stops or step >= self._schedule.total

    def _is_due(self, step: int) -> bool:
        return self._evaluates and step > 0 and self._schedule.evaluates_after(step)

    def _ahead_s(self, step: int, due: bool) -> float:
        """What passes before the next question: an evaluation as long as the last one, a step and the save after it."""
        evaluation = (self._evaluation_s or 0.0) if due else 0.0
        return evaluation + (0.0 if step >= self._schedule.total else 2 * self._longest_step_s)

    def _is_overdue(self, now: float, due: bool) -> bool:
        untimed = self._evaluation_s is None
        evaluation = (UNTIMED_EVALUATION_S if untimed else self._evaluation_s or 0.0) if due else 0.0
        return now - self._saved + evaluation + self._longest_step_s > SAVE_AT_LEAST_EVERY_S

    @contextlib.contextmanager
    def timed_evaluation(self) -> Iterator[None]:
        began = self._clock()
        yield
        self._evaluation_s = self._clock() - began

    def should_stop(self) -> bool:
        """Asked between the batches of an evaluation."""
        return self._agree(bool(self._stopping.check(0.0)))[0]

    @property
    def reason(self) -> str:
        return self._stopping.reason or ANOTHER

    def has_time_for(self, evaluations: float) -> bool:
        """Whether so many times the last evaluation fit before the time limit; yes where none was timed."""
        ahead = evaluations * (self._evaluation_s or 0.0)
        return not self._agree(bool(self._stopping.check(ahead)))[0]

    def give_up_evaluation(self, state: Any, control: Any) -> None:
        """It was abandoned: save, if that is not done yet, and stop. `owes_evaluation` tells whoever resumes."""
        control.should_evaluate = False
        control.should_save = self._saved_step != state.global_step
        control.should_training_stop = True

    def owes_evaluation(self, state: Any) -> bool:
        """Whether the schedule wants an evaluation of the last step, and the history has none."""
        step = state.global_step
        return self._is_due(step) and not any(
            "eval_loss" in line and line["step"] == step for line in state.log_history
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_early(state, control)
        if self._agree(self._is_overdue(self._clock(), due=False))[0]:
            control.should_save = True

    def _stop_early(self, state: Any, control: Any) -> None:
        """By the history, which a resumed job has too."""
        config = self._schedule.config
        losses = [line["eval_loss"] for line in state.log_history if "eval_loss" in line]
        patience = config.early_stopping_patience
        if patience and evaluations_without_gain(losses, config.early_stopping_threshold) >= patience:
            self.early_stop = f"early stopping: the eval loss has not fallen for {patience} evaluations"
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved, self._saved_step = self._clock(), state.global_step

    def save(self) -> dict[str, Any]:
        """For a checkpoint: how long an evaluation takes."""
        return {"evaluation_s": self._evaluation_s}

    def load(self, saved: Mapping[str, Any]) -> None:
        self._evaluation_s = saved["evaluation_s"]

    def _agree(self, *flags: bool) -> tuple[bool, ...]:
        return agree(self._accelerator, *flags)
