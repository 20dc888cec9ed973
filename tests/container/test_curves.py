"""Health notes and early stopping, from the loss curves alone."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from container_src.sft.config import TrainConfig
from container_src.sft.curves import evaluations_without_gain, find_explosion, find_notes
from container_src.sft.failure import JobError
from container_src.sft.log import MetricsFile
from container_src.sft.steps import make_schedule


def _history(train: list[float], evaluations: list[float] | None = None) -> list[dict[str, float]]:
    """A line per step, and the evaluations at equal distances, the last with the last step."""
    lines = [{"step": float(step), "loss": loss} for step, loss in enumerate(train, start=1)]
    every = len(train) // len(evaluations) if evaluations else 0
    lines += [{"step": float(every * number), "eval_loss": loss} for number, loss in enumerate(evaluations or [], 1)]
    return sorted(lines, key=lambda line: line["step"])


def _kinds(train: list[float], evaluations: list[float] | None = None) -> list[str]:
    return [note.kind for note in find_notes(_history(train, evaluations))]


def _noisy(values: list[float], seed: int, size: float = 0.1) -> list[float]:
    source = random.Random(seed)
    return [value + source.gauss(0, size) for value in values]


FALLING = [1.0 + 2 * 0.95**step for step in range(60)]


@pytest.mark.parametrize("seed", range(20))
def test_a_curve_that_falls_with_noise_is_healthy(seed: int) -> None:
    assert _kinds(_noisy(FALLING, seed), [2.5, 2.0, 1.6, 1.4, 1.3, 1.25]) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_flat_curve_is_noted(seed: int) -> None:
    assert _kinds(_noisy([2.0] * 60, seed, size=0.01)) == ["flat"]


@pytest.mark.parametrize("seed", range(5))
def test_a_rising_curve_diverges(seed: int) -> None:
    assert _kinds(_noisy(FALLING[:30] + [1.5 + 0.1 * step for step in range(30)], seed)) == ["diverging"]


# a loss each ten steps, as recipes log it; the first line is the first step alone, and drowns in a fifth of the lines
EXPLODED = {
    "at once": [2.5, 8.1, *[9.5] * 58],
    "after the first lines": [2.5, 2.3, 2.2, 2.4, *[9.5] * 116],
    "late": [2.5, *FALLING[::3], *[9.5] * 12],
}


def _logged(values: list[float]) -> list[dict[str, float]]:
    return [{"step": max(10.0 * line, 1), "loss": loss} for line, loss in enumerate(values)]


@pytest.mark.parametrize("name", EXPLODED)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_explodes_and_stays_high_diverges_and_ends_the_job(name: str, seed: int) -> None:
    history = _logged(_noisy(EXPLODED[name], seed, size=0.2))
    assert [note.kind for note in find_notes(history)] == ["diverging"]
    assert "Lower learning_rate" in find_notes(history)[0].text
    assert find_explosion(history).startswith("The loss exploded: it was ")
    assert "Lower learning_rate" in find_explosion(history)


@pytest.mark.parametrize("seed", range(20))
def test_neither_noise_nor_a_spike_nor_a_rise_from_nothing_ends_a_job(seed: int) -> None:
    source = random.Random(seed)
    rows = [1.2 * source.lognormvariate(-0.5, 1.0) for _ in range(400)]  # one row a step, very unlike one another
    lines = [rows[0]] + [sum(rows[start : start + 10]) / 10 for start in range(0, 400, 10)]
    spike = [2.5, 2.2, 2.1, 8.0, 7.0, 5.0, 2.6, *[2.0] * 20]
    overfit = [2.5, *[2.0 * 0.7**line for line in range(15)], *[1.9] * 15]
    for values in (lines, spike, overfit, FALLING, [2.0] * 40):
        history = _logged(values)
        assert [find_explosion(history[:count]) for count in range(1, len(history) + 1)] == [""] * len(history)


def test_an_explosion_ends_the_job_with_a_reason(tmp_path: Path) -> None:
    from container_src.sft.metric_lines import MetricLines

    schedule = make_schedule(TrainConfig(max_steps=300), rows=100, processes=1)
    lines = MetricLines(schedule, MetricsFile(tmp_path / "metrics.jsonl"))
    history: list[dict[str, float]] = []
    with pytest.raises(JobError, match="The loss exploded: it was 2.5 at its best.* Lower learning_rate"):
        for line in _logged(EXPLODED["at once"]):
            history.append(line)
            state = SimpleNamespace(global_step=int(line["step"]), log_history=history)
            lines.on_log(None, state, None, {"loss": line["loss"]})
    assert 7 <= len(history) <= 9


def test_eval_rising_while_train_falls_is_overfitting() -> None:
    notes = find_notes(_history(FALLING, [2.0, 1.5, 1.4, 1.5, 1.7, 2.0]))
    assert [note.kind for note in notes] == ["overfitting"]
    assert "rose from 1.4 at step 30 to 2" in notes[0].text


def test_one_rise_or_a_tiny_one_is_not_overfitting() -> None:
    assert _kinds(FALLING, [2.0, 1.5, 1.4, 1.38, 1.37, 1.5]) == []
    assert _kinds(FALLING, [2.0, 1.5, 1.4, 1.4, 1.401, 1.402]) == []


def test_a_few_lines_say_nothing() -> None:
    assert _kinds([2.0] * 5, [2.0, 2.1]) == []


@pytest.mark.parametrize(
    ("losses", "threshold", "waited"),
    [
        ([], 0.0, 0),
        ([3.0, 2.0, 1.0], 0.0, 0),
        ([3.0, 2.0, 2.1, 2.0], 0.0, 2),
        ([3.0, 2.0, 2.1, 1.9], 0.0, 0),
        ([3.0, 2.95, 2.91], 0.1, 2),
        ([3.0, float("nan"), 2.0], 0.0, 0),
    ],
)
def test_evaluations_without_gain(losses: list[float], threshold: float, waited: int) -> None:
    assert evaluations_without_gain(losses, threshold) == waited
