"""SFTTrainer with the optimizer step as its unit.

Trainer's loop sees one batch per step, which holds all micro-batches of it. So the loss of a step is averaged over its
trained tokens exactly, however they are split; a resume continues at a step, never inside one (Trainer 4.56 loses an
epoch's last, shorter accumulation after a resume in that epoch); and a faster way to run a step has one place to go.
"""

# heavy imports at module level: job.py imports this module only when the training begins, and the classes here inherit
from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
import transformers  # noqa: TID253
import trl  # noqa: TID253
from transformers.integrations import TensorBoardCallback  # noqa: TID253

from .after_step import AfterStep
from .arguments import choose_optimizer, make_arguments
from .batches import Padding, StepDataset
from .best import Best
from .checkpoint import Origin, prune, publish, staging_folder
from .config import TrainConfig
from .costs import Costs, read_sums, write_sums
from .data import Encoded
from .environment import process_count
from .evaluate import AbandonedError, RowScores, score_rows
from .failure import JobError
from .fast_step import FastStep, find_reason_against
from .log import MetricsFile, is_first_process, say
from .manifest import peak_memory_gib
from .meter import Meter
from .metric_lines import MetricLines
from .packed_scores import PackedScores
from .paths import Paths
from .scoring import Scoring
from .step_runner import StepRunner
from .steps import Schedule, make_steps
from .stop import Stopping


class NothingToTrain(Exception):  # noqa: N818 - no error
    """Before the first step of a resumed job: it had ended early, or was asked to stop already."""


class TakeUp(transformers.TrainerCallback):
    """What a resumed job still owes before its first step."""

    def __init__(self, trainer: StepTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_training_stop and self._trainer.after_step.owes_evaluation(state):
            say(f"The evaluation of step {state.global_step} is made now: its checkpoint was saved without it.")
            self._trainer.evaluate()
        if control.should_training_stop:
            raise NothingToTrain


def _check_weights(model: Any, step: int) -> None:
    """Before they are saved: such a checkpoint would push out the good ones, and be resumed for ever."""
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters() if weight.requires_grad):
        raise JobError(
            f"The adapter's weights are no longer numbers at step {step}, so nothing of them was saved. Lower "
            "learning_rate or max_grad_norm, add warmup_steps, or use bfloat16 instead of float16, and submit with "
            "--fresh: the checkpoints so far belong to the old settings."
        )


class StepTrainer(trl.SFTTrainer):
    """One call of training_step is one optimizer step; checkpoints appear whole; evaluation is exact over tokens."""

    def __init__(
        self,
        config: TrainConfig,
        schedule: Schedule,
        padding: Padding,
        checkpoints: Any,
        origin: Origin,
        costs: Costs,
        **kwargs: Any,
    ) -> None:
        self._config = config
        self._padding = padding
        self._checkpoints = checkpoints
        self._origin = origin
        self._costs = costs
        self._schedule = schedule
        self.meter = Meter(schedule)
        self._rate = 0.0
        self.best = Best()
        # the step of the last evaluation, and what it found
        self.latest: tuple[int, RowScores | None] = (-1, None)
        with _prepared_already(kwargs["model"]):
            super().__init__(**kwargs)

    def take_up(self, checkpoint: Path) -> None:
        """What Trainer does not read from a checkpoint itself."""
        self.best.load(checkpoint)
        if sums := read_sums(checkpoint):
            self.meter.load(sums["meter"], self.accelerator)
            self.after_step.load(sums["after_step"])
            self._costs.load(sums["costs"])

    def train(self, *args: Any, **kwargs: Any) -> Any:
        read_states_on_cpu()
        try:
            return super().train(*args, **kwargs)
        except NothingToTrain:
            self.is_in_train = False
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            return None

    def get_train_dataloader(self) -> Any:
        """Our dataset is ordered, shared out and batched already; and a loader must not draw from the dropout's RNG."""
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=1,
            shuffle=False,
            collate_fn=_only_item,
            generator=torch.Generator(),
        )

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        model.train()
        self._rate = self.optimizer.param_groups[0]["lr"]
        loss, rights = self.runner.run(model, inputs, self.state.global_step)
        self.meter.add(inputs, loss / self.accelerator.num_processes, rights)
        # kernels are compiled and graphs captured within it
        if words := self._costs.note_first_step():
            say(words)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # Trainer's guess, which nobody reads, looks for input_ids in the batch

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.after_step.saves_first:
            self._save_now()
        try:
            with self.meter.paused(), self.after_step.timed_evaluation():
                found = self.score(rows)
        except AbandonedError:
            say(f"The evaluation of step {self.state.global_step} is given up: {self.after_step.reason}.")
            self.after_step.give_up_evaluation(self.state, self.control)
            return {}
        metrics = found.total.as_metrics(metric_key_prefix)
        self.latest = (self.state.global_step, found)
        if self._config.load_best_model_at_end:
            self.best.offer(self.state.global_step, found.total.loss, self.accelerator.unwrap_model(self.model))
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, rows: list[Encoded]) -> RowScores:
        """Raises AbandonedError when the job is asked to stop meanwhile."""
        packed = self.packed_scores.score if self.packed_scores and self.runner.is_fast else None
        return self.scoring.run(functools.partial(self._score, rows), rows, packed)

    def has_time_to_score(self, rows: list[Encoded]) -> bool:
        """By the seconds of the last evaluation; also where there was none."""
        length = sum(len(row.input_ids) for row in self.eval_dataset or [])
        return self.after_step.has_time_for(sum(len(row.input_ids) for row in rows) / length if length else 0.0)

    def _score(self, rows: list[Encoded], size: int) -> RowScores:
        return score_rows(self.model, rows, self._padding, size, self.accelerator, self.after_step.should_stop)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # Trainer rounds its own to four places
            logs.update(self.meter.take(self.state.global_step, self.accelerator))
            logs["learning_rate"] = self._rate  # the step's own: some versions log the next one's
        # to Trainer's loop the whole job is one epoch
        self.state.epoch = self._schedule.epoch_of(self.state.global_step)
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        return str(staging_folder(self._checkpoints, self.state.global_step))

    def _save_now(self) -> None:
        """Before an evaluation; what the step was to save after it, it still saves."""
        wanted = self.control.should_save
        self._save_checkpoint(self.model_wrapped, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.control.should_save = wanted

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        step = self.state.global_step
        staged = staging_folder(self._checkpoints, step)
        _check_weights(self.accelerator.unwrap_model(self.model), step)
        with self.meter.paused():
            if self.is_world_process_zero():
                shutil.rmtree(staged, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(*args, **kwargs)
            meter = self.meter.save(self.accelerator)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                sums = {
                    "optimizer": self.optimizer_name,
                    "meter": meter,
                    "after_step": self.after_step.save(),
                    "costs": self._costs.sums(),
                }
                write_sums(staged / f"checkpoint-{step}", sums)
                publish(self._checkpoints, step, self._origin)
                prune(self._checkpoints, self._config.save_total_limit)
            self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Adapters alone: Trainer's own adds a pickle of its arguments, and peft asks the Hub about the vocabulary."""
        self.accelerator.unwrap_model(self.model).save_pretrained(
            output_dir or self.args.output_dir, safe_serialization=True, save_embedding_layers=False
        )
        self.best.save(Path(output_dir or self.args.output_dir))

    def restore_best(self) -> int:
        """The step of the adapter that is kept: the best by eval loss where the recipe wants it, else the last."""
        done = int(self.state.global_step)
        if not self.best.step or self.best.step == done:
            return done
        self.best.restore(self.accelerator.unwrap_model(self.model))
        say(f"Kept the adapter of step {self.best.step}, whose eval loss of {self.best.loss:.4f} is the lowest.")
        return self.best.step

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: trl writes one beside every checkpoint."""


@functools.cache  # once in a process: torch cannot sort two of a kind
def read_states_on_cpu() -> None:
    """Processes that share a CPU ask for what a checkpoint holds on "cpu:0", and torch.load knows "cpu" alone."""

    def restore(storage: Any, location: str) -> Any:
        return storage if location.startswith("cpu:") else None

    torch.serialization.register_package(5, lambda storage: None, restore)


def _only_item(items: list[dict[str, Any]]) -> dict[str, Any]:
    return items[0]


@contextlib.contextmanager
def _prepared_already(model: Any) -> Iterator[None]:
    """Keep trl from preparing a quantised model again: it would freeze the adapters and turn the rest to float32."""
    base = model.get_base_model()
    quantised = getattr(base, "is_loaded_in_4bit", False)
    base.is_loaded_in_4bit = False
    try:
        yield
    finally:
        base.is_loaded_in_4bit = quantised


def make_trainer(
    model: Any,
    tokenizer: Any,
    padding: Padding,
    train: list[Encoded],
    evaluation: list[Encoded],
    config: TrainConfig,
    schedule: Schedule,
    paths: Paths,
    origin: Origin,
    stopping: Stopping,
    dtype: torch.dtype,
    costs: Costs | None = None,
    resume: Path | None = None,
) -> StepTrainer:
    reason = find_reason_against(model, config, dtype, process_count(os.environ))
    kept = read_sums(resume).get("optimizer", "") if resume else ""
    optimizer = choose_optimizer(config, fast=not reason, kept=kept)
    args = make_arguments(config, schedule, paths, dtype, optimizer)
    steps = make_steps(len(train), config.effective_batch_size * args.world_size, schedule.total, config.seed)
    dataset = StepDataset(
        train, steps, config.per_device_train_batch_size, padding, args.process_index, args.world_size, not reason
    )
    trainer = StepTrainer(
        config=config,
        schedule=schedule,
        padding=padding,
        checkpoints=paths.checkpoints,
        origin=origin,
        costs=costs or Costs(peak_memory_gib),
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=evaluation or None,
        processing_class=tokenizer,
        data_collator=_only_item,
    )
    trainer.optimizer_name = optimizer
    encoded = [[train[index] for index in step] for step in steps]
    fast = None if reason else FastStep(model, encoded, config.seed, dtype)
    trainer.runner = StepRunner(trainer, dataset, fast, reason)
    trainer.scoring = Scoring(config.per_device_eval_batch_size, args.world_size, trainer.runner.give_way)
    trainer.after_step = AfterStep(schedule, stopping, trainer.accelerator)
    should_stop, give_way = trainer.after_step.should_stop, trainer.runner.give_way
    trainer.packed_scores = None if reason else PackedScores(model, dtype, give_way, should_stop)
    trainer.add_callback(trainer.after_step if evaluation else trainer.after_step.without_evaluation())
    board = _find_board(trainer)
    if board is not None and is_first_process():
        # an earlier attempt's files would double the curve, which MetricLines writes anew
        shutil.rmtree(paths.output / "tensorboard", ignore_errors=True)
    trainer.add_callback(MetricLines(schedule, MetricsFile(paths.output / "metrics.jsonl"), board))
    trainer.add_callback(TakeUp(trainer))  # last: it may evaluate, which the others then hear of
    # prints every log as a dict, which our metric lines replace
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _find_board(trainer: StepTrainer) -> Any:
    """What writes TensorBoard's files, if the recipe wants them."""
    callbacks = trainer.callback_handler.callbacks
    return next((found for found in callbacks if isinstance(found, TensorBoardCallback)), None)
