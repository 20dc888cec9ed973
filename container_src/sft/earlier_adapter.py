"""What an adapter to continue from says of itself, read from its files alone. Stdlib only: a plan asks here too."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architectures import LINEAR_MODULES, PROJECTIONS, find_tied
from .failure import JobError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
STAND_IN = "base"  # what an adapter calls a stand-in: the folder of the artifact that it lies in
TENSOR = re.compile(rf".*\.layers\.(\d+)\..*\b({'|'.join(PROJECTIONS)})\.lora_([AB])\..*")
NEEDED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")


class AdapterError(JobError):
    """An adapter that cannot be continued from."""


@dataclass(frozen=True)
class EarlierAdapter:
    """`shapes` holds the size of each tensor, and nothing where the weights are no safetensors file."""

    base: str
    bias: str
    modules: tuple[str, ...]
    shapes: Mapping[str, list[int]]
    some_layers: bool = False


def folder_with_adapter(folder: Path) -> Path:
    found = sorted(folder.rglob(CONFIG), key=lambda path: len(path.parts))
    if not found:
        raise AdapterError(f"The adapter channel {folder} holds no {CONFIG}. Give it an extracted model.tar.gz.")
    return found[0].parent


def read_adapter(folder: Path) -> EarlierAdapter:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        modules = config.get("target_modules") or ()
        return EarlierAdapter(
            base=str(config.get("base_model_name_or_path") or ""),
            bias=str(config.get("bias") or "none"),
            modules=() if isinstance(modules, str) else tuple(modules),  # a text is a pattern
            shapes=_read_shapes(folder / WEIGHTS),
            some_layers=config.get("layers_to_transform") is not None,
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise AdapterError(f"{folder / CONFIG} cannot be read ({error}). Fetch the adapter again.") from error


def _read_shapes(file: Path) -> dict[str, list[int]]:
    """From the header alone; whether the rest of the file is whole, its loader says."""
    if not file.is_file():
        return {}
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        header = stream.read(length) if length < file.stat().st_size else b"{}"
    entries = json.loads(header or b"{}")
    return {name: list(entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}


def find_misfit(adapter: EarlierAdapter, model: Mapping[str, Any]) -> str:
    """Why the adapter cannot be one of a model with this config.json, or "" where it can or nobody knows."""
    if model.get("model_type") not in LINEAR_MODULES or not all(isinstance(model.get(key), int) for key in NEEDED):
        return ""
    if tied := find_tied(model, adapter.modules):
        return f"it has adapters on {' and '.join(tied)}, which share one matrix in this model and could not be merged"
    widths, layers = _find_widths(model), set()
    for name, shape in adapter.shapes.items():
        if not (found := TENSOR.fullmatch(name)):
            continue
        layers.add(int(found[1]))
        side = "AB".index(found[3])
        if shape[1 - side] != widths[found[2]][side]:
            return f"its {found[2]} is {shape[1 - side]} wide, and the model's is {widths[found[2]][side]}"
    wanted = model["num_hidden_layers"]
    if layers and (max(layers) >= wanted or len(layers) < wanted and not adapter.some_layers):
        return f"it has {len(layers)} layers, and the model has {wanted}"
    return ""


def _find_widths(model: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Of what goes into each projection, and of what comes out."""
    hidden, inner, heads = model["hidden_size"], model["intermediate_size"], model["num_attention_heads"]
    head = model.get("head_dim") or hidden // heads
    queries, keys = heads * head, (model.get("num_key_value_heads") or heads) * head
    return {
        "q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys), "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
    }  # fmt: skip


def refuse_misfit(adapter: EarlierAdapter, name: str, model: Mapping[str, Any]) -> None:
    if problem := find_misfit(adapter, model):
        raise AdapterError(
            f"The adapter to continue from was made for another base than {name}: {problem}. "
            f"{_say_base(adapter)}Name an adapter of this model, or the model that it was made for."
        )


def _say_base(adapter: EarlierAdapter) -> str:
    if not adapter.base:
        return ""
    return f"Its own base is {'a stand-in' if adapter.base == STAND_IN else adapter.base}. "


def find_doubt(adapter: EarlierAdapter, name: str) -> str:
    """Another name may be another place of the same weights, or weights of the same shapes that it was not made for."""
    if adapter.base in ("", name, STAND_IN):
        return ""
    return (
        f"the adapter to continue from was made on {adapter.base}, and this job trains {name}: right only where both "
        "are the same weights"
    )
