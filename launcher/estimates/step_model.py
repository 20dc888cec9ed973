"""Which way a job's steps will take, the fast or the plain one, and what one takes of memory and time. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from container_src.sft.config import TrainConfig
from container_src.sft.memory_plan import Setting
from launcher.estimates import fast_model
from launcher.estimates.evaluating import explain, find_new_beginning
from launcher.estimates.fast_model import Chosen, Step, choose_setting
from launcher.estimates.memory_model import (
    Lengths,
    Memory,
    Shape,
    base_gib,
    estimate_evaluation,
    estimate_memory,
    make_shape,
    usable_gib,
)
from launcher.estimates.time_model import REACHABLE_TFLOPS, Duration, Rows, estimate_scoring, estimate_step
from launcher.instances import Instance, find_single


@dataclass(frozen=True)
class Steps:
    """`duration` is one step's, None where the GPU's speed is not known; `basis` says what that is worth.

    `scoring` is one evaluation's. `evaluating` says what evaluations do not leave room for, `again` is what each of
    them costs the steps after it.
    """

    memory: Memory
    way: str
    duration: Duration | None
    basis: str = ""
    scoring: Duration | None = None
    evaluating: str = ""
    again: Duration = Duration(0.0, 0.0)


def estimate_steps(
    config: TrainConfig,
    model: Mapping[str, Any],
    train: Rows,
    evaluation: Rows | None,
    on: Instance | None,
    processes: int,
) -> Steps:
    """`model` is config.json; `train` and `evaluation` are rows before padding."""
    if evaluation:
        at_once = min(config.per_device_eval_batch_size, math.ceil(evaluation.count / processes))
        config = replace(config, per_device_eval_batch_size=at_once)
    shape, gpu = make_shape(model), on.gpu if on else ""
    usable = usable_gib(on) if on else math.inf
    padded = pad_rows(train, config)
    lengths = _lengths(pad_rows(evaluation, config), config) if evaluation else None
    scored = estimate_evaluation(shape, config, lengths)
    reason = fast_model.find_reason_against(config, model, gpu, processes)
    found = Steps(
        estimate_memory(shape, config, _lengths(padded, config), lengths, processes),
        f"plain, since {reason}{_name_single(shape, config, model, train, on) if processes > 1 else ''}",
        estimate_step(shape, config, padded, gpu) if gpu in REACHABLE_TFLOPS else None,
        f"estimate for the {gpu}'s arithmetic",
        _plain_scoring(shape, config, evaluation, gpu, processes),
        explain(scored, base_gib(shape, config), usable, held=None),
    )
    return found if reason else _estimate_fast_steps(shape, config, train, evaluation, gpu, usable, found)


def _name_single(shape: Shape, config: TrainConfig, model: Mapping[str, Any], train: Rows, on: Instance | None) -> str:
    """The type to take where several GPUs are all that keeps a job from the fast step."""
    name = find_single(on) if on else ""
    if not on or not name or fast_model.find_reason_against(config, model, on.gpu, processes=1):
        return ""
    fits = choose_setting(shape, config, _find_steps(train, config)[0], usable_gib(on))
    return f"; one {name}, with a single {on.gpu}, takes the fast step" if fits else ""


def _estimate_fast_steps(
    shape: Shape, config: TrainConfig, train: Rows, evaluation: Rows | None, gpu: str, usable: float, plain: Steps
) -> Steps:
    """`plain` is what is left where a row is too long for the fast way."""
    lengths = _lengths(evaluation, config) if evaluation else None
    full, long, short = _find_steps(train, config)
    most, fewest = (Chosen(step, choose_setting(shape, config, step, usable)) for step in (full, short))
    memory = fast_model.estimate_fast_memory(shape, config, most, fewest, lengths, plain.memory, usable)
    if fewest.setting is None:
        return replace(plain, memory=memory, way="plain, since no packed row fits")
    low = _fast_seconds(shape, config, short, fewest.setting, gpu)
    held = fast_model.find_held(shape, config, most, fewest)
    if held is None or most.setting is None:
        way = f"fast: {fewest.setting}; plain where rows are too long for it"
        mixed = Duration(low[0], plain.duration.high) if low and plain.duration else None
        scoring = _fast_scoring(shape, config, evaluation, gpu)
        if scoring and plain.scoring:
            scoring = Duration(scoring.low, plain.scoring.high)
        return replace(plain, memory=memory, way=way, duration=mixed, scoring=scoring)
    high = _fast_seconds(shape, config, long, most.setting, gpu)
    scored = fast_model.estimate_scored(shape, config, lengths)
    return Steps(
        memory,
        f"fast: {most.setting}",
        Duration(low[0], high[1]) if low and high else None,
        f"estimate: steps measured on an {fast_model.MEASURED_GPU}, scaled to the {gpu}'s arithmetic and bandwidth",
        _fast_scoring(shape, config, evaluation, gpu),
        explain(scored, memory.base, usable, held if config.eval_strategy != "no" else None),
        find_new_beginning(held, scored, usable),
    )


def _fast_seconds(
    shape: Shape, config: TrainConfig, step: Step, setting: Setting, gpu: str
) -> tuple[float, float] | None:
    """The fast and the slow end; None for a GPU that is not known."""
    if not fast_model.knows_speed(gpu):
        return None
    seconds, spread = fast_model.estimate_seconds(shape, config, step, setting, gpu), fast_model.spread_of(gpu)
    return seconds / spread, seconds * spread


def _plain_scoring(
    shape: Shape, config: TrainConfig, evaluation: Rows | None, gpu: str, processes: int
) -> Duration | None:
    if evaluation is None or gpu not in REACHABLE_TFLOPS:
        return None
    return estimate_scoring(shape, config, pad_rows(evaluation, config), gpu, processes)


def _fast_scoring(shape: Shape, config: TrainConfig, evaluation: Rows | None, gpu: str) -> Duration | None:
    if evaluation is None or not fast_model.knows_speed(gpu):
        return None
    low, high = (
        fast_model.estimate_scoring_seconds(shape, config, evaluation.count, length, gpu)
        for length in (evaluation.fewest_tokens, evaluation.most_tokens)
    )
    spread = fast_model.spread_of(gpu)
    return Duration(low / spread, high * spread)


def pad_rows(rows: Rows, config: TrainConfig) -> Rows:
    """As the plain path sees them."""
    if config.padding == "max_length":
        return replace(rows, fewest_tokens=config.max_length, most_tokens=config.max_length)
    return rows


def _lengths(rows: Rows, config: TrainConfig) -> Lengths:
    return Lengths(config.max_length, int(rows.fewest_tokens))


def _find_steps(rows: Rows, config: TrainConfig) -> tuple[Step, Step, Step]:
    """A step of rows that are all as long as max_length, and of rows that are as long and as short as they may be."""
    lengths = (config.max_length, rows.most_tokens, rows.fewest_tokens)
    count = config.effective_batch_size
    full, long, short = (Step(count * length, count, length) for length in lengths)
    return full, long, short
