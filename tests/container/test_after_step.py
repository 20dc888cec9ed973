"""When a job saves, evaluates and stops: by steps, by minutes, by its time limit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from container_src.sft.config import TrainConfig
from container_src.sft.manifest import describe_end
from container_src.sft.steps import make_schedule
from container_src.sft.stop import Stopping

ALONE = SimpleNamespace(num_processes=1)


class _Control(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(should_training_stop=False, should_log=False, should_evaluate=False, should_save=False)


def _play(config: TrainConfig, step_s: float, max_runtime_s: int = 0) -> tuple[list[tuple[int, float]], int, str]:
    """Steps of equal length on a clock of our own -> (step, time) of each save, the last step, why it stopped."""
    from container_src.sft.trainer import AfterStep

    now = [0.0]
    stopping = Stopping(clock=lambda: now[0])
    stopping.watch_clock(max_runtime_s)
    schedule = make_schedule(config, rows=10_000, processes=1)
    after = AfterStep(schedule, stopping, ALONE, clock=lambda: now[0])
    saves, step, control = [], 0, _Control()
    while not control.should_training_stop:
        step, control = step + 1, _Control()
        state: Any = SimpleNamespace(global_step=step, log_history=[])
        after.on_step_begin(None, state, control)
        now[0] += step_s
        after.on_step_end(None, state, control)
        if control.should_save:
            saves.append((step, now[0]))
            after.on_save(None, state, control)
    return saves, step, stopping.reason


@pytest.mark.parametrize("step_s", [0.01, 7.0, 130.0, 590.0])
@pytest.mark.parametrize("save_steps", [1, 50, 100_000])
@pytest.mark.parametrize("steps", [1, 40])
def test_never_zero_saves_and_one_every_ten_minutes(step_s: float, save_steps: int, steps: int) -> None:
    saves, last, _ = _play(TrainConfig(max_steps=steps, save_steps=save_steps), step_s)
    assert saves[-1][0] == last == steps
    times = [0.0, *(time for _, time in saves)]
    assert max(later - earlier for earlier, later in zip(times, times[1:], strict=False)) <= 600


def test_a_step_longer_than_ten_minutes_is_saved_at_once() -> None:
    saves, _, _ = _play(TrainConfig(max_steps=3, save_steps=100), step_s=700)
    assert [step for step, _ in saves] == [1, 2, 3]


@pytest.mark.parametrize(("limit", "step_s"), [(3600, 20.0), (600, 7.0), (86_400, 300.0)])
def test_the_job_stops_by_itself_before_its_time_limit(limit: int, step_s: float) -> None:
    saves, last, reason = _play(TrainConfig(max_steps=100_000, save_steps=100_000), step_s, max_runtime_s=limit)
    ended = saves[-1][1]
    assert saves[-1][0] == last
    assert limit - 0.1 * limit - 300 - 4 * step_s < ended <= limit - min(0.1 * limit, 300)
    assert describe_end(last, last, 100_000, "", reason) == {
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


def test_early_stopping_waits_for_its_patience_and_saves() -> None:
    from container_src.sft.trainer import AfterStep

    schedule = make_schedule(TrainConfig(early_stopping_patience=2), rows=100, processes=1)
    after = AfterStep(schedule, Stopping(), ALONE)
    history = [{"eval_loss": loss} for loss in (2.0, 1.0, 1.1)]
    control = _Control()
    after.on_evaluate(None, SimpleNamespace(log_history=history), control)
    assert not control.should_training_stop
    after.on_evaluate(None, SimpleNamespace(log_history=[*history, {"eval_loss": 1.0}]), control)
    assert control.should_training_stop and control.should_save
    assert "2 evaluations" in after.early_stop
