"""SFTTrainer with the optimizer step as its unit.

Trainer's loop sees one batch per step, which holds all micro-batches of it. So the loss of a step is averaged over its
trained tokens exactly, however they are split; a resume continues at a step, never inside one (Trainer 4.56 loses an
epoch's last, shorter accumulation after a resume in that epoch); and a faster way to run a step has one place to go.
"""

# heavy imports at module level: job.py imports this module only when the training begins, and the classes here inherit
from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
import transformers  # noqa: TID253
import trl  # noqa: TID253

from .arguments import choose_optimizer, make_arguments
from .batches import Padding, StepDataset
from .best import Best
from .checkpoint import Origin, prune, publish, staging_folder
from .config import TrainConfig
from .curves import evaluations_without_gain, find_explosion, find_notes
from .data import Encoded
from .environment import process_count
from .evaluate import RowScores, score_rows
from .failure import JobError
from .fast_step import FastStep, find_reason_against
from .log import MetricsFile, metric_line, say
from .paths import Paths
from .step_runner import StepRunner
from .steps import Schedule, make_steps
from .stop import Stopping

# a save at least this often, so that a lost machine never costs more
SAVE_AT_LEAST_EVERY_S = 600.0

METRIC_ORDER = (
    "epoch", "loss", "learning_rate", "grad_norm", "mean_token_accuracy", "tokens_per_second", "samples_per_second",
    "steps_per_second", "eta_s", "eval_loss", "eval_perplexity", "eval_mean_token_accuracy", "eval_tokens",
)  # fmt: skip


class Meter:
    """What happened since the last metric line, kept on the device so that no step waits for the host."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.tokens = 0
        self.trained_tokens = 0
        self._reset()

    def _reset(self) -> None:
        self._since = time.monotonic()
        self._idle_s = 0.0
        self._losses: list[Any] = []
        self._rights: list[Any] = []
        self._steps = self._rows = self._tokens = self._trained = 0

    def add(self, step: dict[str, Any], loss: Any, right: Any) -> None:
        self._losses.append(loss)
        self._rights.append(right)
        self._steps += 1
        self._rows += step["rows"]
        self._tokens += step["tokens"]
        self._trained += step["trained"]
        self.tokens += step["tokens"]
        self.trained_tokens += step["trained"]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Evaluating and saving do not count as slow steps."""
        started = time.monotonic()
        yield
        self._idle_s += time.monotonic() - started

    def take(self, done: int, accelerator: Any) -> dict[str, float]:
        """The numbers of one metric line, over the steps since the last one and over all processes."""
        sums = accelerator.reduce(
            torch.stack([sum(self._losses), sum(self._rights)]).double(), reduction="sum"
        ).tolist()
        seconds = max(time.monotonic() - self._since - self._idle_s, 1e-9)
        speed = self._steps / seconds
        values = {
            "loss": sums[0] / self._steps,
            "mean_token_accuracy": sums[1] / self._trained,
            "tokens_per_second": self._tokens / seconds,
            "samples_per_second": self._rows / seconds,
            "steps_per_second": speed,
            "eta_s": round((self._schedule.total - done) / speed),
        }
        self._reset()
        return values


class AfterStep(transformers.TrainerCallback):
    """Decides after every step whether to log, evaluate, save or stop."""

    def __init__(
        self, schedule: Schedule, stopping: Stopping, accelerator: Any, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._schedule = schedule
        self._stopping = stopping
        self._accelerator = accelerator
        self._clock = clock
        self._saved = self._began = clock()
        self._longest_step_s = 0.0
        self._evaluates = True
        self.early_stop = ""

    def without_evaluation(self) -> AfterStep:
        self._evaluates = False
        return self

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, now = state.global_step, self._clock()
        self._longest_step_s = max(self._longest_step_s, now - self._began)
        stops = bool(self._stopping.check(2 * self._longest_step_s))
        overdue = now - self._saved + self._longest_step_s > SAVE_AT_LEAST_EVERY_S
        stops, overdue = self._agree(stops, overdue)
        control.should_log = self._schedule.logs_after(step) or stops
        control.should_evaluate = self._evaluates and self._schedule.evaluates_after(step)
        control.should_save = self._schedule.saves_after(step) or stops or overdue
        control.should_training_stop = control.should_training_stop or stops or step >= self._schedule.total

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Early stopping, from the history that a resumed job has too."""
        patience, threshold = (
            self._schedule.config.early_stopping_patience,
            self._schedule.config.early_stopping_threshold,
        )
        losses = [line["eval_loss"] for line in state.log_history if "eval_loss" in line]
        if patience and evaluations_without_gain(losses, threshold) >= patience:
            self.early_stop = f"early stopping: the eval loss has not fallen for {patience} evaluations"
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = self._clock()

    def _agree(self, *flags: bool) -> tuple[bool, ...]:
        """What any process wants, all do: SIGTERM reaches one of them, and saving needs them all."""
        if self._accelerator.num_processes == 1:
            return flags
        votes = torch.tensor([int(flag) for flag in flags], device=self._accelerator.device)
        return tuple(vote > 0 for vote in self._accelerator.reduce(votes, reduction="sum").tolist())


class MetricLines(transformers.TrainerCallback):
    """Prints and keeps what the trainer logs; ends the job when the loss is no longer a number or explodes."""

    def __init__(self, schedule: Schedule, file: MetricsFile) -> None:
        self._schedule = schedule
        self._file = file
        self._noted: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._file.start(_select(line) for line in state.log_history if _is_metric(line))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or not _is_metric(logs):
            return
        values = _select({**logs, "step": state.global_step})
        self._file.append(values)
        del values["step"]
        say(metric_line(state.global_step, self._schedule.total, values))
        _check_finite(values, state.global_step)
        for note in find_notes(state.log_history):
            if note.kind not in self._noted:
                self._noted.add(note.kind)
                say(f"[health] {note.text}")
        if explosion := find_explosion(state.log_history):
            raise JobError(explosion)


def _is_metric(logs: dict[str, float]) -> bool:
    return "loss" in logs or "eval_loss" in logs


def _select(logs: dict[str, float]) -> dict[str, float]:
    return {name: logs[name] for name in ("step", *METRIC_ORDER) if name in logs}


def _check_finite(values: dict[str, float], step: int) -> None:
    for name in ("loss", "eval_loss"):
        if not math.isfinite(values.get(name, 0.0)):
            raise JobError(
                f"The {name} became {values[name]} at step {step}, so training on is of no use. Lower learning_rate or "
                "max_grad_norm, add warmup_steps, or use bfloat16 instead of float16, and submit with --fresh."
            )


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
        **kwargs: Any,
    ) -> None:
        self._config = config
        self._padding = padding
        self._checkpoints = checkpoints
        self._origin = origin
        self._schedule = schedule
        self.meter = Meter(schedule)
        self._rate = 0.0
        self.best = Best()
        # the step of the last evaluation, and what it found
        self.latest: tuple[int, RowScores | None] = (-1, None)
        with _prepared_already(kwargs["model"]):
            super().__init__(**kwargs)

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
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # Trainer's guess, which nobody reads, looks for input_ids in the batch

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        with self.meter.paused():
            found = self.score(rows)
        metrics = found.total.as_metrics(metric_key_prefix)
        self.latest = (self.state.global_step, found)
        if self._config.load_best_model_at_end:
            self.best.offer(self.state.global_step, found.total.loss, self.accelerator.unwrap_model(self.model))
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, rows: list[Encoded]) -> RowScores:
        size = self._config.per_device_eval_batch_size
        try:
            return score_rows(self.model, rows, self._padding, size, self.accelerator)
        except torch.OutOfMemoryError:
            if not self.runner.give_way():
                raise
        return score_rows(self.model, rows, self._padding, size, self.accelerator)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # Trainer rounds its own to four places
            logs.update(self.meter.take(self.state.global_step, self.accelerator))
            logs["learning_rate"] = self._rate  # the step's own: some versions log the next one's
        # to Trainer's loop the whole job is one epoch
        self.state.epoch = self._schedule.epoch_of(self.state.global_step)
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        return str(staging_folder(self._checkpoints, self.state.global_step))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        step = self.state.global_step
        _check_weights(self.accelerator.unwrap_model(self.model), step)
        with self.meter.paused():
            if self.is_world_process_zero():
                shutil.rmtree(staging_folder(self._checkpoints, step), ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
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
) -> StepTrainer:
    reason = find_reason_against(model, config, dtype, process_count(os.environ))
    optimizer = choose_optimizer(config, fast=not reason)
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
    trainer.after_step = AfterStep(schedule, stopping, trainer.accelerator)
    trainer.add_callback(trainer.after_step if evaluation else trainer.after_step.without_evaluation())
    trainer.add_callback(MetricLines(schedule, MetricsFile(paths.output / "metrics.jsonl")))
    # prints every log as a dict, which our metric lines replace
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer
