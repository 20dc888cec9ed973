"""What an optimizer step is made of, and what happens after it. Pure and stdlib only.

The whole job is one list of steps, each a list of row numbers, computed from the seed alone. So a step is the same
whether its rows are seen 8x1, 4x2 or 2x4, by one process or several, in one go or after a resume at that step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The job's length, and the steps after which something happens."""

    total: int
    per_epoch: int
    config: TrainConfig

    def logs_after(self, step: int) -> bool:
        return step % self.config.logging_steps == 0 or step in (1, self.total)

    def evaluates_after(self, step: int) -> bool:
        """The last step always, unless it is never: the curve ends with the model that is kept."""
        asked = self.config.eval_strategy != "no"
        return asked and (step == self.total or self._is_due(self.config.eval_strategy, self.config.eval_steps, step))

    def saves_after(self, step: int) -> bool:
        return step == self.total or self._is_due(self.config.save_strategy, self.config.save_steps, step)

    def _is_due(self, strategy: str, interval: int, step: int) -> bool:
        if strategy == "epoch":
            return step % self.per_epoch == 0 or step == self.total
        return strategy == "steps" and step % interval == 0

    def epoch_of(self, step: int) -> float:
        return step / self.per_epoch

    @property
    def warmup_steps(self) -> int:
        return self.config.warmup_steps or math.ceil(self.config.warmup_ratio * self.total)


def make_schedule(config: TrainConfig, rows: int, processes: int) -> Schedule:
    per_epoch = math.ceil(rows / (config.effective_batch_size * processes))
    total = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * per_epoch)
    return Schedule(total=total, per_epoch=per_epoch, config=config)


def make_steps(rows: int, rows_per_step: int, total: int, seed: int) -> list[list[int]]:
    """Every epoch in its own order; its last step takes what is left, as an epoch never mixes with the next."""
    steps = _iter_steps(rows, rows_per_step, seed)
    return [next(steps) for _ in range(total)]


def _iter_steps(rows: int, rows_per_step: int, seed: int) -> Iterator[list[int]]:
    epoch = 0
    while True:
        order = list(range(rows))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        yield from (order[start : start + rows_per_step] for start in range(0, rows, rows_per_step))
        epoch += 1


def share_of(step: list[int], process: int, processes: int) -> list[int]:
    """One process's rows of a step; possibly none in an epoch's last step."""
    return step[process::processes]


def split(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows)[start : start + size] for start in range(0, len(rows), size)]
