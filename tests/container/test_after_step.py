"""When a job saves, evaluates and stops: by steps, by minutes, by its time limit, by a signal."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from container_src.sft.batches import Padding
from container_src.sft.config import TrainConfig
from container_src.sft.data import Encoded
from container_src.sft.evaluate import AbandonedError, score_rows
from container_src.sft.manifest import describe_end
from container_src.sft.steps import make_schedule
from container_src.sft.stop import Stopping, agree

ALONE = SimpleNamespace(num_processes=1)
BATCHES = 50


class _Control(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(should_training_stop=False, should_log=False, should_evaluate=False, should_save=False)


class _Play:
    """Steps and evaluations of equal length on a clock of our own, in the order in which the trainer has them."""

    def __init__(
        self,
        config: TrainConfig,
        step_s: float,
        max_runtime_s: int = 0,
        evaluation_s: float = 0.0,
        sigterm_s: float = 0.0,
    ) -> None:
        from container_src.sft.after_step import AfterStep

        self.now = 0.0
        self._sigterm_s = sigterm_s
        self.stopping = Stopping(clock=lambda: self.now)
        self.stopping.watch_clock(max_runtime_s)
        schedule = make_schedule(config, rows=10_000, processes=1)
        self.after = AfterStep(schedule, self.stopping, ALONE, clock=lambda: self.now)
        self.state: Any = SimpleNamespace(global_step=0, log_history=[])
        # (step, time) of each save, (step, begin, end) of each whole evaluation, (step, begin) of each begun
        self.saves: list[tuple[int, float]] = []
        self.evaluations: list[tuple[int, float, float]] = []
        self.begun: list[tuple[int, float]] = []
        control = _Control()
        while not control.should_training_stop:
            self.state.global_step += 1
            control = _Control()
            self.after.on_step_begin(None, self.state, control)
            self._pass(step_s)
            self.after.on_step_end(None, self.state, control)
            if control.should_evaluate:
                self._evaluate(control, evaluation_s)
            if control.should_save:
                self._save(control)

    @property
    def last(self) -> int:
        return int(self.state.global_step)

    @property
    def reason(self) -> str:
        return self.stopping.reason

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        if self._sigterm_s and self.now >= self._sigterm_s:
            self.stopping.on_signal(signal.SIGTERM, None)

    def _save(self, control: _Control) -> None:
        self.saves.append((self.last, self.now))
        self.after.on_save(None, self.state, control)

    def _evaluate(self, control: _Control, seconds: float) -> None:
        if self.after.saves_first:
            self._save(control)
        began = self.now
        self.begun.append((self.last, began))
        try:
            with self.after.timed_evaluation():
                for _ in range(BATCHES):
                    if self.after.should_stop():
                        raise AbandonedError
                    self._pass(seconds / BATCHES)
        except AbandonedError:
            self.after.give_up_evaluation(self.state, control)
            return
        self.evaluations.append((self.last, began, self.now))
        self.state.log_history.append({"eval_loss": 1.0, "step": self.last})
        self.after.on_evaluate(None, self.state, control)

    def gaps(self) -> list[float]:
        """Seconds between a save and the next, the longest first."""
        times = [0.0, *(time for _, time in self.saves)]
        return sorted((later - earlier for earlier, later in zip(times, times[1:], strict=False)), reverse=True)


@pytest.mark.parametrize("step_s", [0.01, 7.0, 130.0, 590.0])
@pytest.mark.parametrize("save_steps", [1, 50, 100_000])
@pytest.mark.parametrize("steps", [1, 40])
def test_never_zero_saves_and_one_every_ten_minutes(step_s: float, save_steps: int, steps: int) -> None:
    play = _Play(TrainConfig(max_steps=steps, save_steps=save_steps), step_s)
    assert play.saves[-1][0] == play.last == steps
    assert play.gaps()[0] <= 600


def test_a_step_longer_than_ten_minutes_is_saved_at_once() -> None:
    play = _Play(TrainConfig(max_steps=3, save_steps=100, eval_strategy="no"), step_s=700)
    assert [step for step, _ in play.saves] == [1, 2, 3]


@pytest.mark.parametrize("step_s", [7.0, 70.0, 130.0])
@pytest.mark.parametrize("evaluation_s", [30.0, 400.0, 590.0])
@pytest.mark.parametrize("eval_steps", [1, 4, 30])
def test_a_save_goes_before_an_evaluation_that_would_make_it_overdue(
    step_s: float, evaluation_s: float, eval_steps: int
) -> None:
    play = _Play(
        TrainConfig(max_steps=60, save_steps=100_000, eval_steps=eval_steps), step_s, evaluation_s=evaluation_s
    )
    assert len(play.evaluations) == 60 // eval_steps
    longest, *others = play.gaps()
    # the first evaluation is not timed yet: at most a minute of steps goes into it unsaved
    assert longest <= 660
    assert all(gap <= 600 for gap in others)


def test_no_step_is_at_stake_in_an_evaluation_longer_than_ten_minutes() -> None:
    play = _Play(TrainConfig(max_steps=40, save_steps=100_000, eval_steps=20), step_s=10, evaluation_s=3000)
    for step, began in play.begun:
        assert (step, began) in play.saves


def test_short_evaluations_cost_no_saves() -> None:
    play = _Play(TrainConfig(max_steps=40, save_steps=20, eval_steps=5), step_s=1, evaluation_s=10)
    assert [step for step, _ in play.saves] == [20, 40]


def test_sigterm_during_an_evaluation_saves_at_once_and_without_it() -> None:
    play = _Play(TrainConfig(max_steps=40, save_steps=20, eval_steps=5), step_s=1, evaluation_s=1000, sigterm_s=1200)
    assert [step for step, *_ in play.evaluations] == [5]
    assert [step for step, _ in play.begun] == [5, 10]
    assert play.now <= 1200 + 1000 / BATCHES
    assert play.saves[-1][0] == play.last == 10
    assert play.after.owes_evaluation(play.state)


def test_a_step_saved_before_its_evaluation_is_not_saved_again_on_sigterm() -> None:
    play = _Play(TrainConfig(max_steps=40, save_steps=20, eval_steps=20), step_s=10, evaluation_s=1000, sigterm_s=700)
    assert play.saves == [(20, 200)]
    assert play.last == 20


def test_no_evaluation_begins_once_sigterm_is_seen() -> None:
    play = _Play(TrainConfig(max_steps=40, save_steps=20, eval_steps=5), step_s=1, evaluation_s=1000, sigterm_s=4.5)
    assert not play.begun
    assert (play.saves, play.last) == ([(5, 5.0)], 5)


@pytest.mark.parametrize(("limit", "evaluation_s"), [(3600, 300.0), (3600, 900.0), (86_400, 590.0)])
def test_no_evaluation_begins_that_would_meet_the_time_limit(limit: int, evaluation_s: float) -> None:
    play = _Play(TrainConfig(max_steps=100_000, eval_steps=20), 7.0, max_runtime_s=limit, evaluation_s=evaluation_s)
    margin = min(0.1 * limit, 300)
    assert play.reason == "the job's time limit is near (max_runtime_s)"
    assert len(play.begun) == len(play.evaluations) > 1
    assert play.now == play.saves[-1][1] <= limit - margin
    assert play.now > limit - margin - evaluation_s - 3 * 7


def test_an_evaluation_of_unknown_length_is_given_up_at_the_time_limit() -> None:
    play = _Play(TrainConfig(max_steps=100, eval_steps=20), 7.0, max_runtime_s=3600, evaluation_s=10_000)
    assert not play.evaluations
    assert play.saves[-1][0] == play.last == 20
    assert play.now <= 3300 + 10_000 / BATCHES


def test_the_final_evaluation_begins_only_where_its_known_length_fits() -> None:
    play = _Play(TrainConfig(max_steps=20, eval_steps=20), 10.0, max_runtime_s=3600, evaluation_s=1000)
    assert play.after.has_time_for(2.0)
    assert not play.after.has_time_for(2.5)
    assert "time limit" in play.reason


def test_a_resumed_job_knows_how_long_an_evaluation_takes() -> None:
    play = _Play(TrainConfig(max_steps=20, eval_steps=20), 10.0, max_runtime_s=3600, evaluation_s=1000)
    resumed = _Play(TrainConfig(max_steps=1, eval_strategy="no"), 10.0, max_runtime_s=3600)
    assert resumed.after.has_time_for(10)
    resumed.after.load(play.after.save())
    assert not resumed.after.has_time_for(10)


@pytest.mark.parametrize(("limit", "step_s"), [(3600, 20.0), (600, 7.0), (86_400, 300.0)])
def test_the_job_stops_by_itself_before_its_time_limit(limit: int, step_s: float) -> None:
    play = _Play(TrainConfig(max_steps=100_000, save_steps=100_000), step_s, max_runtime_s=limit)
    last, ended = play.last, play.saves[-1][1]
    assert play.saves[-1][0] == last
    assert limit - 0.1 * limit - 300 - 4 * step_s < ended <= limit - min(0.1 * limit, 300)
    assert describe_end(last, last, 100_000, "", play.reason) == {
        "outcome": "stopped",
        "reason": "the job's time limit is near (max_runtime_s)",
        "steps_done": last,
        "kept_step": last,
    }


@pytest.mark.parametrize(
    ("done", "early", "reason", "outcome", "why"),
    [
        (10, "", "", "completed", ""),
        (10, "", "SIGTERM received", "completed", ""),
        (6, "early stopping: ...", "", "completed", "early stopping: ..."),
        (6, "", "SIGTERM received", "stopped", "SIGTERM received"),
        (6, "", "", "stopped", "another process of the job was asked to stop"),
    ],
)
def test_how_a_job_ended(done: int, early: str, reason: str, outcome: str, why: str) -> None:
    found = describe_end(done, done, 10, early, reason)
    assert (found["outcome"], found["reason"]) == (outcome, why)


def test_a_stop_in_the_last_evaluation_is_a_stop_and_says_what_is_done() -> None:
    for early in ("", "early stopping: ..."):
        found = describe_end(10, 10, 10, early, "SIGTERM received", evaluated=False)
        assert found["outcome"] == "stopped"
        assert found["reason"] == "SIGTERM received; the training itself was done, an evaluation was not"
    assert describe_end(6, 6, 10, "", "SIGTERM received", evaluated=False)["reason"] == "SIGTERM received"


def _after_step(**settings: Any) -> Any:
    from container_src.sft.after_step import AfterStep

    return AfterStep(make_schedule(TrainConfig(**settings), rows=100, processes=1), Stopping(), ALONE)


def test_early_stopping_waits_for_its_patience_and_saves() -> None:
    after = _after_step(early_stopping_patience=2)
    history = [{"eval_loss": loss} for loss in (2.0, 1.0, 1.1)]
    control = _Control()
    after.on_evaluate(None, SimpleNamespace(log_history=history), control)
    assert not control.should_training_stop
    after.on_evaluate(None, SimpleNamespace(log_history=[*history, {"eval_loss": 1.0}]), control)
    assert control.should_training_stop and control.should_save
    assert "2 evaluations" in after.early_stop


@pytest.mark.parametrize(("losses", "over"), [((2.0, 1.0, 1.1), False), ((2.0, 1.0, 1.1, 1.0), True)])
def test_a_job_that_stopped_early_has_nothing_to_train_when_it_is_resumed(losses: list[float], over: bool) -> None:
    after = _after_step(early_stopping_patience=2)
    control = _Control()
    history = [{"eval_loss": loss, "step": step} for step, loss in enumerate(losses)]
    after.on_train_begin(None, SimpleNamespace(global_step=len(losses), log_history=history), control)
    assert control.should_training_stop is over
    assert bool(after.early_stop) is over


@pytest.mark.parametrize(
    ("step", "evaluated", "owes"), [(0, [], False), (5, [], True), (5, [5], False), (6, [], False), (10, [5], True)]
)
def test_an_evaluation_that_the_checkpoint_lacks_is_owed(step: int, evaluated: list[int], owes: bool) -> None:
    state = SimpleNamespace(global_step=step, log_history=[{"eval_loss": 1.0, "step": done} for done in evaluated])
    assert _after_step(max_steps=12, eval_steps=5).owes_evaluation(state) is owes
    assert not _after_step(max_steps=12, eval_steps=5).without_evaluation().owes_evaluation(state)


def test_what_one_process_wants_all_do() -> None:
    """The sum over the processes comes from accelerate; the other one here votes for its second flag."""
    import torch

    pair = SimpleNamespace(num_processes=2, device="cpu", reduce=lambda votes, reduction: votes + torch.tensor([0, 1]))
    assert agree(pair, False, False) == (False, True)
    assert agree(pair, True, False) == (True, True)
    assert agree(ALONE, True, False) == (True, False)


ROWS = [Encoded([1] * length, [1] * length, False, True) for length in (2, 3, 4, 5, 6)]


class _Process(SimpleNamespace):
    """One of two processes, whose sums stay its own."""

    def __init__(self, index: int) -> None:
        super().__init__(process_index=index, num_processes=2, device="cpu", mixed_precision="no")
        self.reduce = lambda sums, reduction: sums


class _Model(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(training=True, batches=0)

    def eval(self) -> None:
        self.training = False

    def train(self, training: bool) -> None:
        self.training = training

    def __call__(self, input_ids: Any, **kwargs: Any) -> Any:
        import torch

        self.batches += 1
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 7))


def test_an_evaluation_ends_between_two_batches_and_leaves_the_model_training() -> None:
    model = _Model()
    answers = iter([False, False, True])
    with pytest.raises(AbandonedError):
        score_rows(model, ROWS, Padding(0, 0), 1, _Process(0), lambda: next(answers))
    assert model.batches == 2
    assert model.training


def test_processes_with_unequal_shares_ask_equally_often() -> None:
    """Asking is a collective call: a process that asked once less would leave the other waiting for ever."""
    asked = [0, 0]
    for process in range(2):

        def ask(process: int = process) -> bool:
            asked[process] += 1
            return False

        score_rows(_Model(), ROWS, Padding(0, 0), 1, _Process(process), ask)
    assert asked == [3, 3]
