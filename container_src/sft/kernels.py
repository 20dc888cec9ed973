"""The fused operations as Triton kernels: the twins of reference.py, which says what each one computes.

Sums and functions are in float32, what is stored is in bfloat16. Rows must come in whole tiles of 64.
"""

# imported only where a GPU runs the fast step; triton comes with torch there
from __future__ import annotations

from subprocess import CalledProcessError
from typing import Any

import torch  # noqa: TID253
import triton
import triton.language as tl
from triton.errors import TritonError

from .reference import threshold_of

# Triton's own are what it cannot compile (CompilationError) and what the GPU has too little of (OutOfResources); the
# others come from the C compiler that it calls, and from the folder that it keeps the results in.
REFUSALS = (RuntimeError, TritonError, CalledProcessError, OSError)


@triton.jit
def _mix(value):
    value ^= value >> 16
    value *= 0x21F0AAAD
    value ^= value >> 15
    value *= 0x735A2D97
    return value ^ (value >> 15)


@triton.jit
def _site_key(seed, site):
    return _mix(tl.load(seed).to(tl.uint32) + (site * 0x3779B9).to(tl.uint32))


@triton.jit
def _keeps(key, rows, columns, width, THRESHOLD: tl.constexpr):
    places = (rows[:, None] * width + columns[None, :]).to(tl.uint32)
    words = _mix(places * (2 * key + 1) + key)
    return (words >> 8).to(tl.int32) >= THRESHOLD


@triton.jit
def _rms_norm(x, weight, out, factors, width, eps, out_stride, PLUS_ONE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, inside, 0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values) / width + eps)
    gain = tl.load(weight + columns, inside, 0.0).to(tl.float32) + PLUS_ONE
    tl.store(out + row * out_stride + columns, values * factor * gain, inside)
    tl.store(factors + row, factor)


def rms_norm(x: Any, weight: Any, eps: float, plus_one: bool, out: Any) -> Any:
    rows, width = x.shape
    factors = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _rms_norm[(rows,)](
        x, weight, out, factors, width, eps, out.stride(0), PLUS_ONE=int(plus_one), BLOCK=block, num_warps=4
    )
    return factors


@triton.jit
def _rms_norm_backward(
    dy, x, factors, weight, residual, dx, width, dy_stride,
    PLUS_ONE: tl.constexpr, ADDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    gain = tl.load(weight + columns, inside, 0.0).to(tl.float32) + PLUS_ONE
    scaled = tl.load(dy + row * dy_stride + columns, inside, 0.0).to(tl.float32) * gain
    factor = tl.load(factors + row)
    normed = tl.load(x + row * width + columns, inside, 0.0).to(tl.float32) * factor
    result = factor * (scaled - normed * (tl.sum(scaled * normed) / width))
    if ADDS:
        result += tl.load(residual + row * width + columns, inside, 0.0).to(tl.float32)
    tl.store(dx + row * width + columns, result, inside)


def rms_norm_backward(dy: Any, x: Any, factor: Any, weight: Any, plus_one: bool, residual: Any | None) -> Any:
    rows, width = x.shape
    dx = torch.empty_like(x)
    adds = residual is not None
    block = triton.next_power_of_2(width)
    _rms_norm_backward[(rows,)](
        dy, x, factor, weight, residual if adds else x, dx, width, dy.stride(0),
        PLUS_ONE=int(plus_one), ADDS=adds, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return dx


@triton.jit(do_not_specialize=["site"])
def _drop_down(
    x, down, out, copy, seed, site, scale, width, rank, x_stride, out_stride, copy_stride,
    THRESHOLD: tl.constexpr, COPIES: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    member = tl.program_id(1)
    ranks = tl.arange(0, R)
    key = _site_key(seed, site + member)
    low = tl.zeros((ROWS, R), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < width
        tile = tl.load(x + rows[:, None].to(tl.int64) * x_stride + columns[None, :], inside[None, :], 0.0)
        if COPIES:
            tl.store(copy + rows[:, None].to(tl.int64) * copy_stride + columns[None, :], tile, inside[None, :])
        if THRESHOLD > 0:
            tile = tl.where(_keeps(key, rows, columns, width, THRESHOLD), tile, 0.0)
        places = (member * rank + ranks[:, None]) * width + columns[None, :]
        matrix = tl.load(down + places, (ranks[:, None] < rank) & inside[None, :], 0.0)
        low = tl.dot(tile, tl.trans(matrix), low)
    places = rows[:, None].to(tl.int64) * out_stride + member * rank + ranks[None, :]
    tl.store(out + places, low * scale, ranks[None, :] < rank)


def drop_down(
    x: Any, down: Any, scale: float, dropout: tuple[Any, float], site: int, out: Any, copy: Any | None
) -> None:
    members, rank, width = down.shape
    seed, share = dropout
    ranks = _padded(rank)
    copies = copy is not None
    target = copy if copies else x
    _drop_down[(x.shape[0] // 16, members)](
        x, down, out, target, seed, site, scale / (1 - share), width, rank, x.stride(0), out.stride(0),
        target.stride(0), THRESHOLD=threshold_of(share), COPIES=copies, R=ranks, ROWS=16,
        BLOCK=down_block(ranks), num_warps=4, num_stages=3,
    )  # fmt: skip


def down_block(ranks: int) -> int:
    """Columns of one pass: three tiles of 256 columns for 128 ranks are more than an A10G's shared memory holds."""
    return 256 if ranks <= 64 else 128


@triton.jit
def _grad_tile(tile, part, matrix, flow, acc, key, rows, columns, width, scale, THRESHOLD: tl.constexpr):
    """One tile's share of the lower half's gradient, and what flows back through it."""
    back = tl.dot(part, matrix) * scale
    if THRESHOLD > 0:
        keeps = _keeps(key, rows, columns, width, THRESHOLD)
        tile = tl.where(keeps, tile, 0.0)
        back = tl.where(keeps, back, 0.0)
    return flow + back, tl.dot(tl.trans(part), tile, acc)


@triton.jit
def _add_grad(grad, acc, scale, member, ranks, rank, columns, width):
    inside = (ranks[:, None] < rank) & (columns[None, :] < width)
    tl.atomic_add(grad + (member * rank + ranks[:, None]) * width + columns[None, :], acc * scale, inside)


@triton.jit(do_not_specialize=["site"])
def _grad_down(
    x, dz, down, dx, grad, seed, site, scale, width, rank, tokens, x_stride, dz_stride, dx_stride, chunk,
    MEMBERS: tl.constexpr, THRESHOLD: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    inside = columns < width
    fits = ranks < rank
    acc0 = tl.zeros((R, BLOCK), tl.float32)
    acc1 = tl.zeros((R, BLOCK), tl.float32)
    acc2 = tl.zeros((R, BLOCK), tl.float32)
    places = ranks[:, None] * width + columns[None, :]
    both = fits[:, None] & inside[None, :]
    key0 = _site_key(seed, site)
    key1 = _site_key(seed, site + 1)
    key2 = _site_key(seed, site + 2)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, tokens), ROWS):
        rows = start + tl.arange(0, ROWS)
        line = rows[:, None].to(tl.int64)
        tile = tl.load(x + line * x_stride + columns[None, :], inside[None, :], 0.0)
        flow = tl.load(dx + line * dx_stride + columns[None, :], inside[None, :], 0.0).to(tl.float32)
        low = dz + line * dz_stride + ranks[None, :]
        part = tl.load(low, fits[None, :], 0.0)
        matrix = tl.load(down + places, both, 0.0)
        flow, acc0 = _grad_tile(tile, part, matrix, flow, acc0, key0, rows, columns, width, scale, THRESHOLD)
        if MEMBERS > 1:
            part = tl.load(low + rank, fits[None, :], 0.0)
            matrix = tl.load(down + rank * width + places, both, 0.0)
            flow, acc1 = _grad_tile(tile, part, matrix, flow, acc1, key1, rows, columns, width, scale, THRESHOLD)
        if MEMBERS > 2:
            part = tl.load(low + 2 * rank, fits[None, :], 0.0)
            matrix = tl.load(down + 2 * rank * width + places, both, 0.0)
            flow, acc2 = _grad_tile(tile, part, matrix, flow, acc2, key2, rows, columns, width, scale, THRESHOLD)
        tl.store(dx + line * dx_stride + columns[None, :], flow, inside[None, :])
    _add_grad(grad, acc0, scale, 0, ranks, rank, columns, width)
    if MEMBERS > 1:
        _add_grad(grad, acc1, scale, 1, ranks, rank, columns, width)
    if MEMBERS > 2:
        _add_grad(grad, acc2, scale, 2, ranks, rank, columns, width)


def grad_down(
    x: Any, dz: Any, down: Any, scale: float, dropout: tuple[Any, float], site: int, dx: Any, grad: Any
) -> None:
    members, rank, width = down.shape
    seed, share = dropout
    tokens = x.shape[0]
    chunk = _chunk(tokens, triton.cdiv(width, 64), programs=250)
    _grad_down[(triton.cdiv(width, 64), triton.cdiv(tokens, chunk))](
        x, dz, down, dx, grad, seed, site, scale / (1 - share), width, rank, tokens, x.stride(0), dz.stride(0),
        dx.stride(0), chunk, MEMBERS=members, THRESHOLD=threshold_of(share), R=_padded(rank), ROWS=64, BLOCK=64,
        num_warps=4, num_stages=2,
    )  # fmt: skip


@triton.jit
def _grad_up(
    dy, z, grad, rank, tokens, dy_stride, z_stride, chunk,
    END0: tl.constexpr, END1: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) * BLOCK
    columns = block + tl.arange(0, BLOCK)
    member = (block >= END0).to(tl.int32) + (block >= END1).to(tl.int32)
    ranks = tl.arange(0, R)
    fits = ranks < rank
    acc = tl.zeros((BLOCK, R), tl.float32)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, tokens), ROWS):
        line = (start + tl.arange(0, ROWS))[:, None].to(tl.int64)
        tile = tl.load(dy + line * dy_stride + columns[None, :])
        low = tl.load(z + line * z_stride + member * rank + ranks[None, :], fits[None, :], 0.0)
        acc = tl.dot(tl.trans(tile), low, acc)
    tl.atomic_add(grad + columns[:, None] * rank + ranks[None, :], acc, fits[None, :])


def grad_up(dy: Any, z: Any, sizes: tuple[int, ...], grad: Any) -> None:
    tokens, width = dy.shape
    block = _common_block(sizes)
    chunk = _chunk(tokens, width // block)
    _grad_up[(width // block, triton.cdiv(tokens, chunk))](
        dy, z, grad, grad.shape[1], tokens, dy.stride(0), z.stride(0), chunk, END0=sizes[0],
        END1=sum(sizes[:2]), R=_padded(grad.shape[1]), ROWS=64, BLOCK=block, num_warps=4, num_stages=3,
    )  # fmt: skip


@triton.jit
def _place_up(up, weight, rank, columns, stride, total, END0: tl.constexpr, END1: tl.constexpr, R: tl.constexpr):
    rows = tl.program_id(0) * 64 + tl.arange(0, 64)
    ranks = tl.arange(0, R)
    inside = (rows[:, None] < total) & (ranks[None, :] < rank)
    member = (rows >= END0).to(tl.int32) + (rows >= END1).to(tl.int32)
    values = tl.load(up + rows[:, None] * rank + ranks[None, :], inside, 0.0)
    places = rows[:, None].to(tl.int64) * stride + columns + member[:, None] * rank + ranks[None, :]
    tl.store(weight + places, values, inside)


def place_up(up: Any, sizes: tuple[int, ...], weight: Any, columns: int) -> None:
    total, rank = up.shape
    _place_up[(triton.cdiv(total, 64),)](
        up, weight, rank, columns, weight.stride(0), total, END0=sizes[0], END1=sum(sizes[:2]), R=_padded(rank)
    )


@triton.jit
def _turn(source, target, cos, sin, sign, HALF: tl.constexpr):
    places = tl.arange(0, HALF)
    first = tl.load(source + places).to(tl.float32)
    second = tl.load(source + HALF + places).to(tl.float32)
    cosine = tl.load(cos + places)
    sine = tl.load(sin + places) * sign
    tl.store(target + places, first * cosine - second * sine)
    tl.store(target + HALF + places, second * cosine + first * sine)


@triton.jit
def _rope(heads, cos, sin, positions, stride, HALF: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(positions + token) * HALF
    head = heads + token * stride + tl.program_id(1) * 2 * HALF
    _turn(head, head, cos + place, sin + place, 1.0, HALF)


def rope(heads: Any, cos: Any, sin: Any, positions: Any) -> None:
    tokens, count, size = heads.shape
    _rope[(tokens, count)](heads, cos, sin, positions, heads.stride(0), HALF=size // 2, num_warps=1)


@triton.jit
def _rope_backward(
    dq, dk, dv, cos, sin, positions, out, q_stride, k_stride, v_stride, out_stride,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1)
    place = tl.load(positions + token) * HALF
    target = out + token * out_stride + number * 2 * HALF
    if number < QUERIES:
        _turn(dq + token * q_stride + number * 2 * HALF, target, cos + place, sin + place, -1.0, HALF)
    elif number < QUERIES + KEYS:
        source = dk + token * k_stride + (number - QUERIES) * 2 * HALF
        _turn(source, target, cos + place, sin + place, -1.0, HALF)
    else:
        source = dv + token * v_stride + (number - QUERIES - KEYS) * 2 * HALF
        places = tl.arange(0, 2 * HALF)
        tl.store(target + places, tl.load(source + places))


def rope_backward(dq: Any, dk: Any, dv: Any, cos: Any, sin: Any, positions: Any, out: Any) -> None:
    tokens, queries, size = dq.shape
    _rope_backward[(tokens, out.shape[1])](
        dq, dk, dv, cos, sin, positions, out, dq.stride(0), dk.stride(0), dv.stride(0), out.stride(0),
        QUERIES=queries, KEYS=dk.shape[1], HALF=size // 2, num_warps=1,
    )  # fmt: skip


def _padded(rank: int) -> int:
    """The matrix units take no fewer than 16 columns."""
    return max(16, triton.next_power_of_2(rank))


def _chunk(tokens: int, others: int, programs: int = 500) -> int:
    """Tokens that one program walks through: few enough that about so many programs share the work."""
    return max(64, 64 * (tokens * others // (64 * programs)))


def _common_block(sizes: tuple[int, ...]) -> int:
    """Columns of one program, none of which may lie in two members."""
    return next(block for block in (64, 32, 16) if all(size % block == 0 for size in sizes))
