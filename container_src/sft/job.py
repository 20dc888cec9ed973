"""One training job from top to bottom."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artifact import save_artifact, write_json, write_results
from .batches import Padding
from .challenge import Evaluated, challenge, check_challenge, end_unchanged, reuse_stand_in
from .champion import Champion, read_champion
from .channels import Channels, check_eval_rows, encode_channels, load_channels
from .checkpoint import Checkpoint, Origin, clean_staging, find_newest
from .config import TrainConfig
from .costs import Costs
from .curves import find_notes
from .data import Encoded, Row
from .earlier_adapter import folder_with_adapter, read_adapter
from .environment import import_libraries, prepare_environment, process_count
from .evaluate import AbandonedError
from .failure import JobError
from .final_evaluation import compare_with_base, final_numbers, find_broken_result
from .log import is_first_process, say, warn
from .manifest import describe_end, describe_start, device_name, make_manifest, make_origin, peak_memory_gib
from .model import Base, attach_adapters, check_ids, choose_dtype, find_base, load_base, load_tokenizer, safe_pad_id
from .paths import Paths, resolve_paths
from .publication import check_publication
from .stand_in import make_stand_in
from .steps import Schedule, make_schedule
from .stop import Stopping

if TYPE_CHECKING:
    from .trainer import StepTrainer

# what an optimizer of the recipe does where it cannot page
UNPAGED = {"paged_adamw_32bit": "32-bit AdamW", "paged_adamw_8bit": "8-bit AdamW"}


def run_job(config: TrainConfig, stopping: Stopping) -> None:
    costs = Costs(peak_memory_gib)
    stopping.watch_clock(config.max_runtime_s)

    # where everything is, and the rows: whatever is wrong with them is said before anything heavy
    paths = resolve_paths(config, os.environ)
    prepare_environment(config, paths, os.environ)
    rows = load_channels(paths)
    publication = check_publication(paths)
    champion = read_champion(paths.champion)
    check_eval_rows(config, len(rows.eval))
    origin = make_origin(config, rows.train, publication.get("data_digest", ""))
    say(f"Rows: {len(rows.train)} train, {len(rows.eval)} eval, {len(rows.test)} test.")
    if end_unchanged(champion, origin, config, paths, publication):
        return
    config = keep_biases(config, paths.adapter)
    check_challenge(champion, config, len(rows.test or rows.eval))
    resume = find_resume(paths.checkpoints, origin)

    with costs.phase("importing"):
        import_libraries()
    seed_libraries(config)
    with tempfile.TemporaryDirectory(prefix="stand-in-") as folder:
        base = choose_base(config, paths, champion, rows.train, Path(folder))

        # a row that cannot be trained ends the job before the weights are downloaded
        tokenizer = load_tokenizer(base, config)
        with costs.phase("encoding"):
            tokens = encode_channels(rows, tokenizer, config)
        with costs.phase("loading"):
            model = load_model(base, config, paths, tokens)

        # training, from the checkpoint on where there is one
        schedule = choose_schedule(config, len(tokens.train))
        trainer = prepare_training(model, tokenizer, tokens, config, schedule, paths, origin, stopping, costs, resume)
        with costs.phase("training"):
            trainer.train(resume_from_checkpoint=str(resume.path) if resume else None)

        # the artifact, before the evaluation: whatever happens then, the adapter is safe
        kept = trainer.restore_best()
        manifest = make_manifest(config, origin, base, model, schedule) | find_end(trainer, kept, schedule, stopping)
        manifest |= describe_training(trainer, config, paths.adapter, publication.get("id", ""))
        metrics = sum_up_training(trainer, kept) | costs.sums()
        if is_first_process():
            save_artifact(paths.output, model, tokenizer, Path(folder) if config.smoke else None, config.adapter_folder)
            write_end(paths, metrics, manifest)

        # base against tuned, and champion against both, on rows that no step has seen
        with costs.phase("evaluating"):
            final, changed = evaluate_result(trainer, tokens, kept, schedule, config, stopping, manifest["outcome"])
        manifest |= changed
        metrics |= {**final_numbers(final.comparison, kept), **costs.sums()}
        if is_first_process():
            write_end(paths, metrics, manifest, final.comparison)
            _say_outcome(manifest, metrics, paths.output)
        if champion is not None:
            challenge(trainer, champion, final, config, paths, manifest, os.environ)
    if manifest["outcome"] == "failed":
        raise JobError(manifest["reason"])


def keep_biases(config: TrainConfig, adapter: Path | None) -> TrainConfig:
    """Whether biases are trained is said by an adapter that is continued from, as everything else about it is."""
    if adapter is None:
        return config
    bias: Any = read_adapter(folder_with_adapter(adapter)).bias
    return dataclasses.replace(config, lora_bias=bias)


def find_resume(checkpoints: Path, origin: Origin) -> Checkpoint | None:
    """The newest whole checkpoint of this recipe and data, if the run has one."""
    if os.environ.get("LOCAL_RANK", "0") == "0":  # each machine of a job has a folder of its own
        checkpoints.mkdir(parents=True, exist_ok=True)
        clean_staging(checkpoints)
    return find_newest(checkpoints, origin)


def seed_libraries(config: TrainConfig) -> None:
    import transformers

    transformers.set_seed(config.seed)


def choose_base(config: TrainConfig, paths: Paths, champion: Champion | None, rows: list[Row], folder: Path) -> Base:
    """The base, or its stand-in, which is made in the folder."""
    base = find_base(config, paths)
    if not config.smoke:
        return base
    base = reuse_stand_in(champion, folder) or make_stand_in(base, config, rows, folder)
    say(
        f"Stand-in: a small random model of the family of {config.model_name_or_path}. "
        "Its adapter is of no use elsewhere."
    )
    return base


def load_model(base: Base, config: TrainConfig, paths: Paths, tokens: Channels[Encoded]) -> Any:
    """The weights and the adapters on them."""
    model = attach_adapters(load_base(base, config), base, config, paths)
    trainable, total = model.get_nb_trainable_parameters()
    say(f"Model: {trainable:,} of {total:,} parameters are trained, on {device_name()}.")
    check_ids([*tokens.train, *tokens.eval, *tokens.test], model.config.vocab_size, base)
    return model


def choose_schedule(config: TrainConfig, rows: int) -> Schedule:
    schedule = make_schedule(config, rows, process_count(os.environ))
    if doubt := config.find_doubt(schedule.total):
        warn(f"{doubt}.")
    return schedule


def prepare_training(
    model: Any,
    tokenizer: Any,
    tokens: Channels[Encoded],
    config: TrainConfig,
    schedule: Schedule,
    paths: Paths,
    origin: Origin,
    stopping: Stopping,
    costs: Costs,
    resume: Checkpoint | None,
) -> StepTrainer:
    """The trainer, with what the run has done up to its checkpoint; says what is about to happen."""
    from .trainer import make_trainer

    length = config.max_length if config.padding == "max_length" else 0
    padding = Padding(safe_pad_id(tokenizer, model.config.vocab_size), length)
    trainer = make_trainer(
        model, tokenizer, padding, tokens.train, tokens.eval, config, schedule, paths, origin, stopping,
        choose_dtype(config), costs, resume.path if resume else None,
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
    return trainer


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


def find_end(
    trainer: StepTrainer, kept: int, schedule: Schedule, stopping: Stopping, *, abandoned: bool = False
) -> dict[str, Any]:
    """How the job ends, for its manifest; `abandoned`: its final evaluation."""
    evaluated = not abandoned and not trainer.after_step.owes_evaluation(trainer.state)
    early_stop = trainer.after_step.early_stop
    return describe_end(trainer.state.global_step, kept, schedule.total, early_stop, stopping.reason, evaluated)


def describe_training(
    trainer: StepTrainer, config: TrainConfig, adapter: Path | None, publication: str
) -> dict[str, Any]:
    """Whose training it was, from where, and how it went, for the manifest."""
    return {
        "job": os.environ.get("TRAINING_JOB_NAME", ""),
        "continued_from": describe_start(config, adapter),
        "publication": publication,
        "arithmetic": str(choose_dtype(config)).removeprefix("torch."),
        "optimizer": trainer.optimizer_name,
        "health": [note.text for note in find_notes(trainer.state.log_history)],
    }


def sum_up_training(trainer: StepTrainer, kept: int) -> dict[str, Any]:
    return {
        "steps": trainer.state.global_step,
        "kept_step": kept,
        **_last_losses(trainer.state.log_history),
        "tokens": trainer.meter.tokens,
        "trained_tokens": trainer.meter.trained_tokens,
    }


def _last_losses(history: list[dict[str, float]]) -> dict[str, float]:
    losses = [line["loss"] for line in history if "loss" in line]
    evaluations = [line for line in history if "eval_loss" in line]
    found = {"first_loss": losses[0], "loss": losses[-1]} if losses else {}
    if not evaluations:
        return found
    return {**found, "eval_loss": evaluations[-1]["eval_loss"], "eval_step": evaluations[-1]["step"]}


def evaluate_result(
    trainer: StepTrainer,
    tokens: Channels[Encoded],
    kept: int,
    schedule: Schedule,
    config: TrainConfig,
    stopping: Stopping,
    outcome: str,
) -> tuple[Evaluated, dict[str, Any]]:
    """Base against tuned, and what the manifest says otherwise after it."""
    channel, rows = tokens.judging
    nothing = Evaluated({}, channel, rows)
    if outcome != "completed":
        if rows:
            say("No final evaluation: a job that was asked to stop has no time for it.")
        return nothing, {}
    try:
        final = compare_with_base(trainer, channel, rows, kept, config)
    except AbandonedError:
        say(f"The final evaluation is given up: {trainer.after_step.reason}. The adapter is in its place.")
        return nothing, find_end(trainer, kept, schedule, stopping, abandoned=True)
    problem = find_broken_result(final.comparison)
    return final, {"outcome": "failed", "reason": problem} if problem else {}


def write_end(
    paths: Paths, metrics: dict[str, Any], manifest: dict[str, Any], comparison: dict[str, Any] | None = None
) -> None:
    write_results(paths.output, metrics, manifest, comparison)
    _write_outcome(paths, manifest)


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
