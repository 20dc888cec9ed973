"""The fused operations in plain PyTorch: what a CPU runs, and what the kernels are held against.

Every function has a twin of the same name and signature in ops.py. `dropout` is (seed, share): masks are computed
from the step's seed, the site (which adapters) and the element's place, so they need no memory, are the same when an
activation is recomputed or a step repeated, and follow from the recipe's seed alone.
"""

# a room of tensor arithmetic, imported only when a fast step is built
from __future__ import annotations

from typing import Any

import torch  # noqa: TID253
from torch.nn import functional  # noqa: TID253

# what the operations raise where this machine cannot do them; anything else is an error of ours
REFUSALS = (RuntimeError,)
WORD = 0xFFFFFFFF
# a multiplier whose powers, times a word, are as good as independent of it
NEXT_MEMBER = 747796405
ACTIVATIONS = ("silu", "gelu_tanh", "gelu")


def _mix(value: Any) -> Any:
    """A hash of 32-bit words."""
    value = _mix_places(value)
    return value ^ (value >> 15)


def _mix_places(value: Any) -> Any:
    """The same without its last turn, which only changes low bits: dropout asks how large a word is."""
    value = value ^ (value >> 16)
    value = (value * 0x21F0AAAD) & WORD
    value = value ^ (value >> 15)
    return (value * 0x735A2D97) & WORD


def threshold_of(share: float) -> int:
    """A word below it, taken as signed, drops its element."""
    return round(share * (1 << 32)) - (1 << 31)


def keep_mask(rows: int, columns: int, seed: Any, site: int, member: int, share: float) -> Any:
    """Which elements dropout keeps. A site's members share all of the hash but its last products, which are cheap."""
    places = torch.arange(rows * columns, dtype=torch.int64, device=seed.device).view(rows, columns)
    key = _mix((seed.long() + site * 0x3779B9) & WORD)
    words = _mix_places((places * (2 * key + 1) + key) & WORD)
    for _ in range(member):
        words = (words * NEXT_MEMBER) & WORD
    return words - ((words >> 31) << 32) >= threshold_of(share)


def _drop(x: Any, dropout: tuple[Any, float], site: int, member: int) -> Any:
    seed, share = dropout
    if not share:
        return x
    return x * keep_mask(x.shape[0], x.shape[1], seed, site, member, share).to(x.dtype) / (1 - share)


def rms_norm(x: Any, added: Any | None, weight: Any, eps: float, plus_one: bool, out: Any) -> Any:
    """Adds `added` to `x`, writes the normed rows to `out` and returns each row's factor."""
    if added is not None:
        x += added
    factor = torch.rsqrt(x.float().pow(2).mean(-1) + eps)
    gain = weight.float() + plus_one
    out.copy_((x.float() * factor[:, None] * gain).to(out.dtype))
    return factor


def rms_norm_backward(dy: Any, x: Any, factor: Any, weight: Any, plus_one: bool, residual: Any | None) -> Any:
    """The gradient of rms_norm's input, added to what the residual path brings."""
    scaled = dy.float() * (weight.float() + plus_one)
    normed = x.float() * factor[:, None]
    dx = factor[:, None] * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    return (dx if residual is None else dx + residual.float()).to(x.dtype)


def drop_down(
    x: Any, down: Any, scale: float, dropout: tuple[Any, float], site: int, out: Any, copy: Any | None
) -> None:
    """The adapters' lower halves, side by side: out_i = scale * dropout_i(x) @ down_i.T; may copy x on the way."""
    rank = down.shape[1]
    for member in range(down.shape[0]):
        low = _drop(x, dropout, site, member) @ down[member].T
        out[:, member * rank : (member + 1) * rank] = low * scale
    if copy is not None:
        copy.copy_(x)


def grad_down(
    x: Any, dz: Any, down: Any, scale: float, dropout: tuple[Any, float], site: int, dx: Any, grad: Any
) -> Any:
    """Adds the lower halves' gradients to `grad`; returns `dx` with what flows back through them."""
    rank = down.shape[1]
    flow = dx.clone()
    for member in range(down.shape[0]):
        part = dz[:, member * rank : (member + 1) * rank]
        grad[member] += scale * (part.T @ _drop(x, dropout, site, member)).float()
        flow += scale * _drop(part @ down[member], dropout, site, member)
    return flow


def grad_up(dy: Any, z: Any, sizes: tuple[int, ...], grad: Any) -> None:
    """Adds the upper halves' gradients: of each member, dy_i.T @ z_i."""
    rank = grad.shape[1]
    start = 0
    for member, size in enumerate(sizes):
        rows = slice(start, start + size)
        grad[rows] += (dy[:, rows].T @ z[:, member * rank : (member + 1) * rank]).float()
        start += size


def place_up(up: Any, sizes: tuple[int, ...], weight: Any, columns: int) -> None:
    """The upper halves into the widened weight, right of its own `columns`: one block of columns for each member."""
    rank = up.shape[1]
    start = 0
    for member, size in enumerate(sizes):
        first = columns + member * rank
        weight[start : start + size, first : first + rank] = up[start : start + size]
        start += size


def take_rows(source: Any, index: Any) -> Any:
    """The rows at these places; zeros where a place is -1."""
    return source[index.clamp(min=0).long()] * (index >= 0)[:, None]


def _turn(heads: Any, cos: Any, sin: Any) -> Any:
    first, second = heads.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(heads.dtype)


def rope(heads: Any, cos: Any, sin: Any, positions: Any) -> None:
    """Turns every head of [tokens, heads, size] in place; the tables have half of a head's size."""
    heads.copy_(_turn(heads, cos[positions][:, None], sin[positions][:, None]))


def rope_backward(dq: Any, dk: Any, dv: Any, cos: Any, sin: Any, positions: Any, out: Any) -> None:
    """The gradients before the turn, side by side in `out` [tokens, heads, size]."""
    turned = torch.cat([dq, dk], dim=1)
    out[:, : turned.shape[1]] = _turn(turned, cos[positions][:, None], -sin[positions][:, None])
    out[:, turned.shape[1] :] = dv


def _act(gate: Any, kind: str) -> Any:
    if kind == "silu":
        return functional.silu(gate)
    return functional.gelu(gate, approximate="tanh" if kind == "gelu_tanh" else "none")


def glu(both: Any, kind: str, out: Any) -> None:
    """act(gate) * up, where `both` holds gate and up side by side."""
    gate, up = both.float().chunk(2, dim=1)
    out.copy_((_act(gate, kind) * up).to(out.dtype))


def glu_backward(
    dact: Any, dz: Any, both: Any, kind: str, down: Any, scale: float, dropout: tuple[Any, float], site: int,
    grad: Any, z: Any, up_grad: Any,
) -> None:  # fmt: skip
    """Backwards through the last adapter's lower half and the gated activation; `both` becomes its own gradient.

    Its adapters' upper halves get theirs on the way, from their low values `z`.
    """
    gate, up = (part.float().detach().requires_grad_() for part in both.chunk(2, dim=1))
    with torch.enable_grad():
        product = _act(gate, kind) * up
    flow = grad_down(product.detach().to(both.dtype), dz, down, scale, dropout, site, dact, grad)
    dgate, dup = torch.autograd.grad(product, (gate, up), flow.float())
    both.copy_(torch.cat([dgate, dup], dim=1).to(both.dtype))
    grad_up(both, z, (gate.shape[1], up.shape[1]), up_grad)


def cross_entropy(logits: Any, targets: Any, weight: Any) -> tuple[Any, Any]:
    """Each row's loss and whether it was predicted right; `logits` becomes the gradient of their sum * weight."""
    counts = targets >= 0
    wanted = targets.clamp(min=0)
    logs = torch.log_softmax(logits.float(), dim=-1)
    losses = -logs.gather(1, wanted[:, None])[:, 0] * counts
    rights = (logits.argmax(-1) == targets) & counts
    grads = logs.exp()
    grads.scatter_add_(1, wanted[:, None], torch.full_like(grads[:, :1], -1.0))
    logits.copy_((grads * (counts * weight)[:, None]).to(logits.dtype))
    return losses, rights.float()
