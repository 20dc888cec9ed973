"""How much GPU memory a job takes by the plain path, from the model's config.json and the recipe alone. Stdlib only.

The coefficients stand at the top, each with where it comes from. Those marked "fitted" were fitted to the eight shipped
recipes as measured on an H200 (the GPU table of the README): with them the model is within 4% of each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from container_src.sft.architectures import find_architecture
from container_src.sft.config import TrainConfig
from launcher.instances import Instance

GIB = 1024**3
# Bytes of a quantised weight: half a byte, and for 64 of them one scale: of 4 bytes, or with double quantisation of one
# byte and 4 bytes for 256 of these (bitsandbytes' format).
NF4_BYTES = 0.5 + 4 / 64
NF4_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Adapters and their gradients are float32.
ADAPTER_BYTES = 4 + 4
# Two moments for each adapter weight. The paged ones are counted in full: they leave the GPU only when it is full.
OPTIMIZER_BYTES = {"paged_adamw_32bit": 8, "adamw_torch": 8, "paged_adamw_8bit": 2, "adamw_8bit": 2}
# What a layer keeps for its backward pass, per token and unit of width (fitted, with adapters on all seven modules).
HIDDEN_BYTES = 35.0
INNER_BYTES = 9.6
# What one adapter's dropout keeps of its input: the mask and the dropped copy (counted, not measured).
DROPOUT_BYTES = 3.0
# The logits' way through the loss, per trained place and word of the vocabulary (fitted, 7 of 8 places trained).
LOGIT_BYTES = 8.0
# With checkpointing a layer is computed again beside the rest of the loss; this much of it counts (fitted).
RECOMPUTED_SHARE = 0.5
# float32 arithmetic against half precision: norms and adapters are float32 already (assumed).
FLOAT32_GROWTH = 1.5
# Of what a job adds to the base, from one recipe to another, and from one version of the libraries to the next.
SPREAD = 0.2
# A 24 GB card has 22.3 GiB, of which CUDA's context takes half a GiB; an allocator never uses every byte of the rest.
USABLE_SHARE = 0.93
CONTEXT_GIB = 0.5
# GDDR6 keeps a sixteenth of itself for error correction; other GPUs have their nominal GB as GiB, at the most.
CORRECTED = ("T4", "A10G", "L4", "L40S")
CORRECTED_SHARE = 15 / 16

NEEDED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


class UnknownShape(Exception):
    """Why a model's size is not known; said, since a plan works without."""


@dataclass(frozen=True)
class Shape:
    """What a decoder's size hangs on."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool

    @property
    def queries(self) -> int:
        return self.heads * self.head

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear module of a layer."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """The weights that are quantised, and that each token is multiplied with."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.modules.values())

    @property
    def table_parameters(self) -> int:
        """The embedding and the head, which stay as they are."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.table_parameters

    def adapter_parameters(self, config: TrainConfig) -> int:
        widths = [sum(self.modules[name]) for name in config.target_modules if name in self.modules]
        return self.layers * config.lora_r * sum(widths)


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest rows: no row has more than `most`, and some batch's rows have `surely` so many each."""

    most: int
    surely: int


@dataclass(frozen=True)
class Memory:
    """Peak GiB of one GPU: a range, and within it rows that are all as long as max_length.

    A job steps down where memory runs out. With less than `least` it surely cannot run, with `enough` it surely can.
    `scored` is the least that its evaluations take, and `base` the model as it is loaded.
    """

    peak: float
    low: float
    high: float
    least: float
    enough: float
    scored: float
    base: float


def find_shape(config: TrainConfig, folder: Path | None) -> Shape:
    return make_shape(find_model_config(config, folder))


def find_model_config(config: TrainConfig, folder: Path | None) -> Mapping[str, Any]:
    """config.json of the model's folder where it is one, else of a known model; raises UnknownShape."""
    if folder is not None:
        return _read_config(folder / "config.json")
    known = find_architecture(config.model_name_or_path)
    if known is None:
        raise UnknownShape(f"the shape of {config.model_name_or_path} is not known offline")
    return known


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnknownShape(f"{path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UnknownShape(f"{path} is not a model's config")
    return found


def make_shape(config: Mapping[str, Any]) -> Shape:
    """From config.json of any dense decoder in the manner of Llama; raises UnknownShape for others."""
    config = config.get("text_config") or config  # models that also see pictures keep the decoder's part there
    missing = [name for name in NEEDED if not isinstance(config.get(name), int) or config[name] < 1]
    if missing:
        raise UnknownShape(f"its config.json has no usable {', '.join(missing)}")
    if config.get("num_local_experts") or config.get("num_experts"):
        raise UnknownShape("mixtures of experts are not modelled")
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    return Shape(
        hidden=config["hidden_size"],
        inner=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head=head,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def estimate_memory(
    shape: Shape, config: TrainConfig, train: Lengths, evaluation: Lengths | None = None, processes: int = 1
) -> Memory:
    """By the plain path. One process steps down to one row at once, then to activations recomputed; several cannot."""
    smallest = dataclasses.replace(step_down(config), gradient_checkpointing=True) if processes == 1 else config
    base, scored = base_gib(shape, config), estimate_evaluation(shape, config, evaluation)
    fewest = estimate_evaluation(shape, smallest, evaluation)
    peak = max(_training(shape, config, train.most), scored.most)
    return Memory(
        peak=peak,
        low=off(base, max(_training(shape, config, train.surely), scored.surely), -SPREAD),
        high=off(base, peak, SPREAD),
        least=off(base, max(_training(shape, smallest, train.surely), fewest.surely), -SPREAD),
        enough=off(base, max(_training(shape, smallest, train.most), fewest.most), SPREAD),
        scored=off(base, fewest.surely, -SPREAD) if evaluation else 0.0,
        base=base,
    )


def step_down(config: TrainConfig) -> TrainConfig:
    """To one row at once, as one process does where memory runs out."""
    return dataclasses.replace(config, per_device_train_batch_size=1, per_device_eval_batch_size=1)


def off(base: float, peak: float, share: float) -> float:
    """A peak that is off by so much in what was estimated of it; the base was counted."""
    return base + (1 + share) * (peak - base)


def _training(shape: Shape, config: TrainConfig, length: int) -> float:
    """GiB at a step's peak, with rows of so many tokens."""
    tokens = config.per_device_train_batch_size * length
    activations = tokens * (_activation_bytes(shape, config) + shape.vocabulary * LOGIT_BYTES)
    return base_gib(shape, config) + (_adapter_bytes(shape, config) + activations) / GIB


@dataclass(frozen=True)
class Scored:
    """GiB of an evaluation: what is there anyway, and what so many rows' logits add, at most and surely.

    No rows at once: they are packed, and what is added are a layer's own values or a piece of the logits.
    """

    rows: int = 0
    fixed: float = 0.0
    most_added: float = 0.0
    surely_added: float = 0.0

    @property
    def most(self) -> float:
        return self.fixed + self.most_added

    @property
    def surely(self) -> float:
        return self.fixed + self.surely_added

    def fitting_rows(self, room: float) -> int:
        """How many at once have logits for which there is surely room."""
        return max(0, int(room * self.rows / self.most_added))


def estimate_evaluation(shape: Shape, config: TrainConfig, rows: Lengths | None) -> Scored:
    """Nothing is kept from layer to layer: the logits of a batch are what it takes."""
    if rows is None:
        return Scored()
    at_once = config.per_device_eval_batch_size
    fixed = base_gib(shape, config) + _adapter_bytes(shape, config) / GIB
    token = at_once * shape.vocabulary * LOGIT_BYTES / GIB
    return Scored(at_once, fixed, rows.most * token, rows.surely * token)


def _adapter_bytes(shape: Shape, config: TrainConfig) -> float:
    return shape.adapter_parameters(config) * (ADAPTER_BYTES + OPTIMIZER_BYTES[config.optim])


def base_gib(shape: Shape, config: TrainConfig) -> float:
    """The model as it is loaded."""
    whole = _weight_bytes(config)
    quantised = NF4_DOUBLE_BYTES if config.bnb_4bit_use_double_quant else NF4_BYTES
    linear = shape.linear_parameters * (quantised if config.load_in_4bit else whole)
    return (linear + shape.table_parameters * whole) / GIB


def _weight_bytes(config: TrainConfig) -> int:
    return 4 if config.compute_dtype == "float32" else 2


def _activation_bytes(shape: Shape, config: TrainConfig) -> float:
    """Per token, through all layers: everything, or with checkpointing each layer's input and a part of one layer."""
    without = [width for name, (width, _) in shape.modules.items() if name not in config.target_modules]
    layer = HIDDEN_BYTES * shape.hidden + INNER_BYTES * shape.inner - DROPOUT_BYTES * sum(without)
    layer *= FLOAT32_GROWTH if config.compute_dtype == "float32" else 1
    if config.gradient_checkpointing:
        return shape.layers * shape.hidden * _weight_bytes(config) + RECOMPUTED_SHARE * layer
    return shape.layers * layer


def usable_gib(gpu: Instance) -> float:
    """What a job can surely use of an instance's GPU."""
    return USABLE_SHARE * gpu.gpu_memory_gb - CONTEXT_GIB


def whole_gib(gpu: Instance) -> float:
    """What nothing can exceed there."""
    return gpu.gpu_memory_gb * (CORRECTED_SHARE if gpu.gpu in CORRECTED else 1)
