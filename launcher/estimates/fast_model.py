"""What a fast step takes of a GPU: memory by the container's own plan of it, and time. Stdlib only.

The time's coefficients were fitted to seven steps measured on one H200 (the README's first table): each is met within
10%, and within 13% by a fit to the other models' steps. The recipes as jobs, not fitted to, are met within 10%, too.
Nothing was measured on other GPUs: there, arithmetic and memory traffic are scaled by what the GPU reaches of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from container_src.sft import memory_plan
from container_src.sft.config import TrainConfig
from container_src.sft.fast_conditions import choose_arithmetic, find_reason, find_reason_in_adapters
from container_src.sft.memory_plan import OVERHEAD, ROOM, Load, Setting
from launcher.estimates.evaluating import Held
from launcher.estimates.memory_model import (
    GIB,
    SPREAD,
    Lengths,
    Memory,
    Scored,
    Shape,
    base_gib,
    estimate_evaluation,
    off,
)
from launcher.estimates.time_model import REACHABLE_TFLOPS

MEASURED_GPU = "H200"
WITHOUT_BFLOAT16 = ("T4", "V100")
# Of the GPU's memory, from data sheets.
TERABYTES_PER_S = {"A10G": 0.6, "L4": 0.3, "L40S": 0.86, "A100": 1.55, "H100": 3.35, "H200": 4.8}
# What thirteen measured peaks add to the base lies 2 to 9% below the container's estimate of it, less OVERHEAD.
MEMORY_SPREAD = 0.1
# Around a step on the measured GPU; and on another one (assumed).
TIME_SPREAD, SCALED_SPREAD = 1.2, 1.5
# Rows packed end to end are filled up to one of a few lengths, by 0 to 8% (counted).
FILLED = 1.05
# Matrix products reach 87% of the reachable rate, attention's 59% (assumed).
PRODUCTS, ATTENTION = 1.15, 1.7
# Bytes that move for a weight in each pass: its reading, at 77% of the bandwidth (assumed), and its unpacking from 4
# bits where the base is not resident (fitted, to one row).
READ_BYTES, UNPACKED_BYTES = 2.6, 16.2
# The same of a base that is in half precision already: a copy (counted, not measured).
COPIED_BYTES = 4.0
# What moves for each byte that a layer keeps, and what its kernels take however few the tokens (fitted).
TRAFFIC, LAYER_S = 12.0, 0.22e-3
# What a layer takes of an evaluation's packed row however few its tokens, mostly to start its kernels (fitted to two).
SCORED_LAYER_S = 1.7e-3
# An 8-bit optimizer updates each of the adapters' matrices by a call of its own (fitted).
MATRIX_S = 0.079e-3
EIGHT_BIT = ("paged_adamw_8bit", "adamw_8bit")


@dataclass(frozen=True)
class Step:
    """A step's tokens and rows, and the tokens of its longest row."""

    tokens: float
    rows: int
    longest: float

    @property
    def load(self) -> Load:
        """As the container measures it."""
        return Load(math.ceil(self.tokens), self.rows, memory_plan.whole_tiles(math.ceil(self.longest)))


@dataclass(frozen=True)
class Chosen:
    """A step, and the way that the container chooses for it; None where it takes the plain path."""

    step: Step
    setting: Setting | None


def find_reason_against(config: TrainConfig, model: Mapping[str, Any], gpu: str, processes: int) -> str:
    """Why the job's steps will take the plain path, or "", by the container's own conditions."""
    has_bfloat16 = gpu not in WITHOUT_BFLOAT16
    arithmetic = choose_arithmetic(config.compute_dtype, has_bfloat16)
    return find_reason(config, model.get, arithmetic, processes, True, has_bfloat16) or find_reason_in_adapters(
        config.lora_r, config.target_modules
    )


def choose_setting(shape: Shape, config: TrainConfig, step: Step, usable: float) -> Setting | None:
    """The way that the container chooses on a GPU with so many usable GiB; None where it takes the plain path."""
    room = ROOM * (usable - _loaded_gib(shape, config)) * GIB
    return memory_plan.choose_setting(_sizes(shape, config), step.load, int(min(room, 2**60)))


def _loaded_gib(shape: Shape, config: TrainConfig) -> float:
    """What is there when the container chooses: the base, and fresh adapters in float32."""
    return base_gib(shape, config) + 4 * shape.adapter_parameters(config) / GIB


def _sizes(shape: Shape, config: TrainConfig) -> memory_plan.Shape:
    return memory_plan.Shape(
        layers=shape.layers,
        hidden=shape.hidden,
        intermediate=shape.inner,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head=shape.head,
        vocabulary=shape.vocabulary,
        rank=config.lora_r,
    )


def find_held(shape: Shape, config: TrainConfig, most: Chosen, fewest: Chosen) -> Held | None:
    """By the fullest and the shortest steps that the job may have; None where some take the plain path."""
    if most.setting is None or fewest.setting is None:
        return None
    short = _peak(shape, config, fewest.step, fewest.setting)
    return Held(off(base_gib(shape, config), short, -MEMORY_SPREAD), _peak(shape, config, most.step, most.setting))


def estimate_fast_memory(
    shape: Shape,
    config: TrainConfig,
    most: Chosen,
    fewest: Chosen,
    evaluation: Lengths | None,
    plain: Memory,
    usable: float,
) -> Memory:
    """For the same steps; `plain` is what is left where no way fits, `usable` what the GPU has."""
    scored, base = estimate_scored(shape, config, evaluation), base_gib(shape, config)
    smallest = [min(_peaks(shape, config, chosen.step)) for chosen in (fewest, most)]
    needed = _loaded_gib(shape, config) + (smallest[1] + OVERHEAD / GIB - base) / ROOM
    either = replace(
        plain,
        least=min(plain.least, off(base, max(smallest[0], scored.surely), -SPREAD)),
        enough=min(plain.enough, max(needed, off(base, scored.most, SPREAD))),
    )
    held = find_held(shape, config, most, fewest)
    if held is None:
        return either
    if held.leaves_room(scored, usable):
        peak = held.most + scored.most_added
        return replace(either, peak=peak, low=held.surely + scored.surely_added, high=peak + OVERHEAD / GIB)
    return replace(
        either,
        peak=max(held.most, scored.most),
        low=max(held.surely, off(base, scored.surely, -SPREAD)),
        high=max(held.most + OVERHEAD / GIB, off(base, scored.most, SPREAD)),
    )


def estimate_scored(shape: Shape, config: TrainConfig, rows: Lengths | None) -> Scored:
    """An evaluation of packed rows, which are as short as the longest example where there is no room for more."""
    if rows is None:
        return Scored()
    most, surely = (
        memory_plan.scoring_bytes(_sizes(shape, config), memory_plan.whole_tiles(length)) / GIB
        for length in (rows.most, rows.surely)
    )
    return Scored(0, estimate_evaluation(shape, config, rows).fixed, most, surely)


def _peaks(shape: Shape, config: TrainConfig, step: Step) -> list[float]:
    return [_peak(shape, config, step, setting) for setting in memory_plan.iter_settings(step.load)]


def _peak(shape: Shape, config: TrainConfig, step: Step, setting: Setting) -> float:
    """GiB that PyTorch holds; the container's estimate adds what the GPU must have beside it."""
    added = memory_plan.estimate_bytes(setting, _sizes(shape, config), step.load) - OVERHEAD
    return base_gib(shape, config) + added / GIB


def knows_speed(gpu: str) -> bool:
    return gpu in TERABYTES_PER_S


def spread_of(gpu: str) -> float:
    return TIME_SPREAD if gpu == MEASURED_GPU else SCALED_SPREAD


def estimate_seconds(shape: Shape, config: TrainConfig, step: Step, setting: Setting, gpu: str) -> float:
    again = int(setting.checkpointing)  # the layers' forward pass, a second time
    parts = math.ceil(step.tokens / setting.tokens)
    tokens = FILLED * step.tokens
    head = shape.vocabulary * shape.hidden
    products = ((4 + 2 * again) * shape.linear_parameters + 4 * head) * tokens
    # each token looks at half of its row; the backward pass takes 2.5 times the forward one
    attention = (3.5 + again) * 2 * tokens * step.longest * shape.queries * shape.layers
    kept = shape.layers * memory_plan.saved_bytes(_sizes(shape, config), math.ceil(tokens))
    passes = parts * (2 + again) * shape.linear_parameters
    laid_out = UNPACKED_BYTES if config.load_in_4bit else COPIED_BYTES
    moved = kept * TRAFFIC * (1 + again / 3) + passes * (READ_BYTES + (0 if setting.resident else laid_out))
    matrices = 2 * len(config.target_modules) * shape.layers if config.optim in EIGHT_BIT else 0
    arithmetic = (products * PRODUCTS + attention * ATTENTION) / (REACHABLE_TFLOPS[gpu] * 1e12)
    traffic = moved / (TERABYTES_PER_S[gpu] * 1e12)
    return arithmetic + traffic + parts * shape.layers * LAYER_S + matrices * MATRIX_S


def estimate_scoring_seconds(shape: Shape, config: TrainConfig, count: int, length: float, gpu: str) -> float:
    """One evaluation of so many packed rows; the host starts the kernels while the GPU computes."""
    tokens = count * length
    parts = math.ceil(count / max(1, memory_plan.SCORED_TOKENS // math.ceil(length)))
    products = 2 * (shape.linear_parameters + shape.vocabulary * shape.hidden) * tokens
    attention = 2 * tokens * length * shape.queries * shape.layers
    laid_out = UNPACKED_BYTES if config.load_in_4bit else COPIED_BYTES
    traffic = parts * shape.linear_parameters * (READ_BYTES + laid_out) / (TERABYTES_PER_S[gpu] * 1e12)
    arithmetic = (products * PRODUCTS + attention * ATTENTION) / (REACHABLE_TFLOPS[gpu] * 1e12)
    return max(arithmetic + traffic, parts * shape.layers * SCORED_LAYER_S)
