"""When a job's steps take the fast way, as far as settings and the model's config.json tell. Pure, no torch.

The job asks here before it looks at the model itself; a plan asks here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from .architectures import PROJECTIONS
from .config import TrainConfig

FAMILIES = ("qwen2", "llama", "gemma")
ROTARY = ("default", "linear", "llama3")
ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh")
MAX_RANK = 128
HALVES = ("bfloat16", "float16")
# what attention takes of the powers of two that the kernels want
HEADS = (16, 32, 64, 128, 256)
# columns of a kernel's narrowest block
NARROWEST = 16
ELSEWHERE = "other modules than the projections have adapters"


class NoFastStep(Exception):
    """The plain path must take over, and why."""


# a key of config.json and a default -> its value
Ask = Callable[[str, Any], Any]


def choose_arithmetic(compute_dtype: str, has_bfloat16: bool) -> str:
    """What the recipe's compute_dtype means on a GPU."""
    half = "bfloat16" if has_bfloat16 else "float16"
    return half if compute_dtype in ("auto", "bfloat16") else compute_dtype


def find_reason(
    config: TrainConfig, model: Ask, arithmetic: str, processes: int, has_gpu: bool, is_ampere: bool = True
) -> str:
    """Why a job's steps must take the plain path, or ""."""
    if config.fast_step == "off":
        return "the recipe says fast_step = off"
    if processes > 1:
        return "several processes share a step"
    if not has_gpu and config.fast_step != "on":
        return "there is no GPU"
    if has_gpu and not is_ampere:  # or newer, which flash attention wants even in float16
        return "the GPU is older than Ampere"
    if has_gpu and arithmetic not in HALVES:
        return f"the arithmetic is {arithmetic}"
    if config.lora_bias != "none":
        return "biases are trained"
    return _find_reason_in_model(model) or (_find_reason_in_sizes(model) if has_gpu else "")


def _find_reason_in_model(model: Ask) -> str:
    family = model("model_type", "unknown")
    if family not in FAMILIES:
        return f"the architecture {family} is not one of {', '.join(FAMILIES)}"
    if model("use_sliding_window", False):
        return "the model's attention has a sliding window"
    if model("attention_dropout", 0.0):
        return "the model has dropout in its attention"
    activation = model("hidden_act", None) or ACTIVATIONS[0]
    if activation not in ACTIVATIONS:
        return f"the activation {activation} is not known"
    # transformers renamed it in 5, and older models say type
    rope = model("rope_scaling", None) or model("rope_parameters", None) or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    return "" if kind in ROTARY else f"rotary embeddings of type {kind} are not known"


def _find_reason_in_sizes(model: Ask) -> str:
    """A GPU's kernels take tensors in blocks; PyTorch on a CPU takes any."""
    widths = {name: model(name, 0) for name in ("hidden_size", "intermediate_size")}
    head = model("head_dim", None) or widths["hidden_size"] // model("num_attention_heads", 1)
    if head not in HEADS:
        return f"the kernels cannot do heads of size {head}, only of {', '.join(map(str, HEADS))}"
    for name, width in widths.items():
        if width % NARROWEST:
            return f"the kernels cannot do a {name} of {width}, only multiples of {NARROWEST}"
    return ""


def find_reason_in_adapters(rank: int, modules: Collection[str]) -> str:
    """The same for the adapters, which an earlier job may have made."""
    if rank > MAX_RANK:
        return f"adapters have a rank of {rank}, above {MAX_RANK}"
    if set(modules) - set(PROJECTIONS):
        return ELSEWHERE
    return ""
