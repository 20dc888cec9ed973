"""Attention of long examples in slots: the same numbers as in a packed row, and taken only where it pays."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from container_src.sft import reference
from container_src.sft.attention import BlockAttention
from container_src.sft.slots import SlotAttention, find_difference, pays


class _Dense:
    """What cuDNN does, by PyTorch's own means."""

    def forward(self, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), None

    def backward(self, grad: Any, q: Any, k: Any, v: Any, out: Any, saved: Any) -> Any:
        inputs = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
        with torch.enable_grad():
            again, _ = self.forward(*inputs)
        return torch.autograd.grad(again, inputs, grad)


@pytest.mark.parametrize("examples", [[9, 16, 1, 12], [9, 16, 1, 12, 7, 16]])
def test_slots_are_the_block_mask_s_attention(examples: list[int]) -> None:
    """Examples without a slot are padding, which nothing looks at and nothing comes back to."""
    slots, kinds, tokens = SlotAttention(_Dense(), reference, 4, 16), (4, 2, 2), sum(examples)
    block = BlockAttention(8**-0.5)
    torch.manual_seed(0)
    heads, grad = torch.randn(tokens, 8, 8), torch.randn(tokens, 4, 8)
    real = sum(examples[:4])
    grad[real:] = 0
    ends = torch.tensor([0, *itertools.accumulate(examples), tokens, tokens], dtype=torch.int32)
    found = []
    for attention in (slots, block):
        mask = attention.prepare(ends, tokens)
        out, saved = attention.forward(heads, kinds, mask)
        found.append([out[:real], *attention.backward(grad, heads, kinds, out, saved, mask)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


class _Wrong(_Dense):
    """One gradient off by a factor, which may be no number."""

    def __init__(self, which: int, factor: float) -> None:
        self.which, self.factor = which, factor

    def backward(self, *args: Any) -> Any:
        grads = list(super().backward(*args))
        grads[self.which] = grads[self.which] * self.factor
        return grads


@pytest.mark.parametrize(
    ("attend", "words"),
    [
        (_Dense(), ""),
        (_Wrong(0, float("nan")), "its dq is nan apart"),
        (_Wrong(1, float("nan")), "its dk is nan apart"),
        (_Wrong(2, 1.1), "its dv is 0.100 apart"),
    ],
)
def test_attention_that_differs_is_not_taken(attend: Any, words: str) -> None:
    slots = SlotAttention(attend, reference, 3, 16)
    found = find_difference(slots, BlockAttention(8**-0.5), (4, 2, 2), 8, torch.float32, "cpu")
    assert words in found and bool(found) == bool(words)


def test_slots_pay_where_examples_are_long_and_of_about_one_length() -> None:
    assert pays([[2048] * 8, [2048] * 7], 8, 2048)
    assert pays([[1700] * 8], 8, 2048)
    assert not pays([[2048] + [300] * 7], 8, 2048)
    assert not pays([[2048] * 8] + [[2048]] * 8, 8, 2048)
    assert not pays([[448] * 8], 8, 448)
