"""The Triton kernels of the widest tensors: the gated activation and the loss. See kernels.py and reference.py."""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253
import triton
import triton.language as tl

from .kernels import _add_grad, _chunk, _keeps, _padded, _site_key, _words
from .reference import ACTIVATIONS, threshold_of


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _act(gate, KIND: tl.constexpr):
    """The activation and its slope."""
    if KIND == 0:
        gated = tl.sigmoid(gate)
        value = gate * gated
        slope = gated * (1.0 + gate * (1.0 - gated))
    elif KIND == 1:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        half = _tanh(inner)
        value = 0.5 * gate * (1.0 + half)
        bend = 0.7978845608028654 * (1.0 + 3 * 0.044715 * gate * gate)
        slope = 0.5 * (1.0 + half) + 0.5 * gate * (1.0 - half * half) * bend
    else:
        below = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
        value = gate * below
        slope = below + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    return value, slope


@triton.jit
def _glu(both, out, width, both_stride, out_stride, KIND: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(both + row * both_stride + columns, inside, 0.0).to(tl.float32)
    up = tl.load(both + row * both_stride + width + columns, inside, 0.0).to(tl.float32)
    value, _ = _act(gate, KIND)
    tl.store(out + row * out_stride + columns, value * up, inside)


def glu(both: Any, kind: str, out: Any) -> None:
    tokens, width = out.shape
    _glu[(tokens, triton.cdiv(width, 1024))](
        both, out, width, both.stride(0), out.stride(0), KIND=ACTIVATIONS.index(kind), BLOCK=1024, num_warps=4
    )


@triton.jit(do_not_specialize=["site"])
def _glu_backward(
    dact, dz, both, z, down, grad, up_grad, seed, site, scale, width, rank, up_rank, tokens,
    dact_stride, dz_stride, both_stride, z_stride, chunk,
    KIND: tl.constexpr, THRESHOLD: tl.constexpr, R: tl.constexpr, UP_R: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    up_ranks = tl.arange(0, UP_R)
    inside = columns < width
    fits = ranks < rank
    up_fits = up_ranks < up_rank
    acc = tl.zeros((R, BLOCK), tl.float32)
    acc_gate = tl.zeros((UP_R, BLOCK), tl.float32)
    acc_up = tl.zeros((UP_R, BLOCK), tl.float32)
    matrix = tl.load(down + ranks[:, None] * width + columns[None, :], fits[:, None] & inside[None, :], 0.0)
    key = _site_key(seed, site)
    first = tl.program_id(1) * chunk
    for start in tl.range(first, tl.minimum(first + chunk, tokens), ROWS, num_stages=STAGES):
        rows = start + tl.arange(0, ROWS)
        line = rows[:, None].to(tl.int64)
        place = both + line * both_stride + columns[None, :]
        part = tl.load(dz + line * dz_stride + ranks[None, :], fits[None, :], 0.0)
        gate = tl.load(place, inside[None, :], 0.0).to(tl.float32)
        up = tl.load(place + width, inside[None, :], 0.0).to(tl.float32)
        flow = tl.load(dact + line * dact_stride + columns[None, :], inside[None, :], 0.0).to(tl.float32)
        low = z + line * z_stride + up_ranks[None, :]
        low_gate = tl.load(low, up_fits[None, :], 0.0)
        low_up = tl.load(low + up_rank, up_fits[None, :], 0.0)
        back = tl.dot(part, matrix) * scale
        # Adds nothing. Without it the compiler computes activation and dropout twice, laid out as loaded for the one
        # product and as the other leaves its result: 1.5 times the time.
        gate += back * 0.0
        value, slope = _act(gate, KIND)
        product = (value * up).to(both.dtype.element_ty)
        if THRESHOLD > -0x80000000:
            keeps = _keeps(_words(key, rows, columns, width), THRESHOLD)
            product = tl.where(keeps, product, 0.0)
            back = tl.where(keeps, back, 0.0)
        acc = tl.dot(tl.trans(part), product, acc)
        flow += back
        dgate = (flow * up * slope).to(both.dtype.element_ty)
        dup = (flow * value).to(both.dtype.element_ty)
        acc_gate = tl.dot(tl.trans(low_gate), dgate, acc_gate)
        acc_up = tl.dot(tl.trans(low_up), dup, acc_up)
        tl.store(place, dgate, inside[None, :])
        tl.store(place + width, dup, inside[None, :])
    _add_grad(grad, acc, scale, 0, ranks, rank, columns, width)
    target = up_grad + columns[None, :] * up_rank + up_ranks[:, None]
    tl.atomic_add(target, acc_gate, up_fits[:, None] & inside[None, :])
    tl.atomic_add(target + width * up_rank, acc_up, up_fits[:, None] & inside[None, :])


def glu_backward(
    dact: Any, dz: Any, both: Any, kind: str, down: Any, scale: float, dropout: tuple[Any, float], site: int,
    grad: Any, z: Any, up_grad: Any,
) -> None:  # fmt: skip
    _, rank, width = down.shape
    up_rank = up_grad.shape[1]
    seed, share = dropout
    tokens = both.shape[0]
    chunk = _chunk(tokens, triton.cdiv(width, 64), programs=1000, rows=16)
    _glu_backward[(triton.cdiv(width, 64), triton.cdiv(tokens, chunk))](
        dact, dz, both, z, down, grad, up_grad, seed, site, scale / (1 - share), width, rank, up_rank, tokens,
        dact.stride(0), dz.stride(0), both.stride(0), z.stride(0), chunk, KIND=ACTIVATIONS.index(kind),
        THRESHOLD=threshold_of(share), R=_padded(rank), UP_R=_padded(up_rank), ROWS=16, BLOCK=64, STAGES=2, num_warps=4,
    )  # fmt: skip


@triton.jit
def _cross_entropy(logits, targets, weight, losses, rights, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    line = logits + row * width
    places = tl.arange(0, BLOCK)
    if target < 0:
        for start in range(0, width, BLOCK):
            columns = start + places
            tl.store(line + columns, tl.zeros((BLOCK,), logits.dtype.element_ty), columns < width)
        tl.store(losses + row, 0.0)
        tl.store(rights + row, 0.0)
    else:
        tops = tl.full((BLOCK,), -1e30, tl.float32)  # not -inf, which less itself is no number
        firsts = places
        totals = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, width, BLOCK):  # every column of the block on its own; they meet once, at the end
            columns = start + places
            values = tl.load(line + columns, columns < width, float("-inf")).to(tl.float32)
            higher = tl.maximum(tops, values)
            firsts = tl.where(values > tops, columns, firsts)
            totals = totals * tl.exp(tops - higher) + tl.exp(values - higher)
            tops = higher
        top = tl.max(tops)
        total = tl.sum(totals * tl.exp(tops - top))
        first = tl.min(tl.where(tops == top, firsts, width))  # of equals the first, as argmax has it
        wanted = tl.load(line + target).to(tl.float32)
        tl.debug_barrier()  # every thread has the target's logit before it is written over
        tl.store(losses + row, top + tl.log(total) - wanted)
        tl.store(rights + row, (target == first).to(tl.float32))
        factor = tl.load(weight)
        for start in range(0, width, BLOCK):
            columns = start + places
            values = tl.load(line + columns, columns < width, float("-inf")).to(tl.float32)
            grads = tl.exp(values - top) / total - tl.where(columns == target, 1.0, 0.0)
            tl.store(line + columns, grads * factor, columns < width)


def cross_entropy(logits: Any, targets: Any, weight: Any) -> tuple[Any, Any]:
    rows, width = logits.shape
    losses, rights = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
    _cross_entropy[(rows,)](logits, targets, weight, losses, rights, width, BLOCK=4096, num_warps=16)
    return losses, rights
