"""Forward and backward of the known families' decoders over a packed row, written out.

peft's model stays as it is, for saving and for the plain path; this computes its adapters' gradients, and its
predictions, from the same frozen weights. Written out, because then nothing is kept that the backward pass can do
without, steps between matrix products are one kernel each, and a step is a plain list of kernels that a CUDA graph can
hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253

from .fast_conditions import ELSEWHERE, find_reason_in_adapters
from .groups import (
    Adapters,
    Group,
    RestingAdapters,
    Weights,
    adapter_of,
    dropout_of,
    find_groups,
    find_missing,
    halves_of,
    is_adapted,
)
from .memory_plan import LOGITS_AT_ONCE
from .packing import Row

ACTIVATIONS = {"SiLU": "silu", "SiLUActivation": "silu", "PytorchGELUTanh": "gelu_tanh", "GELUTanh": "gelu_tanh",
               "GELUActivation": "gelu"}  # fmt: skip


def find_obstacle(model: Any) -> str:
    """Why the steps of a model of a known family cannot be computed here, or ""."""
    if reason := find_obstacle_to_scores(model):
        return reason
    if {id(parameter) for parameter in model.parameters() if parameter.requires_grad} != _find_halves(model):
        return "other parameters than the projections' adapters are trained"
    return ""


def find_obstacle_to_scores(model: Any) -> str:
    """Why what the model predicts, with the adapter in use or with none, cannot be computed here, or ""."""
    base = model.get_base_model()
    for layer in base.model.layers:
        if name := find_missing(layer):
            return f"{name} has no weight that the step could unpack"
    if type(base.model.layers[0].mlp.act_fn).__name__ not in ACTIVATIONS:
        return f"the activation {type(base.model.layers[0].mlp.act_fn).__name__} is not known"
    return _find_obstacle_in_adapters(model, base)


def _find_halves(model: Any) -> set[int]:
    return {id(weight) for module in model.modules() if is_adapted(module) for weight in halves_of(module)}


def _find_obstacle_in_adapters(model: Any, base: Any) -> str:
    ours: set[int] = set()
    names_in_use: set[str] = set()
    for module in model.modules():
        if hasattr(module, "lora_A") and not module.disable_adapters:
            names_in_use |= set(module.active_adapters)
    if len(names_in_use) > 1:
        return "several adapters are in use at a time"
    for number, layer in enumerate(base.model.layers):
        for group in find_groups(layer, number).values():
            adapted = [(module, adapter_of(module)) for module in group.modules if is_adapted(module)]
            ranks = {(module.r[name], module.scaling[name], dropout_of(module)) for module, name in adapted}
            if len(ranks) > 1:
                return "adapters of one layer differ in rank, scale or dropout"
            if reason := find_reason_in_adapters(group.rank, ()):
                return reason
            for module, name in adapted:
                # newer versions of peft keep no use_dora, but what any variant computes instead
                if getattr(module, "use_dora", {}).get(name) or getattr(module, "lora_variant", {}).get(name):
                    return "the adapters are DoRA's or another variant"
                ours |= set(map(id, halves_of(module)))
    # of embeddings they lie elsewhere, and some have biases of their own
    for path, parameter in model.named_parameters():
        if names_in_use & set(path.split(".")) and id(parameter) not in ours:
            return ELSEWHERE
    return ""


@dataclass
class Layer:
    groups: dict[str, Group]
    norm_in: Any
    norm_mid: Any


@dataclass
class Saved:
    """What a layer's backward pass needs. `wide` tensors hold an adapter's low values right of the activations."""

    h: Any
    factor_in: Any
    wide_in: Any
    qkv: Any
    attended: Any
    wide_out: Any
    h_mid: Any
    factor_mid: Any
    wide_mid: Any
    both: Any
    low: Any


class Decoder:
    """All that a step's forward and backward pass need, on one device."""

    def __init__(
        self, model: Any, attention: Any, ops: Any, dtype: Any, longest: int, resident: bool, trains: bool = True
    ) -> None:
        base = model.get_base_model()
        core, settings = base.model, base.config
        self._ops = ops
        self._dtype = dtype
        self.attention = attention
        self.device = core.embed_tokens.weight.device
        self.checkpointing = False
        # what gradients are multiplied by, so that float16 does not lose the small ones
        self.grad_scale = torch.ones(1, dtype=torch.float32, device=self.device)
        self.heads = settings.num_attention_heads
        self.kv_heads = settings.num_key_value_heads
        self.head = getattr(core.layers[0].self_attn, "head_dim", settings.hidden_size // self.heads)
        self._kinds = (self.heads, self.kv_heads, self.kv_heads)
        self._embedding = core.embed_tokens.weight.detach()
        self._head_weight = base.lm_head.weight.detach().to(dtype)
        self._gemma = settings.model_type == "gemma"
        # rounded as the model itself rounds it
        self._embedding_scale = torch.tensor(settings.hidden_size**0.5, dtype=dtype).item()
        self._act = ACTIVATIONS[type(core.layers[0].mlp.act_fn).__name__]
        self._eps = settings.rms_norm_eps
        self._norm_out = core.norm.weight.detach()
        self.layers = [
            Layer(find_groups(layer, number), layer.input_layernorm.weight.detach(),
                  layer.post_attention_layernorm.weight.detach())
            for number, layer in enumerate(core.layers)
        ]  # fmt: skip
        groups = [group for layer in self.layers for group in layer.groups.values()]
        adapted = [module for group in groups for module in group.modules if is_adapted(module)]
        self.dropout = dropout_of(adapted[0]) if adapted else 0.0
        self.adapters: Any = (Adapters if trains else RestingAdapters)(groups, dtype, self.device)
        self.weights = Weights(groups, ops, dtype, self.device, resident)
        positions = torch.arange(longest, device=self.device)[None]
        cos, sin = core.rotary_emb(torch.zeros(1, dtype=torch.float32, device=self.device), positions)
        half = self.head // 2
        self._cos, self._sin = (table[0, :, :half].float().contiguous() for table in (cos, sin))

    def begin_step(self) -> None:
        self.adapters.begin_step()
        self.weights.begin_step()

    @torch.no_grad()
    def run(self, row: Row) -> Any:
        """Adds a packed row's gradients; returns its summed loss and how many tokens were predicted right."""
        mask = self.attention.prepare(row.ends, len(row.ids))
        drop = (row.seed, self.dropout)
        kept: list[Any] = []
        h, factor, normed = self._forward_all(row, mask, drop, kept)
        dnormed = torch.empty_like(normed)
        sums = self._predict(normed, row, dnormed).sum(1)
        dh = self._ops.rms_norm_backward(dnormed, h, factor, self._norm_out, self._gemma, None)
        for layer in reversed(self.layers):
            saved = kept.pop()
            if self.checkpointing:
                _, saved = self._forward(layer, saved, None, row, mask, drop)
            dh = self._backward(layer, saved, dh, row, mask, drop)
        return sums

    @torch.no_grad()
    def score(self, row: Row) -> Any:
        """Each token's loss, and whether it was predicted right; without dropout."""
        mask = self.attention.prepare(row.ends, len(row.ids))
        _, _, normed = self._forward_all(row, mask, (row.seed, 0.0), None)
        return self._predict(normed, row, None)

    def _forward_all(self, row: Row, mask: Any, drop: Any, kept: list[Any] | None) -> tuple[Any, Any, Any]:
        """All layers: what comes out, its norm's factor, and the normed; what going back needs is put into `kept`."""
        h, added = self._embedding[row.ids].to(self._dtype), None
        if self._gemma:
            h *= self._embedding_scale
        for layer in self.layers:
            after, saved = self._forward(layer, h, added, row, mask, drop)
            if kept is not None:
                kept.append(h if self.checkpointing else saved)
            h, added = after, saved.h_mid
            del saved
        normed = torch.empty_like(h)
        factor = self._ops.rms_norm(h, added, self._norm_out, self._eps, self._gemma, normed)
        return h, factor, normed

    def _predict(self, normed: Any, row: Row, dnormed: Any | None) -> Any:
        """Each token's loss and whether it is right, in pieces so that few logits exist at a time.

        The logits' gradient takes their place, and flows back into `dnormed`.
        """
        weight, found = self.grad_scale / row.trained, []
        for start in range(0, len(normed), LOGITS_AT_ONCE):
            piece = slice(start, start + LOGITS_AT_ONCE)
            logits = normed[piece] @ self._head_weight.T
            found.append(torch.stack(self._ops.cross_entropy(logits, row.targets[piece], weight)))
            if dnormed is not None:
                torch.mm(logits, self._head_weight, out=dnormed[piece])
            del logits
        return torch.cat(found, dim=1)

    def _norm_into(self, group: Group, h: Any, added: Any | None, weight: Any, drop: Any) -> tuple[Any, Any]:
        """The next group's input; what the residual path adds joins `h` on the way."""
        wide = group.new_input(len(h), self._dtype, self.device)
        factor = self._ops.rms_norm(h, added, weight, self._eps, self._gemma, wide[:, : group.width])
        inner = wide[:, : group.width]
        self._ops.drop_down(inner, group.down, group.scale, drop, group.site, wide[:, group.low], None)
        return wide, factor

    def _apply(self, group: Group, wide: Any) -> Any:
        weight = self.weights.of(group).T
        return wide @ weight if group.bias is None else torch.addmm(group.bias, wide, weight)

    def _forward(self, layer: Layer, h: Any, added: Any | None, row: Row, mask: Any, drop: Any) -> tuple[Any, Saved]:
        """A layer's own result, to which its `h_mid` is still to be added; so is `added` to the `h` that comes in."""
        ops, groups = self._ops, layer.groups

        wide_in, factor_in = self._norm_into(groups["qkv"], h, added, layer.norm_in, drop)
        qkv = self._apply(groups["qkv"], wide_in)
        heads = qkv.view(len(qkv), -1, self.head)
        ops.rope(heads[:, : self.heads + self.kv_heads], self._cos, self._sin, row.positions)
        out, attended = self.attention.forward(heads, self._kinds, mask)

        group = groups["out"]
        wide_out = group.new_input(len(h), self._dtype, self.device)
        out = out.reshape(len(h), -1)
        inner, low = wide_out[:, : group.width], wide_out[:, group.low]
        ops.drop_down(out, group.down, group.scale, drop, group.site, low, inner)
        h_mid = self._apply(group, wide_out)

        wide_mid, factor_mid = self._norm_into(groups["both"], h_mid, h, layer.norm_mid, drop)
        both = self._apply(groups["both"], wide_mid)
        group = groups["down"]
        wide = group.new_input(len(h), self._dtype, self.device)
        inner = wide[:, : group.width]
        ops.glu(both, self._act, inner)
        ops.drop_down(inner, group.down, group.scale, drop, group.site, wide[:, group.low], None)
        after = self._apply(group, wide)
        low = wide[:, group.low].contiguous()
        return after, Saved(
            h, factor_in, wide_in, qkv, attended, wide_out, h_mid, factor_mid, wide_mid, both, low
        )  # fmt: skip

    def _flow_back(self, group: Group, dy: Any) -> tuple[Any, Any]:
        """Through a group's product: the gradients of the input and of the low values."""
        wide = dy @ self.weights.of(group)
        return wide[:, : group.width], wide[:, group.low]

    def _through(self, group: Group, dy: Any, wide: Any, drop: Any) -> Any:
        """Backwards through a group and its lower halves."""
        dx, dz = self._flow_back(group, dy)
        inner = wide[:, : group.width]
        return self._ops.grad_down(inner, dz, group.down, group.scale, drop, group.site, dx, group.grad_down)

    def _backward(self, layer: Layer, saved: Saved, dh: Any, row: Row, mask: Any, drop: Any) -> Any:
        ops, groups = self._ops, layer.groups

        group, both = groups["down"], groups["both"]
        ops.grad_up(dh, saved.low, group.sizes, group.grad_up)
        dact, dz = self._flow_back(group, dh)
        ops.glu_backward(
            dact, dz, saved.both, self._act, group.down, group.scale, drop, group.site, group.grad_down,
            saved.wide_mid[:, both.low], both.grad_up,
        )  # fmt: skip
        dx = self._through(both, saved.both, saved.wide_mid, drop)
        dh = ops.rms_norm_backward(dx, saved.h_mid, saved.factor_mid, layer.norm_mid, self._gemma, dh)

        group = groups["out"]
        ops.grad_up(dh, saved.wide_out[:, group.low], group.sizes, group.grad_up)
        dout = self._through(group, dh, saved.wide_out, drop)
        out, dout = (wide.unflatten(1, (self.heads, self.head)) for wide in (saved.wide_out[:, : group.width], dout))
        heads = saved.qkv.view(len(dh), -1, self.head)
        dq, dk, dv = self.attention.backward(dout, heads, self._kinds, out, saved.attended, mask)
        dqkv = torch.empty_like(saved.qkv)
        ops.rope_backward(dq, dk, dv, self._cos, self._sin, row.positions, dqkv.view(len(dh), -1, self.head))
        group = groups["qkv"]
        ops.grad_up(dqkv, saved.wide_in[:, group.low], group.sizes, group.grad_up)
        dx = self._through(group, dqkv, saved.wide_in, drop)
        return ops.rms_norm_backward(dx, saved.h, saved.factor_in, layer.norm_in, self._gemma, dh)
