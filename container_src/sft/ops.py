"""The kernels under one roof, as reference.py has them."""

from .kernels import (
    REFUSALS,
    drop_down,
    grad_down,
    grad_up,
    place_up,
    rms_norm,
    rms_norm_backward,
    rope,
    rope_backward,
    take_rows,
    tile_rows,
)
from .wide_kernels import cross_entropy, glu, glu_backward

__all__ = [
    "REFUSALS", "cross_entropy", "drop_down", "glu", "glu_backward", "grad_down", "grad_up", "place_up", "rms_norm",
    "rms_norm_backward", "rope", "rope_backward", "take_rows", "tile_rows",
]  # fmt: skip
