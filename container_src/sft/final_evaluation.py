"""The model with its adapter on and off, on the same rows: what a job says of its own result."""

from __future__ import annotations

import math
from typing import Any

from .challenge import Evaluated
from .comparison import compare
from .config import TrainConfig
from .data import Encoded
from .evaluate import AbandonedError
from .log import say


def compare_with_base(trainer: Any, channel: str, rows: list[Encoded], kept: int, config: TrainConfig) -> Evaluated:
    """Loss, perplexity and accuracy with the adapter on and off, and what may be said about the difference.

    Raises AbandonedError when the job is asked to stop meanwhile, or its time limit leaves no room.
    """
    if not rows:
        return Evaluated({}, channel, rows)
    if config.lora_bias != "none":
        say("No comparison with the base: with trained biases, switching the adapter off does not give it back.")
        return Evaluated({}, channel, rows)
    model = trainer.accelerator.unwrap_model(trainer.model)
    step, latest = trainer.latest
    known = channel == "eval" and step == kept and latest is not None
    say(f"Final evaluation: base against tuned, {len(rows)} rows of {channel}.")
    if not trainer.has_time_to_score(rows if known else [*rows, *rows]):
        raise AbandonedError
    tuned = latest if known else trainer.score(rows)
    with model.disable_adapter():
        base = trainer.score(rows)
    if base.packed != tuned.packed:  # packing was given up in between
        tuned = trainer.score(rows)
    chosen_by_rows = channel == "eval" and config.load_best_model_at_end
    comparison = compare(base, tuned, channel, config.seed, chosen_by_rows=chosen_by_rows)
    say(f"Evaluation: {comparison['sentence']}")
    return Evaluated(comparison, channel, rows, base, tuned)


def find_broken_result(comparison: dict[str, Any]) -> str:
    """Why the tuned model is of no use to anybody, and what to do, or ""."""
    if not comparison or math.isfinite(comparison["tuned"]["loss"]["value"]):
        return ""
    return (
        f"The tuned model is of no use. {comparison['sentence']} Lower learning_rate or max_grad_norm, add "
        "warmup_steps, or use bfloat16 instead of float16, and submit with --fresh."
    )


def final_numbers(comparison: dict[str, Any], kept: int) -> dict[str, Any]:
    """The tuned model's numbers by the names of the metric lines, and beside them the base's."""
    if not comparison:
        return {}
    tuned, base = comparison["tuned"], comparison["base"]
    return {
        "evaluated_on": comparison["evaluated_on"],
        "eval_step": kept,
        "eval_loss": tuned["loss"]["value"],
        "eval_perplexity": tuned["perplexity"]["value"],
        "eval_mean_token_accuracy": tuned["token_accuracy"]["value"],
        "eval_tokens": comparison["tokens"],
        "base_loss": base["loss"]["value"],
        "base_perplexity": base["perplexity"]["value"],
        "base_mean_token_accuracy": base["token_accuracy"]["value"],
        "verdict": comparison["verdict"],
    }
