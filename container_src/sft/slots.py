"""Attention of a packed row's examples by cuDNN, which wants them equally long: each gets a slot, padded on its right.

Padding on the right changes nothing: no token sees those after it, and what comes back to padding is zero. On GPUs from
the H100 on cuDNN takes, copying included, two thirds of the time of PyTorch's flash attention, so this pays where
examples are long and of about one length, as those are that were cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch  # noqa: TID253

from .attention import FlashAttention

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
        self._count = count
        self._length = length

    def prepare(self, ends: Any, tokens: int) -> Places:
        count = min(self._count, len(ends) - 1)
        first, end = ends[:count, None], ends[1 : count + 1, None]
        found = first + torch.arange(self._length, device=ends.device)
        places = torch.arange(tokens, device=ends.device)
        example = torch.bucketize(places, ends[1:].contiguous(), right=True)
        slots = example * self._length + places - ends[example]
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
        return rows.view(places.count, self._length, *heads.shape[1:]).transpose(1, 2)

    def _leave(self, heads: Any, places: Places) -> Any:
        rows = heads.transpose(1, 2).reshape(places.count * self._length, -1)
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


def find_cudnn(scale: float, heads: Sequence[int], size: int, dtype: Any) -> Cudnn | None:
    """cuDNN where the GPU is new enough and it agrees with flash attention on a small example."""
    if torch.cuda.get_device_capability() < HOPPER:
        return None
    cudnn, flash, length = Cudnn(scale), FlashAttention(scale, LONG), LONG
    source = torch.Generator("cuda").manual_seed(0)
    drawn = torch.randn(length, sum(heads) + heads[0], size, dtype=dtype, device="cuda", generator=source)
    qkv, grad = drawn.split([sum(heads), heads[0]], dim=1)
    ends = torch.tensor([0, length], dtype=torch.int32, device="cuda")
    out, saved = flash.forward(qkv, heads, ends)
    expected = [out, *flash.backward(grad, qkv, heads, out, saved, ends)]
    q, k, v, g = (tensor.transpose(0, 1)[None] for tensor in (*qkv.split(list(heads), dim=1), grad))
    try:
        out, saved = cudnn.forward(q, k, v)
        found = [out, *cudnn.backward(g, q, k, v, out, saved)]
    except RuntimeError:  # what cuDNN or this version of torch does not do
        return None
    pairs = zip((tensor[0].transpose(0, 1) for tensor in found), expected, strict=True)
    apart = max(float((ours - theirs).float().norm() / theirs.float().norm()) for ours, theirs in pairs)
    return cudnn if apart < AGREEMENT else None
