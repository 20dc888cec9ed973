"""What the fast way begins with: the kernels of this machine, and our loss held against the model's own."""

from __future__ import annotations

import math
from typing import Any

import torch  # noqa: TID253

from .batches import Padding
from .data import Encoded
from .decoder import Decoder
from .evaluate import resting, sum_tokens
from .memory_plan import whole_tiles
from .out_of_memory import shorten
from .packing import Layout, pack

# Of a loss: bfloat16 rounds to three digits, float16 to four; a wrong formula is off by far more. And of each token's,
# since what is left of the loss of rows known by heart is mostly rounding.
AGREEMENT, ROUNDING = 0.02, 0.005
# few, since the plain path's logits are large
CHECKED_TOKENS = 128


def describe_refusal(error: Exception) -> str:
    return f"it cannot begin here ({type(error).__name__}: {shorten(error)})"


def score_packed(decoder: Decoder, rows: list[Encoded], longest: int) -> Any:
    """Each row's summed loss and how many of its tokens are predicted right, in double precision."""
    tokens = sum(len(row.input_ids) for row in rows)
    if decoder.device.type == "cuda":
        # places for the ends of all rows and of the padding; pinned, so that the host goes on to the next rows at once
        layout = Layout(whole_tiles(tokens), len(rows) + 1)
        numbers = torch.tensor(pack(rows, layout, longest, 1, 0)).pin_memory().to(decoder.device, non_blocking=True)
    else:
        layout = Layout(tokens, len(rows))
        numbers = torch.tensor(pack(rows, layout, longest, 1, 0))
    row = layout.split(numbers)
    places = torch.arange(layout.tokens, device=decoder.device)
    owners = torch.bucketize(places, row.ends[1:].contiguous(), right=True).clamp(max=len(rows))
    sums = torch.zeros(len(rows) + 1, 2, dtype=torch.float64, device=decoder.device)
    return sums.index_add_(0, owners, decoder.score(row).T.double())[: len(rows)]


def find_difference(model: Any, decoder: Decoder, rows: list[Encoded], longest: int, dtype: Any) -> str:
    """Holds our loss against the model's own on a few tokens: another model may look as if it were known."""
    few: list[Encoded] = []
    for row in rows:
        if room := CHECKED_TOKENS - sum(len(taken.input_ids) for taken in few):
            ids = row.input_ids[:room]
            few.append(Encoded(ids, ids, False, True))
    ours = float(score_packed(decoder, few, longest)[:, 0].sum())
    batch = {name: tensor.to(decoder.device) for name, tensor in Padding(0, 0).batch(few).items()}
    kind = decoder.device.type
    with resting(model), torch.no_grad(), torch.autocast(kind, dtype, enabled=kind == "cuda"):
        theirs = float(sum_tokens(model, batch)[0])
    if not math.isfinite(theirs):
        return "the model's loss is no number"
    if not abs(ours - theirs) <= max(AGREEMENT * theirs, ROUNDING * sum(row.trained for row in few)):
        return f"its loss of {ours:.4f} is not the model's own {theirs:.4f}"
    return ""


def load_ops() -> Any:
    from . import ops

    return ops
