"""Attention of a packed row's examples by cuDNN, which wants them equally long: each gets a slot, padded on its right.

Padding on the right changes nothing: no token sees those after it, and what comes back to padding is zero. On GPUs from
the H100 on cuDNN takes, copying included, two thirds of the time of PyTorch's flash attention, so this pays where
examples are long and of about one length, as those are that were cut off.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch  # noqa: TID253

from .attention import FlashAttention
from .log import say
from .out_of_memory import shorten

# below it attention is a small part of a step
LONG = 512
# slots may hold this much more attention than the examples have
WASTE = 1.5
HOPPER = (9, 0)
# bfloat16 rounds to three digits
AGREEMENT = 0.02


class Places(NamedTuple):
    """Which token lies at each place of the slots, and at which place each token; -1 where none."""

    tokens: Any
    slots: Any
    count: int


class SlotAttention:
    name = "cuDNN's"

    def __init__(self, attend: Any, ops: Any, count: int, length: int) -> None:
        self._attend = attend
        self._ops = ops
        self.count = count
        self.length = length

    def prepare(self, ends: Any, tokens: int) -> Places:
        count = min(self.count, len(ends) - 1)
        first, end = ends[:count, None], ends[1 : count + 1, None]
        found = first + torch.arange(self.length, device=ends.device)
        places = torch.arange(tokens, device=ends.device)
        example = torch.bucketize(places, ends[1:].contiguous(), right=True)
        slots = example * self.length + places - ends[example]
        return Places(
            torch.where(found < end, found, -1).flatten().int(), torch.where(example < count, slots, -1).int(), count
        )

    def forward(self, heads: Any, sizes: Sequence[int], places: Places) -> tuple[Any, Any]:
        out, saved = self._attend.forward(*self._split(heads, sizes, places))
        return self._leave(out, places), saved

    def backward(self, grad: Any, heads: Any, sizes: Sequence[int], out: Any, saved: Any, places: Places) -> Any:
        grad, out = (self._enter(tensor, places) for tensor in (grad, out))
        grads = self._attend.backward(grad, *self._split(heads, sizes, places), out, saved)
        return [self._leave(tensor, places) for tensor in grads]

    def _split(self, heads: Any, sizes: Sequence[int], places: Places) -> Any:
        return self._enter(heads, places).split(list(sizes), dim=1)

    def _enter(self, heads: Any, places: Places) -> Any:
        """[tokens, heads, size] to [slots, heads, length, size]."""
        rows = self._ops.take_rows(heads.flatten(1), places.tokens)
        return rows.view(places.count, self.length, *heads.shape[1:]).transpose(1, 2)

    def _leave(self, heads: Any, places: Places) -> Any:
        rows = heads.transpose(1, 2).reshape(places.count * self.length, -1)
        return self._ops.take_rows(rows, places.slots).view(-1, heads.shape[1], heads.shape[3])


class Cudnn:
    """Causal attention of [batch, heads, length, size]."""

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def forward(self, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        out, *saved = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, True, False, scale=self._scale
        )
        return out, saved[:7]

    def backward(self, grad: Any, q: Any, k: Any, v: Any, out: Any, saved: Any) -> Any:
        sums, ends, key_ends, longest, longest_key, seed, offset = saved
        return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            grad, q, k, v, out, sums, seed, offset, None, ends, key_ends, longest, longest_key, 0.0, True,
            scale=self._scale,
        )  # fmt: skip


def pays(parts: Sequence[Sequence[int]], count: int, length: int) -> bool:
    """Whether slots are worth their padding, by the lengths of the examples of each packed row."""
    needed = sum(example * example for part in parts for example in part)
    return length >= LONG and len(parts) * count * length * length <= WASTE * needed


def can_run(attention: SlotAttention, scale: float, sizes: Sequence[int], size: int, dtype: Any) -> bool:
    """Whether the GPU is new enough, and cuDNN agrees with flash attention on examples of the job's number and length.

    It refuses some sizes, and versions of it have got gradients wrong that nothing else would notice.
    """
    if torch.cuda.get_device_capability() < HOPPER:
        return False
    try:
        problem = find_difference(attention, FlashAttention(scale, attention.length), sizes, size, dtype, "cuda")
    except RuntimeError as error:
        problem = shorten(error)
    if problem:
        say(f"cuDNN's attention is left out: {problem}.")
    return not problem


def find_difference(
    attention: SlotAttention, trusted: Any, sizes: Sequence[int], size: int, dtype: Any, device: str
) -> str:
    """On random heads: full slots, but for the last."""
    lengths = [attention.length] * (attention.count - 1) + [attention.length // 2 + 1]
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    source = torch.Generator(device).manual_seed(0)
    drawn = torch.randn(sum(lengths), sum(sizes) + sizes[0], size, dtype=dtype, device=device, generator=source)
    heads, grad = drawn[:, : sum(sizes)].contiguous(), drawn[:, sum(sizes) :].contiguous()
    found, expected = (_run(way, heads, sizes, grad, ends) for way in (attention, trusted))
    for name, ours, theirs in zip(("result", "dq", "dk", "dv"), found, expected, strict=True):
        apart = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
        if not apart < AGREEMENT:  # as it is when it is no number
            return f"its {name} is {apart:.3f} apart from flash attention's"
    return ""


def _run(attention: Any, heads: Any, sizes: Sequence[int], grad: Any, ends: Any) -> list[Any]:
    mask = attention.prepare(ends, len(heads))
    out, saved = attention.forward(heads, sizes, mask)
    return [out, *attention.backward(grad, heads, sizes, out, saved, mask)]
