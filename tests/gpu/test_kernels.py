"""The Triton kernels against their plain twins, on fresh random input.

python -m pytest tests/gpu/test_kernels.py                       on a GPU
TRITON_INTERPRET=1 python -m pytest tests/gpu/test_kernels.py    on a CPU, slowly, where triton is installed
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from container_src.sft import reference

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from container_src.sft import ops  # noqa: E402 - it compiles for what is found above

# the interpreter turns arrays into numbers in a way that numpy warns about
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
DEVICE = "cpu" if INTERPRETED else "cuda"
# the interpreter cannot multiply bfloat16
DTYPE = torch.float32 if INTERPRETED else torch.bfloat16
TOLERANCE = 2e-5 if INTERPRETED else 1e-2
TOKENS = 128


def _new(*shape: int, scale: float = 1.0) -> Any:
    return (scale * torch.randn(*shape, device=DEVICE)).to(DTYPE)


def _wide(rows: int, width: int, extra: int) -> Any:
    """A view that is narrower than its rows, as the widened inputs are."""
    return _new(rows, width + extra)[:, :width]


def _same_wide(view: Any) -> Any:
    """A copy of such a view and of what lies right of it; a clone of the view alone would lie close together."""
    return view._base.clone()[:, : view.shape[1]]


def _check(ours: Any, theirs: Any) -> None:
    ours, theirs = ours.double(), theirs.double()
    assert torch.isfinite(ours).all()
    assert float((ours - theirs).norm() / theirs.norm()) < TOLERANCE


def _dropout(share: float) -> tuple[Any, float]:
    return torch.randint(2**32, (1,), device=DEVICE), share


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("width", [96, 256])
def test_rms_norm(width: int, plus_one: bool) -> None:
    x, weight, residual = _new(TOKENS, width), _new(width), _new(TOKENS, width)
    dy = _wide(TOKENS, width, 16)
    for added in (None, residual):
        results = []
        for room in (ops, reference):
            sums, out = x.clone(), _same_wide(dy)
            results.append((room.rms_norm(sums, added, weight, 1e-6, plus_one, out), out, sums))
            assert torch.equal(out._base[:, width:], dy._base[:, width:])
        for ours, theirs in zip(*results, strict=True):
            _check(ours, theirs)
    factor = results[0][0]
    for adds in (residual, None):
        _check(*(room.rms_norm_backward(dy, x, factor, weight, plus_one, adds) for room in (ops, reference)))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
@pytest.mark.parametrize(("members", "rank", "width"), [(3, 16, 320), (2, 8, 96), (1, 4, 576), (2, 128, 320)])
def test_lower_halves(members: int, rank: int, width: int, share: float) -> None:
    x, down, dropout = _wide(TOKENS, width, 48), _new(members, rank, width), _dropout(share)
    results = []
    for room in (ops, reference):
        out, copy = (torch.zeros_like(x._base)[:, :columns] for columns in (members * rank, width))
        room.drop_down(x, down, 2.0, dropout, 5, out, copy if members == 1 else None)
        grad = torch.zeros_like(down, dtype=torch.float32)
        flow = room.grad_down(x, out, down, 2.0, dropout, 5, x, grad)
        results.append((out, copy, flow, grad))
    for number, (ours, theirs) in enumerate(zip(*results, strict=True)):
        if number != 1 or members == 1:
            _check(ours, theirs)


@pytest.mark.parametrize("sizes", [(192, 64, 64), (128, 128), (96,)])
def test_upper_halves(sizes: tuple[int, ...]) -> None:
    rank, width = 16, 80
    dy, z = _new(TOKENS, sum(sizes)), _wide(TOKENS, rank * len(sizes), width)
    grads = [torch.zeros(sum(sizes), rank, device=DEVICE) for _ in range(2)]
    ops.grad_up(dy, z, sizes, grads[0])
    reference.grad_up(dy, z, sizes, grads[1])
    _check(*grads)
    weights = [torch.zeros(sum(sizes), width + rank * len(sizes), device=DEVICE, dtype=DTYPE) for _ in range(2)]
    up = _new(sum(sizes), rank)
    ops.place_up(up, sizes, weights[0], width)
    reference.place_up(up, sizes, weights[1], width)
    assert torch.equal(*weights)


def test_rope() -> None:
    heads, keys, size = 4, 2, 64
    angles = torch.rand(TOKENS, size // 2, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    positions = torch.randint(TOKENS, (TOKENS,), device=DEVICE)
    qkv = _new(TOKENS, heads + 2 * keys, size)
    both = [qkv.clone(), qkv.clone()]
    for room, turned in zip((ops, reference), both, strict=True):
        room.rope(turned[:, : heads + keys], cos, sin, positions)
    _check(*both)
    grads = [_new(TOKENS, count, size) for count in (heads, keys, keys)]
    both = [torch.zeros_like(qkv) for _ in range(2)]
    for room, out in zip((ops, reference), both, strict=True):
        room.rope_backward(*grads, cos, sin, positions, out)
    _check(*both)


def test_take_rows() -> None:
    source, index = _wide(TOKENS, 2100, 20), torch.randint(-1, TOKENS, (3 * TOKENS,), device=DEVICE).int()
    index[0] = -1
    assert torch.equal(*(room.take_rows(source, index) for room in (ops, reference)))


@pytest.mark.parametrize("kind", reference.ACTIVATIONS)
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_glu(kind: str, share: float) -> None:
    width, rank, up_rank = 320, 16, 8  # projections without adapters count as rank 8
    both, dact, dz = _new(TOKENS, 2 * width), _wide(TOKENS, width, rank), _new(TOKENS, rank)
    down, dropout, z = _new(1, rank, width), _dropout(share), _wide(TOKENS, 2 * up_rank, 96)
    results = []
    for room in (ops, reference):
        out, flow = _same_wide(dact), both.clone()
        room.glu(both, kind, out)
        assert torch.equal(out._base[:, width:], dact._base[:, width:])
        grad = torch.zeros_like(down, dtype=torch.float32)
        up_grad = torch.zeros(2 * width, up_rank, device=DEVICE)
        room.glu_backward(dact, dz, flow, kind, down, 2.0, dropout, 3, grad, z, up_grad)
        results.append((out, flow, grad, up_grad))
    for ours, theirs in zip(*results, strict=True):
        _check(ours, theirs)


def test_cross_entropy() -> None:
    width = 9000
    logits = _new(TOKENS, width, scale=3.0)
    targets = torch.randint(width, (TOKENS,), device=DEVICE)
    targets[::5] = -100
    targets[1] = int(logits[1].argmax())
    weight = torch.tensor([3 / 77], device=DEVICE)
    both = [logits.clone(), logits.clone()]
    found = [room.cross_entropy(ours, targets, weight) for room, ours in zip((ops, reference), both, strict=True)]
    _check(*both)
    _check(found[0][0], found[1][0])
    assert bool(found[0][1][1]) and torch.equal(found[0][1], found[1][1])


def test_of_equal_logits_the_first_is_the_prediction() -> None:
    """As argmax has it, which evaluations and the plain path ask; in bfloat16 the two highest are often equal."""
    width, top = 9000, 8.0
    places = torch.tensor([3, 700, 8500])  # the last one in the kernel's second block
    logits = _new(TOKENS, width)
    logits[:, places] = top
    targets = places.repeat(TOKENS)[:TOKENS].to(DEVICE)
    weight = torch.ones(1, device=DEVICE)
    rights = [room.cross_entropy(logits.clone(), targets, weight)[1] for room in (ops, reference)]
    assert rights[0].tolist() == rights[1].tolist() == (targets == 3).tolist()
