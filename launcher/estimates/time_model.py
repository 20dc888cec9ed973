"""How long a job takes, as a range: its steps, evaluations, and what happens around them.

A step of the plain path is a wide range: the fast end is what its arithmetic needs, and a fast host to start its
kernels; the slow end is what the shipped recipes took. The coefficients stand at the top, with where each comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from container_src.sft.config import TrainConfig
from container_src.sft.steps import make_schedule
from launcher.estimates.memory_model import Shape

# TFLOP/s of a large half-precision matrix product. A10G and H200: measured. The others: data sheets, lowered as much
# as those two fall short of theirs.
REACHABLE_TFLOPS = {
    "T4": 40, "V100": 90, "A10G": 70, "L4": 60, "L40S": 180, "A100": 250, "H100": 790, "H200": 790,
}  # fmt: skip
# A step's share of that: the best and the worst that is expected of QLoRA's many small products.
BEST_SHARE, WORST_SHARE = 0.7, 0.3
# Per layer and micro-batch the host starts 740 kernels. Slow end: the GPU table of the README, from a machine with slow
# cores (7.8 to 8.3 ms, with checkpointing 11.5 to 13.3), and more, as plain TRL took up to 1.4 times that elsewhere.
# Fast end: 4 us for each kernel (assumed).
SLOW_LAYER_S, SLOW_CHECKPOINTED_LAYER_S, FAST_LAYER_S = 0.008, 0.0125, 0.003
SLACK = 1.6
# Before the first step, in billed seconds: the image, the model's files, imports, tokens (assumed, not measured).
START_S = (120.0, 420.0)
# The model's files come at this rate, in bytes a second (assumed).
DOWNLOAD_RATE = (300e6, 50e6)
END_S = (15.0, 120.0)  # saving, packing and uploading the adapter (assumed)
# A forward pass against a whole step; the final evaluation reads its rows with the base and with the adapter.
FORWARD_SHARE, FINAL_PASSES = 0.4, 2


@dataclass(frozen=True)
class Rows:
    """A channel for the clock: how many rows, and how many tokens one has on average, at least and at most."""

    count: int
    fewest_tokens: float
    most_tokens: float


@dataclass(frozen=True)
class Duration:
    """Seconds, the fast and the slow end."""

    low: float
    high: float
    steps: int = 0

    def minutes(self) -> str:
        low, high = self.low / 60, self.high / 60
        return f"{low:,.0f} to {high:,.0f} minutes"


def estimate_duration(
    shape: Shape,
    config: TrainConfig,
    step: Duration,
    train: Rows,
    scoring: Duration | None,
    gpus: int,
    again: Duration,
) -> Duration:
    """Of a whole job of such steps, its start included. `again` is what each evaluation costs the step after it."""
    schedule = make_schedule(config, train.count, gpus)
    low, high = schedule.total * step.low, schedule.total * step.high
    if scoring:
        between = _evaluations(config, schedule.total, schedule.per_epoch)
        passes = between + FINAL_PASSES
        begun = max(0, between - 1)  # the last one has no step after it
        low += passes * scoring.low + begun * again.low
        high += passes * scoring.high + begun * again.high
    model_bytes = 2 * shape.parameters
    around = [start + model_bytes / rate + end for start, rate, end in zip(START_S, DOWNLOAD_RATE, END_S, strict=True)]
    return Duration(around[0] + low, around[1] + high, schedule.total)


def estimate_step(shape: Shape, config: TrainConfig, rows: Rows, gpu: str) -> Duration:
    """One optimizer step of one GPU by the plain path."""
    micro = config.gradient_accumulation_steps
    share = config.effective_batch_size
    slow_layer = SLOW_CHECKPOINTED_LAYER_S if config.gradient_checkpointing else SLOW_LAYER_S
    low = max(
        _arithmetic(shape, config, share * rows.fewest_tokens) / (_rate(gpu) * BEST_SHARE),
        micro * shape.layers * FAST_LAYER_S,
    )
    high = max(
        _arithmetic(shape, config, share * rows.most_tokens) / (_rate(gpu) * WORST_SHARE),
        micro * shape.layers * slow_layer,
    )
    return Duration(low, SLACK * high)


def _rate(gpu: str) -> float:
    return REACHABLE_TFLOPS[gpu] * 1e12


def _arithmetic(shape: Shape, config: TrainConfig, tokens: float) -> float:
    """Two operations per weight forward, and two backward: the frozen weights need no gradients of their own."""
    per_weight = 4 + 2 * config.gradient_checkpointing
    return per_weight * (shape.linear_parameters + shape.vocabulary * shape.hidden) * tokens


def estimate_scoring(shape: Shape, config: TrainConfig, rows: Rows, gpu: str, gpus: int) -> Duration:
    """One evaluation by the plain path."""
    steps = rows.count / (config.effective_batch_size * gpus)
    step = estimate_step(shape, config, rows, gpu)
    return Duration(FORWARD_SHARE * steps * step.low, FORWARD_SHARE * steps * step.high)


def _evaluations(config: TrainConfig, steps: int, per_epoch: int) -> int:
    if config.eval_strategy == "no":
        return 0
    return -(-steps // (config.eval_steps if config.eval_strategy == "steps" else per_epoch))
