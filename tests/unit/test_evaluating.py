"""An evaluation beside what a fast step holds of a GPU: what a plan says of both, and what it counts."""

from __future__ import annotations

from typing import Any

import pytest

from container_src.sft.architectures import find_architecture
from container_src.sft.config import TrainConfig
from container_src.sft.memory_plan import Shape, scoring_bytes
from launcher.estimates.evaluating import BEGIN_S
from launcher.estimates.memory_model import find_shape, usable_gib
from launcher.estimates.step_model import Steps, estimate_steps
from launcher.estimates.time_model import Duration, Rows, estimate_duration
from launcher.instances import INSTANCES

G5 = "ml.g5.xlarge"
USABLE = usable_gib(INSTANCES[G5])
SEVEN: dict[str, Any] = {"model_name_or_path": "Qwen/Qwen2.5-7B"}


def steps_of(length: int, evaluated: int = 64, instance: str = G5, processes: int = 1, **settings: Any) -> Steps:
    """Of rows that all have so many tokens."""
    config = TrainConfig(**{"max_length": length, "eval_strategy": "steps", **settings})
    model = find_architecture(config.model_name_or_path)
    assert model is not None
    scored = Rows(evaluated, length, length) if evaluated else None
    return estimate_steps(config, model, Rows(500, length, length), scored, INSTANCES.get(instance), processes)


def logits_gib(rows: int, length: int, vocabulary: int = 151_936) -> float:
    return rows * length * vocabulary * 8 / 2**30


def scored_gib(length: int) -> float:
    """Of packed rows on Qwen2.5-1.5B: far less than the logits of a padded batch."""
    shape = Shape(28, 1536, 8960, 12, 2, 128, 151_936, 16)
    return scoring_bytes(shape, length) / 2**30


def test_what_a_fast_step_holds_and_an_evaluation_beside_it_are_added() -> None:
    for length in (1024, 2048):
        alone, both = steps_of(length, evaluated=0), steps_of(length, per_device_eval_batch_size=64)
        assert both.memory.peak == pytest.approx(alone.memory.peak + scored_gib(length))
        assert both.memory.low == pytest.approx(alone.memory.low + scored_gib(length))
        assert both.memory.high <= USABLE and both.evaluating == "" and both.again == Duration(0, 0)
        assert scored_gib(length) < logits_gib(1, length)


def test_where_both_do_not_fit_the_fast_step_gives_way() -> None:
    alone, both = steps_of(32_768, evaluated=0, **SEVEN), steps_of(32_768, **SEVEN)
    assert both.memory.peak == alone.memory.peak
    assert both.evaluating == "the fast step gives its memory back at every evaluation"
    assert both.again == Duration(*BEGIN_S)


def test_rows_that_may_be_shorter_may_leave_it_its_memory() -> None:
    config = TrainConfig(max_length=32_768, eval_strategy="steps", **SEVEN)
    model = find_architecture(config.model_name_or_path)
    assert model is not None
    found = estimate_steps(config, model, Rows(500, 300, 32_768), Rows(64, 300, 32_768), INSTANCES[G5], 1)
    assert found.evaluating == "the fast step gives its memory back where evaluated rows are long"
    assert found.again == Duration(0, BEGIN_S[1])


def test_an_evaluation_at_the_end_alone_or_on_a_gpu_that_is_not_known_is_no_reason_to_begin_anew() -> None:
    assert steps_of(32_768, eval_strategy="no", **SEVEN).evaluating == ""
    unknown = steps_of(32_768, instance="ml.g99.xlarge", **SEVEN)
    assert (unknown.evaluating, unknown.again, unknown.scoring) == ("", Duration(0, 0), None)


def test_packed_evaluations_take_a_part_of_the_plain_path_s_time() -> None:
    fast, plain = steps_of(256, evaluated=512), steps_of(256, evaluated=512, fast_step="off")
    assert fast.scoring and plain.scoring
    assert fast.scoring.low < plain.scoring.low and fast.scoring.high < plain.scoring.high / 2


@pytest.mark.parametrize(("processes", "settings"), [(1, {"fast_step": "off"}), (4, {})])
def test_logits_that_do_not_fit_by_themselves_are_named_with_what_to_set(
    processes: int, settings: dict[str, Any]
) -> None:
    small = {"gradient_checkpointing": True, "per_device_train_batch_size": 1, **settings}
    wide = steps_of(2048, processes=processes, per_device_eval_batch_size=16, **small)
    assert wide.way.startswith("plain") and wide.memory.high > USABLE
    words = f"an evaluation's logits alone take {logits_gib(16, 2048):.1f} GiB, {logits_gib(7, 2048):.1f} with"
    assert wide.evaluating == f"{words} per_device_eval_batch_size = 7"
    eight, seven = (steps_of(2048, processes=processes, per_device_eval_batch_size=rows, **small) for rows in (8, 7))
    assert eight.evaluating and eight.memory.high > USABLE
    assert not seven.evaluating and seven.memory.high <= USABLE


def test_one_row_s_logits_that_do_not_fit_are_named_too() -> None:
    assert steps_of(32_768, per_device_eval_batch_size=4, fast_step="off", **SEVEN).evaluating == (
        "an evaluation's logits alone take 148.5 GiB, 37.1 with per_device_eval_batch_size = 1"
    )


def test_logits_are_not_blamed_where_the_base_itself_does_not_fit() -> None:
    whole = {"model_name_or_path": "meta-llama/Llama-2-7b-hf", "load_in_4bit": False, "compute_dtype": "float32"}
    assert steps_of(100, **whole).evaluating == ""


def test_every_new_beginning_costs_its_time_but_after_the_last_step() -> None:
    def seconds(again: Duration, **settings: Any) -> Duration:
        config = TrainConfig(max_steps=20, eval_strategy="steps", **settings)
        rows, scoring = Rows(64, 100, 100), Duration(3, 4)
        return estimate_duration(find_shape(config, None), config, Duration(1, 2), rows, scoring, 1, again)

    for eval_steps, begun in ((5, 3), (20, 0)):
        never, always = (seconds(again, eval_steps=eval_steps) for again in (Duration(0, 0), Duration(2, 16)))
        assert (always.low - never.low, always.high - never.high) == pytest.approx((2 * begun, 16 * begun))
