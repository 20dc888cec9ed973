"""Health notes and early stopping, from the loss curves alone."""

from __future__ import annotations

import random

import pytest

from container_src.sft.curves import evaluations_without_gain, find_notes


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
