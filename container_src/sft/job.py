"""One training job from top to bottom."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from .artifact import save_artifact, write_json, write_results
from .batches import Padding
from .challenge import Evaluated, challenge, check_challenge, end_unchanged, reuse_stand_in
from .champion import read_champion
from .checkpoint import clean_staging, find_newest
from .comparison import compare
from .config import TrainConfig
from .costs import Costs
from .curves import find_notes
from .data import Encoded, Row, encode, load_rows
from .earlier_adapter import folder_with_adapter, read_adapter
from .environment import import_libraries, prepare_environment, process_count
from .evaluate import AbandonedError
from .failure import JobError
from .log import is_first_process, say, warn
from .manifest import describe_end, describe_start, device_name, make_manifest, make_origin, peak_memory_gib
from .model import attach_adapters, check_ids, choose_dtype, find_base, load_base, load_tokenizer, safe_pad_id
from .paths import Paths, resolve_paths
from .publication import check_publication
from .stand_in import make_stand_in
from .steps import make_schedule
from .stop import Stopping

# what an optimizer of the recipe does where it cannot page
UNPAGED = {"paged_adamw_32bit": "32-bit AdamW", "paged_adamw_8bit": "8-bit AdamW"}


def run_job(config: TrainConfig, stopping: Stopping) -> None:
    costs = Costs(peak_memory_gib)
    stopping.watch_clock(config.max_runtime_s)

    # where everything is, and the rows: whatever is wrong with them is said before anything heavy
    paths = resolve_paths(config, os.environ)
    prepare_environment(config, paths, os.environ)
    train_rows = load_rows(paths.train)
    eval_rows = load_rows(paths.eval) if paths.eval else []
    test_rows = load_rows(paths.test) if paths.test else []
    publication = check_publication(paths)
    champion = read_champion(paths.champion)
    check_eval_rows(config, len(eval_rows))
    origin = make_origin(config, train_rows, publication.get("data_digest", ""))
    say(f"Rows: {len(train_rows)} train, {len(eval_rows)} eval, {len(test_rows)} test.")
    if end_unchanged(champion, origin, config, paths, publication):
        return
    config = keep_biases(config, paths.adapter)
    check_challenge(champion, config, len(test_rows or eval_rows))

    # the newest whole checkpoint of this recipe and data, if the run has one
    if os.environ.get("LOCAL_RANK", "0") == "0":  # each machine of a job has a folder of its own
        paths.checkpoints.mkdir(parents=True, exist_ok=True)
        clean_staging(paths.checkpoints)
    resume = find_newest(paths.checkpoints, origin)

    # libraries
    with costs.phase("importing"):
        import_libraries()
    import transformers

    from .trainer import make_trainer

    transformers.set_seed(config.seed)

    # the base, or its stand-in
    base = find_base(config, paths)
    stand_in = tempfile.TemporaryDirectory(prefix="stand-in-") if config.smoke else None
    if stand_in is not None:
        folder = Path(stand_in.name)
        base = reuse_stand_in(champion, folder) or make_stand_in(base, config, train_rows, folder)
        say(
            f"Stand-in: a small random model of the family of {config.model_name_or_path}. "
            "Its adapter is of no use elsewhere."
        )

    # tokens and labels: a row that cannot be trained ends the job before the weights are downloaded
    tokenizer = load_tokenizer(base, config)
    with costs.phase("encoding"):
        train = encode_rows("train", train_rows, tokenizer, config)
        evaluation = encode_rows("eval", eval_rows, tokenizer, config)
        test = encode_rows("test", test_rows, tokenizer, config)

    # the weights and the adapters on them
    with costs.phase("loading"):
        model = attach_adapters(load_base(base, config), base, config, paths)
    trainable, total = model.get_nb_trainable_parameters()
    say(f"Model: {trainable:,} of {total:,} parameters are trained, on {device_name()}.")
    check_ids([*train, *evaluation, *test], model.config.vocab_size, base)
    length = config.max_length if config.padding == "max_length" else 0
    padding = Padding(safe_pad_id(tokenizer, model.config.vocab_size), length)

    # training, from the checkpoint on where there is one
    schedule = make_schedule(config, len(train), process_count(os.environ))
    if doubt := config.find_doubt(schedule.total):
        warn(f"{doubt}.")
    dtype = choose_dtype(config)
    trainer = make_trainer(
        model, tokenizer, padding, train, evaluation, config, schedule, paths, origin, stopping, dtype, costs,
        resume.path if resume else None,
    )  # fmt: skip
    check_same_start(trainer.accelerator, resume.step if resume else 0)
    _say_optimizer(config, trainer.optimizer_name)
    say(
        f"Training: {schedule.total} steps, {schedule.per_epoch} an epoch, "
        f"{config.effective_batch_size} rows a step and process."
    )
    if resume is not None:
        say(f"Resuming after step {resume.step} from {resume.path.name}.")
        trainer.take_up(resume.path)
    with costs.phase("training"):
        trainer.train(resume_from_checkpoint=str(resume.path) if resume else None)

    # the artifact, before the evaluation: whatever happens then, the adapter is safe
    done = trainer.state.global_step
    kept = trainer.restore_best()
    history = trainer.state.log_history
    end = (done, kept, schedule.total, trainer.after_step.early_stop)
    manifest = make_manifest(config, origin, base, model, schedule)
    manifest |= describe_end(*end, stopping.reason, evaluated=not trainer.after_step.owes_evaluation(trainer.state))
    manifest |= {
        "job": os.environ.get("TRAINING_JOB_NAME", ""),
        "continued_from": describe_start(config, paths.adapter),
        "publication": publication.get("id", ""),
        "arithmetic": str(dtype).removeprefix("torch."),
        "optimizer": trainer.optimizer_name,
    }
    manifest["health"] = [note.text for note in find_notes(history)]
    metrics = {
        "steps": done,
        "kept_step": kept,
        **_last_losses(history),
        "tokens": trainer.meter.tokens,
        "trained_tokens": trainer.meter.trained_tokens,
        **costs.sums(),
    }
    if is_first_process():
        save_artifact(paths.output, model, tokenizer, Path(stand_in.name) if stand_in else None, config.adapter_folder)
        write_results(paths.output, metrics, manifest)
        _write_outcome(paths, manifest)

    # base against tuned, on rows that no step has seen
    channel, rows = ("test", test) if test else ("eval", evaluation)
    final = Evaluated({}, channel, rows)
    if manifest["outcome"] == "completed":
        try:
            with costs.phase("evaluating"):
                final = compare_with_base(trainer, channel, rows, kept, config)
        except AbandonedError:
            manifest |= describe_end(*end, stopping.reason, evaluated=False)
            say(f"The final evaluation is given up: {trainer.after_step.reason}. The adapter is in its place.")
    elif test or evaluation:
        say("No final evaluation: a job that was asked to stop has no time for it.")
    problem = find_broken_result(final.comparison)
    if problem:
        manifest |= {"outcome": "failed", "reason": problem}
    metrics |= {**_final_numbers(final.comparison, kept), **costs.sums()}
    if is_first_process():
        write_results(paths.output, metrics, manifest, final.comparison)
        _write_outcome(paths, manifest)
        _say_outcome(manifest, metrics, paths.output)
    if champion is not None:
        challenge(trainer, champion, final, config, paths, manifest, os.environ)
    if stand_in is not None:
        stand_in.cleanup()
    if problem:
        raise JobError(problem)


def keep_biases(config: TrainConfig, adapter: Path | None) -> TrainConfig:
    """Whether biases are trained is said by an adapter that is continued from, as everything else about it is."""
    if adapter is None:
        return config
    bias: Any = read_adapter(folder_with_adapter(adapter)).bias
    return dataclasses.replace(config, lora_bias=bias)


def check_same_start(accelerator: Any, step: int) -> None:
    """Every process finds its checkpoint alone, and one may look while another puts a folder back that a kill left."""
    if accelerator.num_processes == 1:
        return
    import torch

    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise JobError(
            f"The processes of the job would go on from different steps ({', '.join(map(str, steps))}), so nothing was "
            "trained. Submit it again: what an interrupted save left behind is in its place now."
        )


def check_eval_rows(config: TrainConfig, rows: int) -> None:
    """Settings that go by the eval loss would do nothing without rows to take it from."""
    if not rows and (config.load_best_model_at_end or config.early_stopping_patience):
        raise JobError(
            "load_best_model_at_end and early_stopping_patience go by the eval loss, and there are no eval rows. Give "
            "the job an eval channel or eval_data_path, or leave both settings out."
        )


def _write_outcome(paths: Paths, manifest: dict[str, Any]) -> None:
    """Beside the checkpoints, where the launcher reads it: SageMaker calls a job that stopped by itself Completed."""
    found = {
        "job": manifest["job"],
        "outcome": manifest["outcome"],
        "reason": manifest["reason"],
        "steps": manifest["steps_done"],
        "steps_total": manifest["steps_total"],
    }
    write_json(paths.checkpoints / "outcome.json", found)


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


def _final_numbers(comparison: dict[str, Any], kept: int) -> dict[str, Any]:
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


def _last_losses(history: list[dict[str, float]]) -> dict[str, float]:
    losses = [line["loss"] for line in history if "loss" in line]
    evaluations = [line for line in history if "eval_loss" in line]
    found = {"first_loss": losses[0], "loss": losses[-1]} if losses else {}
    if not evaluations:
        return found
    return {**found, "eval_loss": evaluations[-1]["eval_loss"], "eval_step": evaluations[-1]["step"]}


def _say_optimizer(config: TrainConfig, chosen: str) -> None:
    import torch

    if chosen == "adamw_torch_fused":
        say(f"Optimizer: fused AdamW instead of {config.optim}: the same arithmetic on float32 states.")
    elif chosen != config.optim:
        say(f"Optimizer: {chosen} instead of {config.optim}, which this bitsandbytes does not have for a CPU.")
    elif config.optim in UNPAGED and not torch.cuda.is_available():
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
