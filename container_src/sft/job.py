"""One training job from top to bottom."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from .artifact import save_artifact
from .batches import Padding
from .checkpoint import clean_staging, find_newest
from .config import TrainConfig
from .data import Encoded, Row, encode, load_rows
from .environment import import_libraries, prepare_environment, process_count
from .log import is_first_process, say, warn
from .manifest import device_name, make_manifest, make_origin, peak_memory_gib
from .model import attach_adapters, choose_dtype, find_base, load_base, load_tokenizer, safe_pad_id
from .paths import resolve_paths
from .stand_in import make_stand_in
from .steps import make_schedule
from .stop import Stopping

# what an optimizer of the recipe does where it cannot page
UNPAGED = {"paged_adamw_32bit": "32-bit AdamW", "paged_adamw_8bit": "8-bit AdamW"}


def run_job(config: TrainConfig, stopping: Stopping) -> None:
    started = time.monotonic()
    stopping.watch_clock(config.max_runtime_s)

    # where everything is, and the rows: whatever is wrong with them is said before anything heavy
    paths = resolve_paths(config, os.environ)
    prepare_environment(config, paths, os.environ)
    train_rows = load_rows(paths.train)
    eval_rows = load_rows(paths.eval) if paths.eval else []
    test_rows = load_rows(paths.test) if paths.test else []
    origin = make_origin(config, train_rows)
    say(f"Rows: {len(train_rows)} train, {len(eval_rows)} eval, {len(test_rows)} test.")

    # the newest whole checkpoint of this recipe and data, if the run has one
    if is_first_process():
        paths.checkpoints.mkdir(parents=True, exist_ok=True)
        clean_staging(paths.checkpoints)
    resume = find_newest(paths.checkpoints, origin)

    # libraries
    imports_s = import_libraries()
    import transformers

    from .trainer import make_trainer

    transformers.set_seed(config.seed)

    # base model, tokenizer, adapters
    base = find_base(config, paths)
    stand_in = tempfile.TemporaryDirectory(prefix="stand-in-") if config.smoke else None
    if stand_in is not None:
        base = make_stand_in(base, config, train_rows, Path(stand_in.name))
        say(
            f"Stand-in: a small random model of the family of {config.model_name_or_path}. "
            "Its adapter is of no use elsewhere."
        )
    tokenizer = load_tokenizer(base, config)
    model = attach_adapters(load_base(base, config), base, config, paths)
    trainable, total = model.get_nb_trainable_parameters()
    say(f"Model: {trainable:,} of {total:,} parameters are trained, on {device_name()}.")

    # tokens and labels
    train = encode_rows("train", train_rows, tokenizer, config)
    evaluation = encode_rows("eval", eval_rows, tokenizer, config)
    test = encode_rows("test", test_rows, tokenizer, config)
    length = config.max_length if config.padding == "max_length" else 0
    padding = Padding(safe_pad_id(tokenizer, model.config.vocab_size), length)

    # training, from the checkpoint on where there is one
    schedule = make_schedule(config, len(train), process_count(os.environ))
    dtype = choose_dtype(config)
    trainer = make_trainer(
        model, tokenizer, padding, train, evaluation, config, schedule, paths, origin, stopping, dtype
    )
    _say_optimizer(config)
    say(
        f"Training: {schedule.total} steps, {schedule.per_epoch} an epoch, "
        f"{config.effective_batch_size} rows a step and process."
    )
    if resume is not None:
        say(f"Resuming after step {resume.step} from {resume.path.name}.")
    begun = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resume.path) if resume else None)
    trained_s = time.monotonic() - begun

    # the final numbers, on rows that no step has seen
    done = trainer.state.global_step
    final = evaluate_finally(trainer, test, evaluation)
    metrics = {
        "steps": done,
        **_last_losses(trainer.state.log_history),
        **final,
        "tokens": trainer.meter.tokens,
        "trained_tokens": trainer.meter.trained_tokens,
        "peak_memory_gib": round(peak_memory_gib(), 3),
        "seconds_importing": round(imports_s, 2),
        "seconds_to_first_step": round(begun - started, 2),
        "seconds_training": round(trained_s, 2),
        "seconds": round(time.monotonic() - started, 2),
    }

    # the artifact
    if is_first_process():
        reason = stopping.reason or "another process of the job was asked to stop"
        manifest = make_manifest(config, origin, base, model, schedule, done, reason)
        save_artifact(paths.output, model, tokenizer, metrics, manifest, Path(stand_in.name) if stand_in else None)
        _say_outcome(manifest, metrics, paths.output)
    if stand_in is not None:
        stand_in.cleanup()


def encode_rows(channel: str, rows: list[Row], tokenizer: Any, config: TrainConfig) -> list[Encoded]:
    """A channel as tokens; says how much was cut."""
    encoded = [encode(row, tokenizer, config) for row in rows]
    cut = sum(row.truncated for row in encoded)
    if cut:
        endless = sum(not row.ends for row in encoded)
        warn(
            f"{cut} of {len(rows)} rows of {channel} were cut at max_length = {config.max_length}, "
            f"{endless} of them before their end token."
        )
    if encoded:
        longest = max(len(row.input_ids) for row in encoded)
        say(
            f"Tokens of {channel}: {sum(len(row.input_ids) for row in encoded):,}, the longest row {longest}, "
            f"{sum(row.trained for row in encoded):,} trained."
        )
    return encoded


def evaluate_finally(trainer: Any, test: list[Encoded], evaluation: list[Encoded]) -> dict[str, Any]:
    """On the test channel if there is one, else on eval, unless its last evaluation was of this very model."""
    if test:
        return {"evaluated_on": "test", **trainer.evaluate(test)}
    if not evaluation:
        return {}
    step, latest = trainer.latest_score
    return {
        "evaluated_on": "eval",
        **(latest if step == trainer.state.global_step else trainer.evaluate(evaluation)),
    }


def _last_losses(history: list[dict[str, float]]) -> dict[str, float]:
    losses = [line["loss"] for line in history if "loss" in line]
    return {"first_loss": losses[0], "loss": losses[-1]} if losses else {}


def _say_optimizer(config: TrainConfig) -> None:
    import torch

    if config.optim in UNPAGED and not torch.cuda.is_available():
        say(
            f"Optimizer: {config.optim} as plain {UNPAGED[config.optim]}, since a CPU has nothing to page to. "
            "The arithmetic is the same."
        )
    else:
        say(f"Optimizer: {config.optim}.")


def _say_outcome(manifest: dict[str, Any], metrics: dict[str, Any], output: Path) -> None:
    why = f" ({manifest['reason']})" if manifest["reason"] else ""
    steps = f"{manifest['steps_done']} of {manifest['steps_total']} steps"
    say(
        f"Outcome: {manifest['outcome']}{why} after {steps}, {metrics['seconds']} s, "
        f"{metrics['peak_memory_gib']} GiB at most."
    )
    say(f"The adapter is in {output}.")
