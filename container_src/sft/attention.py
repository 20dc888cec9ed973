"""Attention inside the examples of a packed row, forwards and backwards.

`heads` are [tokens, heads, size], and `sizes` how many of them are queries, keys and values. On a GPU PyTorch's own
flash attention, which takes packed rows in every image we know; where it refuses, there is no fast step. Long examples
of about one length go another way on newer GPUs (slots.py). On a CPU a block mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch  # noqa: TID253
from torch.nn import functional  # noqa: TID253


class FlashAttention:
    """Needs no mask: the examples' ends are its input."""

    name = "flash"

    def __init__(self, scale: float, longest: int) -> None:
        self._scale = scale
        self._longest = longest

    def prepare(self, ends: Any, tokens: int) -> Any:
        return ends

    def forward(self, heads: Any, sizes: Sequence[int], ends: Any) -> tuple[Any, Any]:
        q, k, v = heads.split(list(sizes), dim=1)
        out, *saved = torch.ops.aten._flash_attention_forward(
            q, k, v, ends, ends, self._longest, self._longest, 0.0, True, False, scale=self._scale
        )
        return out, saved[:3]

    def backward(self, grad: Any, heads: Any, sizes: Sequence[int], out: Any, saved: Any, ends: Any) -> Any:
        q, k, v = heads.split(list(sizes), dim=1)
        sums, random, unused = saved
        return torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, sums, ends, ends, self._longest, self._longest, 0.0, True, random, unused,
            scale=self._scale,
        )  # fmt: skip


class BlockAttention:
    """With a mask of tokens x tokens: exact anywhere, and slow for long rows."""

    name = "block mask"

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def prepare(self, ends: Any, tokens: int) -> Any:
        places = torch.arange(tokens, device=ends.device)
        example = torch.bucketize(places, ends[1:].contiguous(), right=True)
        return (example[:, None] == example[None, :]) & (places[:, None] >= places[None, :])

    def forward(self, heads: Any, sizes: Sequence[int], mask: Any) -> tuple[Any, Any]:
        return self._attend(*heads.split(list(sizes), dim=1), mask).contiguous(), None

    def backward(self, grad: Any, heads: Any, sizes: Sequence[int], out: Any, saved: Any, mask: Any) -> Any:
        inputs = [tensor.detach().requires_grad_() for tensor in heads.split(list(sizes), dim=1)]
        with torch.enable_grad():
            again = self._attend(*inputs, mask)
        return torch.autograd.grad(again, inputs, grad)

    def _attend(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
        repeats = q.shape[1] // k.shape[1]
        k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
        rows = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
        out = functional.scaled_dot_product_attention(*rows, attn_mask=mask, scale=self._scale)
        return out[0].transpose(0, 1)
