"""The kernels, compiled for each GPU that recipes name, and what they take of its shared memory. Needs triton, no GPU.

python -m pytest tests/gpu/test_shared_memory.py
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource, compile  # noqa: E402 - the compiler's own name for it

from container_src.sft import kernels, wide_kernels  # noqa: E402
from container_src.sft.reference import threshold_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
# bytes that one program may take: A100; A10G; L4 and L40S; H100 and H200
LIMITS = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448}
POINTERS = {
    "grad": "*fp32",
    "up_grad": "*fp32",
    "losses": "*fp32",
    "rights": "*fp32",
    "seed": "*i64",
    "targets": "*i64",
    "weight": "*fp32",
}
TENSORS = ("x", "down", "out", "copy", "dz", "dx", "dy", "z", "dact", "both", "logits")
NOT_IN_16 = ("site",)
DROPS = threshold_of(0.05)


def _compile(kernel: Any, architecture: int, warps: int, stages: int, **constants: Any) -> int:
    """Shared memory of one program, with widths and strides that are multiples of 16."""
    names = kernel.arg_names
    types = dict.fromkeys(TENSORS, "*bf16") | POINTERS | {"scale": "fp32"}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    whole = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind not in ("constexpr", "fp32") and name not in NOT_IN_16
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=whole)
    options = {"num_warps": warps, "num_stages": stages}
    return int(compile(source, target=GPUTarget("cuda", architecture, 32), options=options).metadata.shared)


@pytest.mark.parametrize("ranks", [16, 32, 64, 128])
@pytest.mark.parametrize("architecture", LIMITS)
@pytest.mark.parametrize("tokens", [2048, 16384])
def test_the_adapters_kernels_fit(tokens: int, architecture: int, ranks: int) -> None:
    found = {
        f"drop_down {members}": _compile(
            kernels._drop_down,
            architecture,
            4,
            3,
            MEMBERS=members,
            THRESHOLD=DROPS,
            COPIES=members == 1,
            R=ranks,
            ROWS=rows,
            BLOCK=block,
        )
        for members in (1, 2, 3)
        for rows, block in [kernels.down_tile(tokens, members * ranks)]
    }
    found |= {
        f"grad_down {members}": _compile(
            kernels._grad_down, architecture, 4, 3, MEMBERS=members, THRESHOLD=DROPS, R=ranks, ROWS=64, BLOCK=64,
            STAGES=kernels.grad_stages(members * ranks),
        )
        for members in (1, 2, 3)
    }  # fmt: skip
    found |= {
        "grad_up": _compile(kernels._grad_up, architecture, 4, 3, END0=1536, END1=1792, R=ranks, ROWS=64, BLOCK=64),
        "glu_backward": _compile(
            wide_kernels._glu_backward, architecture, 4, 3, KIND=0, THRESHOLD=DROPS, R=ranks, UP_R=ranks, ROWS=16,
            BLOCK=64, STAGES=2,
        ),
    }  # fmt: skip
    assert {name: shared for name, shared in found.items() if shared > LIMITS[architecture]} == {}


@pytest.mark.parametrize("architecture", LIMITS)
def test_the_loss_s_kernel_fits(architecture: int) -> None:
    assert _compile(wide_kernels._cross_entropy, architecture, 16, 3, BLOCK=4096) < LIMITS[architecture]
