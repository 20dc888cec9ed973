"""Loss, perplexity and token accuracy of a model on rows, exact over tokens whatever the batch size."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .batches import Padding
from .data import IGNORED, Encoded
from .steps import split


@dataclass(frozen=True)
class Score:
    loss: float
    mean_token_accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf  # exp overflows past 709

    def as_metrics(self, prefix: str) -> dict[str, float]:
        return {
            f"{prefix}_loss": self.loss,
            f"{prefix}_perplexity": self.perplexity,
            f"{prefix}_mean_token_accuracy": self.mean_token_accuracy,
            f"{prefix}_tokens": self.tokens,
        }


def sum_tokens(model: Any, batch: dict[str, Any]) -> Any:
    """A batch's summed loss and, beside it, how many of its trained tokens were predicted right."""
    import torch
    from torch.nn import functional

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    labels = batch["labels"][:, 1:]
    trained = labels != IGNORED
    # only the trained places: float32 copies of all logits would be the largest tensors of the step
    chosen, wanted = logits[:, :-1][trained].float(), labels[trained]
    loss = functional.cross_entropy(chosen, wanted, reduction="sum")
    with torch.no_grad():
        right = (chosen.argmax(dim=-1) == wanted).sum()
    return loss, right


def score(model: Any, rows: list[Encoded], padding: Padding, size: int, accelerator: Any) -> Score:
    """Every process takes a share of the rows; all get the whole score."""
    import torch

    sums = torch.zeros(3, dtype=torch.float64, device=accelerator.device)
    share = rows[accelerator.process_index :: accelerator.num_processes]
    with _resting(model), torch.no_grad(), accelerator.autocast():
        # by length: batches of like rows waste little on padding, and the sums do not depend on the order
        for group in split_rows(sorted(share, key=lambda row: len(row.input_ids)), size):
            batch = {name: tensor.to(accelerator.device) for name, tensor in padding.batch(group).items()}
            loss, right = sum_tokens(model, batch)
            sums += torch.stack([loss.double(), right.double(), sums.new_tensor(sum(row.trained for row in group))])
    loss_sum, right_sum, tokens = accelerator.reduce(sums, reduction="sum").tolist()
    return Score(loss_sum / tokens, right_sum / tokens, int(tokens))


def split_rows(rows: list[Encoded], size: int) -> list[list[Encoded]]:
    return [[rows[index] for index in group] for group in split(list(range(len(rows))), size)]


@contextlib.contextmanager
def _resting(model: Any) -> Iterator[None]:
    """Without dropout for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
