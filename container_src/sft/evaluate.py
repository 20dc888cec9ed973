"""Loss, perplexity and token accuracy of a model on rows, exact over tokens whatever the batch size."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .batches import Padding
from .data import IGNORED, Encoded


class AbandonedError(Exception):
    """The job was asked to stop while it evaluated: there are no scores."""


@dataclass(frozen=True)
class Score:
    loss: float
    mean_token_accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return perplexity_of(self.loss)

    def as_metrics(self, prefix: str) -> dict[str, float]:
        return {
            f"{prefix}_loss": self.loss,
            f"{prefix}_perplexity": self.perplexity,
            f"{prefix}_mean_token_accuracy": self.mean_token_accuracy,
            f"{prefix}_tokens": self.tokens,
        }


def perplexity_of(loss: float) -> float:
    return math.inf if loss > 700 else math.exp(loss)  # exp overflows past 709


@dataclass(frozen=True)
class RowScores:
    """Each row's summed loss, how many of its trained tokens were predicted right, and how many there are.

    Both ways to score round differently, so what is compared must be scored in the same way.
    """

    losses: list[float]
    rights: list[float]
    tokens: list[int]
    packed: bool = False

    @property
    def total(self) -> Score:
        tokens = sum(self.tokens)
        return Score(math.fsum(self.losses) / tokens, sum(self.rights) / tokens, tokens)


def sum_tokens(model: Any, batch: dict[str, Any]) -> Any:
    """A batch's summed loss and, beside it, how many of its trained tokens were predicted right."""
    import torch
    from torch.nn import functional

    chosen, wanted, _ = _predict(model, batch)
    loss = functional.cross_entropy(chosen, wanted, reduction="sum")
    with torch.no_grad():
        right = (chosen.argmax(dim=-1) == wanted).sum()
    return loss, right


def _sum_rows(model: Any, batch: dict[str, Any]) -> Any:
    """The same two sums for every row of a batch, in double precision."""
    import torch
    from torch.nn import functional

    chosen, wanted, row = _predict(model, batch)
    losses = functional.cross_entropy(chosen, wanted, reduction="none")
    found = torch.stack([losses.double(), (chosen.argmax(dim=-1) == wanted).double()], dim=1)
    return found.new_zeros(len(batch["labels"]), 2).index_add_(0, row, found)


def _predict(model: Any, batch: dict[str, Any]) -> Any:
    """Logits and labels at the trained places alone, and the row that each belongs to."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    labels = batch["labels"][:, 1:]
    trained = labels != IGNORED
    # only the trained places: float32 copies of all logits would be the largest tensors of the step
    return logits[:, :-1][trained].float(), labels[trained], trained.nonzero()[:, 0]


def score_rows(
    model: Any,
    rows: list[Encoded],
    padding: Padding,
    size: int,
    accelerator: Any,
    should_stop: Callable[[], bool] = lambda: False,
) -> RowScores:
    """Every process takes a share of the rows; all get the scores of all.

    `should_stop` is asked before every batch, of all processes equally often, since they may have to agree on it.
    """
    import torch

    sums = torch.zeros(len(rows), 2, dtype=torch.float64, device=accelerator.device)
    # by length: batches of like rows waste little on padding, and the sums do not depend on the order. The longest
    # first: too many of them for the memory are found out at once
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids), reverse=True)
    share = order[accelerator.process_index :: accelerator.num_processes]
    # as many rounds in a process whose share is smaller
    rounds = math.ceil(math.ceil(len(rows) / accelerator.num_processes) / size)
    with resting(model), torch.no_grad(), autocast(accelerator):
        for start in range(0, rounds * size, size):
            if should_stop():
                raise AbandonedError
            if group := share[start : start + size]:
                batch = padding.batch([rows[number] for number in group])
                sums[group] = _sum_rows(model, {name: tensor.to(accelerator.device) for name, tensor in batch.items()})
    losses, rights = accelerator.reduce(sums, reduction="sum").T.tolist()
    return RowScores(losses, rights, [row.trained for row in rows])


def autocast(accelerator: Any) -> Any:
    """The arithmetic of a model's own passes. Accelerate's context stays open when an error or a stop leaves it, and
    torch then keeps its half-precision copies of the adapters: what comes after would be computed with old weights.
    """
    import torch

    kind = accelerator.mixed_precision
    dtype = torch.float16 if kind == "fp16" else torch.bfloat16
    return torch.autocast(torch.device(accelerator.device).type, dtype, enabled=kind != "no")


@contextlib.contextmanager
def resting(model: Any) -> Iterator[None]:
    """Without dropout for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
