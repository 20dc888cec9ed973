"""Linear layers that share an input, with their adapters, as one matrix product.

y = x W' + z B' is computed as [x z] [W B]': the adapters' lower halves write z right of x, and B lies right of W, so an
adapter costs one narrow kernel instead of a second product, and the backward product gives z's gradient along with x's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253

KINDS = {
    "qkv": ("self_attn", ("q_proj", "k_proj", "v_proj")),
    "out": ("self_attn", ("o_proj",)),
    "both": ("mlp", ("gate_proj", "up_proj")),
    "down": ("mlp", ("down_proj",)),
}
# adapters of a layer, so that every one draws a dropout mask of its own
SITES = {"qkv": 0, "out": 3, "both": 4, "down": 6}
SITES_PER_LAYER = 7


@dataclass
class Group:
    """One group of one layer. What begins with `grad` is float32; `down` and `up` are the adapters to compute with."""

    kind: str
    site: int
    modules: list[Any]
    sizes: tuple[int, ...]
    width: int
    rank: int
    scale: float
    bias: Any | None
    down: Any = None
    up: Any = None
    grad_down: Any = None
    grad_up: Any = None

    @property
    def columns(self) -> int:
        """Width of the widened input: by a multiple of 16 more, or the kernels load a number at a time."""
        return self.width + -(-self.rank * len(self.modules) // 16) * 16

    @property
    def low(self) -> slice:
        return slice(self.width, self.width + self.rank * len(self.modules))

    def new_input(self, tokens: int, dtype: Any, device: Any) -> Any:
        wide = torch.empty(tokens, self.columns, dtype=dtype, device=device)
        if self.low.stop < self.columns:
            wide[:, self.low.stop :].zero_()
        return wide


def find_groups(layer: Any, number: int) -> dict[str, Group]:
    groups = {}
    for kind, (block, names) in KINDS.items():
        modules = [layer.get_submodule(f"{block}.{name}") for name in names]
        adapted = [module for module in modules if is_adapted(module)]
        biases = [_base(module).bias for module in modules]
        groups[kind] = Group(
            kind=kind,
            site=number * SITES_PER_LAYER + SITES[kind],
            modules=modules,
            sizes=tuple(_base(module).out_features for module in modules),
            width=_base(modules[0]).in_features,
            rank=adapted[0].r[adapter_of(adapted[0])] if adapted else 8,
            scale=float(adapted[0].scaling[adapter_of(adapted[0])]) if adapted else 1.0,
            bias=None if biases[0] is None else torch.cat([bias.detach() for bias in biases]),
        )
    return groups


def find_missing(layer: Any) -> str:
    """The projection that a layer lacks, or that keeps its weight under another name, as foreign 4-bit formats do."""
    for block, names in KINDS.values():
        for name in names:
            module = getattr(getattr(layer, block, None), name, None)
            if getattr(_base(module), "weight", None) is None:
                return name
    return ""


def adapter_of(module: Any) -> str:
    """The adapter in use; "" where there is none, or it is switched off."""
    if not hasattr(module, "lora_A") or module.disable_adapters:
        return ""
    return next((name for name in module.active_adapters if name in module.lora_A), "")


def is_adapted(module: Any) -> bool:
    return bool(adapter_of(module))


def _base(module: Any) -> Any:
    return module.base_layer if hasattr(module, "base_layer") else module


def dropout_of(module: Any) -> float:
    name = adapter_of(module)
    return float(getattr(module.lora_dropout[name], "p", 0.0)) if name else 0.0


def halves_of(module: Any) -> tuple[Any, Any]:
    """The weights of the adapter in use: its lower half's and its upper half's."""
    name = adapter_of(module)
    return module.lora_A[name].weight, module.lora_B[name].weight


def load_weight(module: Any, dtype: Any) -> Any:
    """A base layer's weight in the arithmetic's type; 4-bit ones are unpacked to the numbers that peft uses."""
    weight = _base(module).weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach().to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state).to(dtype)


class Adapters:
    """All adapters in one float32 buffer, which peft's parameters become views of, and a copy to compute with.

    peft's model therefore holds the current weights at any moment, and the optimizer keeps the parameters it has.
    A member without an adapter gets one of zeros, which stays so.
    """

    def __init__(self, groups: list[Group], dtype: Any, device: Any) -> None:
        sizes = [
            size for group in groups for size in (len(group.sizes) * group.rank * group.width,
                                                  sum(group.sizes) * group.rank)
        ]  # fmt: skip
        self.masters = torch.zeros(sum(sizes), dtype=torch.float32, device=device)
        self.grads = torch.zeros_like(self.masters)
        self._computing = torch.zeros_like(self.masters, dtype=dtype)
        self._views: list[tuple[Any, Any, Any]] = []
        buffers = [buffer.split(sizes) for buffer in (self.masters, self._computing, self.grads)]
        for number, group in enumerate(groups):
            down, group.down, group.grad_down = (
                parts[2 * number].view(len(group.sizes), group.rank, group.width) for parts in buffers
            )
            up, group.up, group.grad_up = (
                parts[2 * number + 1].view(sum(group.sizes), group.rank) for parts in buffers
            )
            self._adopt(group, down, up)

    def _adopt(self, group: Group, down: Any, up: Any) -> None:
        rows = [up.split(list(group.sizes)), group.grad_up.split(list(group.sizes))]
        for member, module in enumerate(group.modules):
            if is_adapted(module):
                lower, upper = halves_of(module)
                self._take(lower, down[member], group.grad_down[member])
                self._take(upper, rows[0][member], rows[1][member])

    def _take(self, parameter: Any, master: Any, grad: Any) -> None:
        master.copy_(parameter.data)
        parameter.data = master
        self._views.append((parameter, master, grad))

    @property
    def parameters(self) -> list[Any]:
        return [parameter for parameter, _, _ in self._views]

    def begin_step(self) -> None:
        """New weights to compute with, and no gradient yet."""
        for parameter, master, _ in self._views:
            if parameter.data_ptr() != master.data_ptr():  # somebody put other tensors there, as loading may do
                master.copy_(parameter.data)
                parameter.data = master
        self._computing.copy_(self.masters)
        self.grads.zero_()

    def end_step(self) -> None:
        """Gradients to where optimizers look for them; Trainer takes them away after each step."""
        for parameter, _, grad in self._views:
            parameter.grad = grad


class RestingAdapters:
    """A copy to compute with and nothing else, for a model that only predicts."""

    def __init__(self, groups: list[Group], dtype: Any, device: Any) -> None:
        for group in groups:
            group.down = torch.zeros(len(group.sizes), group.rank, group.width, dtype=dtype, device=device)
            group.up = torch.zeros(sum(group.sizes), group.rank, dtype=dtype, device=device)
            for member, (module, rows) in enumerate(zip(group.modules, group.up.split(list(group.sizes)), strict=True)):
                if is_adapted(module):
                    lower, upper = halves_of(module)
                    group.down[member].copy_(lower.detach())
                    rows.copy_(upper.detach())


class Weights:
    """The widened weights: all of them resident, or unpacked anew for each use into one buffer for each kind and rank.

    Layers differ in rank where an earlier job's adapters do, and put their upper halves into other columns then.
    """

    def __init__(self, groups: list[Group], ops: Any, dtype: Any, device: Any, resident: bool) -> None:
        self._ops = ops
        self._dtype = dtype
        self.resident = resident
        self._groups = groups
        self._kept: dict[int, Any] = {}
        self._buffers: dict[tuple[str, int], Any] = {}
        for group in groups:
            shape = (sum(group.sizes), group.columns)
            if resident:
                self._kept[group.site] = torch.zeros(shape, dtype=dtype, device=device)
                self._unpack(group, self._kept[group.site])
            elif (group.kind, group.rank) not in self._buffers:
                self._buffers[group.kind, group.rank] = torch.zeros(shape, dtype=dtype, device=device)

    def _unpack(self, group: Group, target: Any) -> None:
        start = 0
        for module, size in zip(group.modules, group.sizes, strict=True):
            target[start : start + size, : group.width] = load_weight(module, self._dtype)
            start += size

    def begin_step(self) -> None:
        if self.resident:
            for group in self._groups:
                self._ops.place_up(group.up, group.sizes, self._kept[group.site], group.width)

    def of(self, group: Group) -> Any:
        if self.resident:
            return self._kept[group.site]
        target = self._buffers[group.kind, group.rank]
        self._unpack(group, target)
        self._ops.place_up(group.up, group.sizes, target, group.width)
        return target
