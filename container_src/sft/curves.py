"""What the loss curves say: whether a job learns, and when going on is of no use. Pure and stdlib only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from statistics import fmean
from typing import NamedTuple

# below these counts a curve is mostly noise
LEAST_LINES = 12
LEAST_EVALUATIONS = 3
# shares of the loss: less than FLAT in two thirds of a job is no progress, more than RISE above the best is a rise
FLAT_SHARE = 0.01
RISE_SHARE = 0.15
EVAL_RISE_SHARE = 0.02
# A rise counts when it is this many times what the noise of the lines explains; lows are means of RUN lines.
NOISE_TIMES = 5
RUN = 3
# An explosion ends the job, so it must be beyond doubt: twice the best and two nats more, for so many lines and steps.
EXPLODED_SHARE = 1.0
EXPLODED_RISE = 2.0
EXPLODED_NOISE_TIMES = 6
EXPLODED_LINES = 6
EXPLODED_STEPS = 20


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
    last = len(train) // 5
    now = fmean(loss for _, loss in train[-last:])
    lows = _find_lows(train[:-last], _noise(train), last)
    risen = [low for low in lows if low.is_below(now, RISE_SHARE, NOISE_TIMES)]
    if not risen:
        return None
    return Note(
        "diverging",
        f"The loss diverges: {now:.4g} over the last fifth of the lines, {min(risen).value:.4g} at its best. Lower "
        "learning_rate, add warmup_steps, or lower max_grad_norm.",
    )


def find_explosion(history: Sequence[Mapping[str, float]]) -> str:
    """Why training on is of no use, or "": the loss is far above all that it was, its start too, and stays there."""
    train = [(int(line["step"]), line["loss"]) for line in history if "loss" in line]
    tail = train[-EXPLODED_LINES:]
    while 0 < len(tail) < len(train) and tail[-1][0] - tail[0][0] < EXPLODED_STEPS:
        tail = train[-len(tail) - 1 :]
    before = train[: -len(tail)]
    if len(tail) < EXPLODED_LINES or not before or tail[-1][0] - tail[0][0] < EXPLODED_STEPS:
        return ""
    level, start = min(loss for _, loss in tail), before[0][1]
    exploded = [
        low
        for low in _find_lows(before, _noise(train), len(tail))
        if low.is_below(level, EXPLODED_SHARE, EXPLODED_NOISE_TIMES) and level - low.value > EXPLODED_RISE
    ]
    if not exploded or level <= start:
        return ""
    return (
        f"The loss exploded: it was {min(exploded).value:.4g} at its best, and has not been below {level:.4g} since "
        f"step {tail[0][0]}, so training on is of no use. Lower learning_rate or max_grad_norm, or add warmup_steps, "
        "and submit with --fresh."
    )


class _Low(NamedTuple):
    """How low the loss has been, and how far chance alone moves it from what the lines are now."""

    value: float
    noise: float

    def is_below(self, level: float, share: float, noise_times: float) -> bool:
        return level - self.value > max(share * abs(self.value), noise_times * self.noise)


def _find_lows(train: list[tuple[int, float]], noise: float, last: int) -> list[_Low]:
    """The first line, and the lowest mean of a few: the first holds one step, the others all since the line before."""
    (step, first), *others = train
    steps = max(others[0][0] - step, 1) if others else 1
    losses = [loss for _, loss in train]
    means = [fmean(losses[start : start + RUN]) for start in range(len(losses) - RUN + 1)]
    lows = [_Low(first, noise * sqrt(steps + 1 / last))]
    return [*lows, _Low(min(means), noise * sqrt(1 / RUN + 1 / last))] if means else lows


def _noise(train: list[tuple[int, float]]) -> float:
    """About a line's standard deviation, from how neighbours differ: no slope counts, and no single leap."""
    leaps = sorted(abs(after - before) for (_, before), (_, after) in pairwise(train))
    return fmean(leaps[: -max(len(leaps) // 10, 1)])


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
