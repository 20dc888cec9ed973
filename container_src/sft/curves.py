"""What the loss curves say: whether a job learns, and when going on is of no use. Pure and stdlib only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

# below these counts a curve is mostly noise
LEAST_LINES = 12
LEAST_EVALUATIONS = 3
# shares of the loss: less than FLAT in two thirds of a job is no progress, more than RISE above the best is a rise
FLAT_SHARE = 0.01
RISE_SHARE = 0.15
EVAL_RISE_SHARE = 0.02


class Note(NamedTuple):
    kind: str
    text: str


def find_notes(history: Sequence[Mapping[str, float]]) -> list[Note]:
    """What to say about a job's metric lines so far, each with `step` and `loss` or `eval_loss`."""
    train = [(int(line["step"]), line["loss"]) for line in history if "loss" in line]
    evaluations = [(int(line["step"]), line["eval_loss"]) for line in history if "eval_loss" in line]
    found = [_diverging(train) or _flat(train), _overfitting(train, evaluations)]
    return [note for note in found if note is not None]


def _diverging(train: list[tuple[int, float]]) -> Note | None:
    if len(train) < LEAST_LINES:
        return None
    fifths = _window_means([loss for _, loss in train], 5)
    lowest = min(fifths[:-1])
    if fifths[-1] <= lowest + RISE_SHARE * abs(lowest):
        return None
    return Note(
        "diverging",
        f"The loss diverges: {fifths[-1]:.4g} over the last fifth of the lines, {lowest:.4g} at its best. Lower "
        "learning_rate, add warmup_steps, or lower max_grad_norm.",
    )


def _flat(train: list[tuple[int, float]]) -> Note | None:
    if len(train) < LEAST_LINES:
        return None
    first, _, last = _window_means([loss for _, loss in train], 3)
    if first - last > FLAT_SHARE * abs(first):
        return None
    return Note(
        "flat",
        f"The loss is flat: {first:.4g} over the first third of the lines, {last:.4g} over the last. Raise "
        "learning_rate or lora_r, or look at what the rows train (loss_on).",
    )


def _overfitting(train: list[tuple[int, float]], evaluations: list[tuple[int, float]]) -> Note | None:
    if len(evaluations) < LEAST_EVALUATIONS:
        return None
    (before, _), (_, second), (now, last) = evaluations[-3:]
    best_step, best = min(evaluations, key=lambda pair: pair[1])
    recent = [loss for step, loss in train if before < step <= now]
    earlier = [loss for step, loss in train if step <= before]
    rising = evaluations[-3][1] < second < last and last > best + EVAL_RISE_SHARE * abs(best)
    if not (rising and recent and earlier and fmean(recent) < fmean(earlier)):
        return None
    return Note(
        "overfitting",
        f"The model overfits: the eval loss rose from {best:.4g} at step {best_step} to {last:.4g}, while the training "
        "loss falls. Train for fewer steps, set load_best_model_at_end and early_stopping_patience, raise lora_dropout "
        "or weight_decay, or add rows.",
    )


def _window_means(values: list[float], windows: int) -> list[float]:
    bounds = [round(number * len(values) / windows) for number in range(windows + 1)]
    return [fmean(values[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]


def evaluations_without_gain(losses: Sequence[float], threshold: float) -> int:
    """How many of the last evaluations in a row did not lower the best eval loss before them by more than this."""
    best, waited = float("inf"), 0
    for loss in losses:
        waited = 0 if loss < best - threshold else waited + 1
        best = min(best, loss)
    return waited
