"""The fused operations as Triton kernels: the twins of reference.py, which says what each one computes.

Sums and functions are in float32, what is stored in bfloat16 or float16. Rows must come in whole tiles of 64.
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
MANY_TOKENS = 8192


@triton.jit
def _mix(value):
    value ^= value >> 16
    value *= 0x21F0AAAD
    value ^= value >> 15
    return value * 0x735A2D97


@triton.jit
def _site_key(seed, site):
    key = _mix(tl.load(seed).to(tl.uint32) + (site * 0x3779B9).to(tl.uint32))
    return key ^ (key >> 15)


@triton.jit
def _words(key, rows, columns, width):
    """What dropout decides by, for a site's first member."""
    places = ((rows * width)[:, None] + columns[None, :]).to(tl.uint32)
    return _mix(places * (2 * key + 1) + key)


@triton.jit
def _next_member(words):
    return words * 747796405


@triton.jit
def _keeps(words, THRESHOLD: tl.constexpr):
    # without dropout the threshold is the lowest word, and nobody asks
    return words.to(tl.int32, bitcast=True) >= THRESHOLD


@triton.jit
def _rms_norm(
    x, added, weight, out, factors, width, eps, out_stride,
    ADDS: tl.constexpr, PLUS_ONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, inside, 0.0)
    if ADDS:
        more = tl.load(added + row * width + columns, inside, 0.0).to(tl.float32)
        values = (values.to(tl.float32) + more).to(x.dtype.element_ty)
        tl.store(x + row * width + columns, values, inside)
    values = values.to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values) / width + eps)
    gain = tl.load(weight + columns, inside, 0.0).to(tl.float32) + PLUS_ONE
    tl.store(out + row * out_stride + columns, values * factor * gain, inside)
    tl.store(factors + row, factor)


def rms_norm(x: Any, added: Any | None, weight: Any, eps: float, plus_one: bool, out: Any) -> Any:
    rows, width = x.shape
    adds = added is not None
    factors = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _rms_norm[(rows,)](
        x, added if adds else x, weight, out, factors, width, eps, out.stride(0), ADDS=adds, PLUS_ONE=int(plus_one),
        BLOCK=block, num_warps=4,
    )  # fmt: skip
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


@triton.jit
def _low(low, tile, words, down, ranks, columns, rank, width, THRESHOLD: tl.constexpr):
    """One tile's share of one member's low values."""
    if THRESHOLD > -0x80000000:
        tile = tl.where(_keeps(words, THRESHOLD), tile, 0.0)
    inside = (ranks[:, None] < rank) & (columns[None, :] < width)
    matrix = tl.load(down + ranks[:, None] * width + columns[None, :], inside, 0.0)
    return tl.dot(tile, tl.trans(matrix), low)


@triton.jit(do_not_specialize=["site"])
def _drop_down(
    x, down, out, copy, seed, site, scale, width, rank, x_stride, out_stride, copy_stride, MEMBERS: tl.constexpr,
    THRESHOLD: tl.constexpr, COPIES: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ranks = tl.arange(0, R)
    key = _site_key(seed, site)
    low0 = tl.zeros((ROWS, R), tl.float32)
    low1 = tl.zeros((ROWS, R), tl.float32)
    low2 = tl.zeros((ROWS, R), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < width
        tile = tl.load(x + rows[:, None].to(tl.int64) * x_stride + columns[None, :], inside[None, :], 0.0)
        if COPIES:
            tl.store(copy + rows[:, None].to(tl.int64) * copy_stride + columns[None, :], tile, inside[None, :])
        words = _words(key, rows, columns, width)
        low0 = _low(low0, tile, words, down, ranks, columns, rank, width, THRESHOLD)
        if MEMBERS > 1:
            words = _next_member(words)
            low1 = _low(low1, tile, words, down + rank * width, ranks, columns, rank, width, THRESHOLD)
        if MEMBERS > 2:
            words = _next_member(words)
            low2 = _low(low2, tile, words, down + 2 * rank * width, ranks, columns, rank, width, THRESHOLD)
    places = out + rows[:, None].to(tl.int64) * out_stride + ranks[None, :]
    fits = ranks[None, :] < rank
    tl.store(places, low0 * scale, fits)
    if MEMBERS > 1:
        tl.store(places + rank, low1 * scale, fits)
    if MEMBERS > 2:
        tl.store(places + 2 * rank, low2 * scale, fits)


def drop_down(
    x: Any, down: Any, scale: float, dropout: tuple[Any, float], site: int, out: Any, copy: Any | None
) -> None:
    members, rank, width = down.shape
    seed, share = dropout
    ranks = _padded(rank)
    copies = copy is not None
    target = copy if copies else x
    rows, block = down_tile(x.shape[0], members * ranks)
    _drop_down[(x.shape[0] // rows,)](
        x, down, out, target, seed, site, scale / (1 - share), width, rank, x.stride(0), out.stride(0),
        target.stride(0), MEMBERS=members, THRESHOLD=threshold_of(share), COPIES=copies, R=ranks,
        ROWS=rows, BLOCK=block, num_warps=4, num_stages=3,
    )  # fmt: skip


def down_tile(tokens: int, ranks: int) -> tuple[int, int]:
    """Rows and columns of one pass: never more columns than an A10G's shared memory holds three passes of."""
    rows = tile_rows(tokens)
    return rows, max(32, min(4096 // rows, 16384 // triton.next_power_of_2(ranks)))


def tile_rows(tokens: int) -> int:
    """Taller tiles where they leave work for every part of a GPU."""
    return 32 if tokens >= MANY_TOKENS else 16


@triton.jit
def _grad_tile(tile, part, matrix, flow, acc, words, scale, THRESHOLD: tl.constexpr):
    """One tile's share of the lower half's gradient, and what flows back through it."""
    back = tl.dot(part, matrix) * scale
    if THRESHOLD > -0x80000000:
        keeps = _keeps(words, THRESHOLD)
        tile = tl.where(keeps, tile, 0.0)
        back = tl.where(keeps, back, 0.0)
    return flow + back, tl.dot(tl.trans(part), tile, acc)


@triton.jit
def _add_grad(grad, acc, scale, member, ranks, rank, columns, width):
    inside = (ranks[:, None] < rank) & (columns[None, :] < width)
    tl.atomic_add(grad + (member * rank + ranks[:, None]) * width + columns[None, :], acc * scale, inside)


@triton.jit(do_not_specialize=["site"])
def _grad_down(
    x, dz, down, dx, out, grad, seed, site, scale, width, rank, tokens, x_stride, dz_stride, dx_stride, chunk,
    MEMBERS: tl.constexpr, THRESHOLD: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    inside = columns < width
    fits = ranks < rank
    acc0 = tl.zeros((R, BLOCK), tl.float32)
    acc1 = tl.zeros((R, BLOCK), tl.float32)
    acc2 = tl.zeros((R, BLOCK), tl.float32)
    places = down + ranks[:, None] * width + columns[None, :]
    both = fits[:, None] & inside[None, :]
    matrix0 = tl.load(places, both, 0.0)
    matrix1 = tl.load(places + rank * width, both, 0.0) if MEMBERS > 1 else matrix0
    matrix2 = tl.load(places + 2 * rank * width, both, 0.0) if MEMBERS > 2 else matrix0
    key = _site_key(seed, site)
    first = tl.program_id(1) * chunk
    for start in tl.range(first, tl.minimum(first + chunk, tokens), ROWS, num_stages=STAGES):
        rows = start + tl.arange(0, ROWS)
        line = rows[:, None].to(tl.int64)
        tile = tl.load(x + line * x_stride + columns[None, :], inside[None, :], 0.0)
        flow = tl.load(dx + line * dx_stride + columns[None, :], inside[None, :], 0.0).to(tl.float32)
        low = dz + line * dz_stride + ranks[None, :]
        words = _words(key, rows, columns, width)
        part = tl.load(low, fits[None, :], 0.0)
        flow, acc0 = _grad_tile(tile, part, matrix0, flow, acc0, words, scale, THRESHOLD)
        if MEMBERS > 1:
            words = _next_member(words)
            part = tl.load(low + rank, fits[None, :], 0.0)
            flow, acc1 = _grad_tile(tile, part, matrix1, flow, acc1, words, scale, THRESHOLD)
        if MEMBERS > 2:
            words = _next_member(words)
            part = tl.load(low + 2 * rank, fits[None, :], 0.0)
            flow, acc2 = _grad_tile(tile, part, matrix2, flow, acc2, words, scale, THRESHOLD)
        tl.store(out + line * width + columns[None, :], flow, inside[None, :])
    _add_grad(grad, acc0, scale, 0, ranks, rank, columns, width)
    if MEMBERS > 1:
        _add_grad(grad, acc1, scale, 1, ranks, rank, columns, width)
    if MEMBERS > 2:
        _add_grad(grad, acc2, scale, 2, ranks, rank, columns, width)


def grad_down(
    x: Any, dz: Any, down: Any, scale: float, dropout: tuple[Any, float], site: int, dx: Any, grad: Any
) -> Any:
    members, rank, width = down.shape
    seed, share = dropout
    tokens = x.shape[0]
    out = torch.empty_like(dx, memory_format=torch.contiguous_format)
    ranks = _padded(rank)
    chunk = _chunk(tokens, triton.cdiv(width, 64), programs=250)
    _grad_down[(triton.cdiv(width, 64), triton.cdiv(tokens, chunk))](
        x, dz, down, dx, out, grad, seed, site, scale / (1 - share), width, rank, tokens, x.stride(0), dz.stride(0),
        dx.stride(0), chunk, MEMBERS=members, THRESHOLD=threshold_of(share), R=ranks, ROWS=64, BLOCK=64,
        STAGES=grad_stages(members * ranks), num_warps=4,
    )  # fmt: skip
    return out


def grad_stages(ranks: int) -> int:
    """Passes whose tiles are on their way at a time: as many as an A10G's shared memory holds."""
    return 3 if ranks <= 96 else 2


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
def _take_rows(source, index, out, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(index + row).to(tl.int64)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < width
        tl.store(
            out + row * width + columns, tl.load(source + place * stride + columns, inside & (place >= 0), 0.0), inside
        )


def take_rows(source: Any, index: Any) -> Any:
    width = source.shape[1]
    out = torch.empty(len(index), width, dtype=source.dtype, device=source.device)
    _take_rows[(len(index),)](source, index, out, width, source.stride(0), BLOCK=2048, num_warps=4)
    return out


@triton.jit
def _turn(source, target, cos, sin, COUNT: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr):
    """All heads of one token; HEADS is COUNT made a power of two."""
    heads = tl.arange(0, HEADS)[:, None]
    inside = heads < COUNT
    places = heads * 2 * HALF + tl.arange(0, HALF)[None, :]
    first = tl.load(source + places, inside, 0.0).to(tl.float32)
    second = tl.load(source + HALF + places, inside, 0.0).to(tl.float32)
    tl.store(target + places, first * cos - second * sin, inside)
    tl.store(target + HALF + places, second * cos + first * sin, inside)


@triton.jit
def _angles(cos, sin, positions, token, HALF: tl.constexpr):
    places = tl.load(positions + token) * HALF + tl.arange(0, HALF)[None, :]
    return tl.load(cos + places), tl.load(sin + places)


@triton.jit
def _rope(heads, cos, sin, positions, stride, COUNT: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    cosine, sine = _angles(cos, sin, positions, token, HALF)
    _turn(heads + token * stride, heads + token * stride, cosine, sine, COUNT, HEADS, HALF)


def rope(heads: Any, cos: Any, sin: Any, positions: Any) -> None:
    tokens, count, size = heads.shape
    _rope[(tokens,)](
        heads, cos, sin, positions, heads.stride(0), COUNT=count, HEADS=triton.next_power_of_2(count),
        HALF=size // 2, num_warps=4,
    )  # fmt: skip


@triton.jit
def _rope_backward(
    dq, dk, dv, cos, sin, positions, out, q_stride, k_stride, v_stride, out_stride,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    cosine, sine = _angles(cos, sin, positions, token, HALF)
    target = out + token * out_stride
    _turn(dq + token * q_stride, target, cosine, -sine, QUERIES, HEADS, HALF)
    target += QUERIES * 2 * HALF
    _turn(dk + token * k_stride, target, cosine, -sine, KEYS, KEY_HEADS, HALF)
    target += KEYS * 2 * HALF
    places = tl.arange(0, KEY_HEADS * 2 * HALF)
    inside = places < KEYS * 2 * HALF
    tl.store(target + places, tl.load(dv + token * v_stride + places, inside, 0.0), inside)


def rope_backward(dq: Any, dk: Any, dv: Any, cos: Any, sin: Any, positions: Any, out: Any) -> None:
    tokens, queries, size = dq.shape
    keys = dk.shape[1]
    _rope_backward[(tokens,)](
        dq, dk, dv, cos, sin, positions, out, dq.stride(0), dk.stride(0), dv.stride(0), out.stride(0),
        QUERIES=queries, KEYS=keys, HEADS=triton.next_power_of_2(queries), KEY_HEADS=triton.next_power_of_2(keys),
        HALF=size // 2, num_warps=4,
    )  # fmt: skip


def _padded(rank: int) -> int:
    """The matrix units take no fewer than 16 columns."""
    return max(16, triton.next_power_of_2(rank))


def _chunk(tokens: int, others: int, programs: int = 500, rows: int = 64) -> int:
    """Tokens that one program walks through: few enough that about so many programs share the work."""
    return max(rows, rows * (tokens * others // (rows * programs)))


def _common_block(sizes: tuple[int, ...]) -> int:
    """Columns of one program, none of which may lie in two members."""
    return next(block for block in (64, 32, 16) if all(size % block == 0 for size in sizes))
