"""What a job was, for whoever holds its artifact later."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import resource
import sys
from pathlib import Path
from typing import Any

from .checkpoint import Origin
from .config import TrainConfig, find_shaping
from .data import Row
from .earlier_adapter import folder_with_adapter
from .environment import library_versions
from .model import Base, describe_quantisation
from .steps import Schedule
from .stop import ANOTHER


def make_origin(config: TrainConfig, rows: list[Row], published: str = "") -> Origin:
    """The digests that the launcher sent, or, for a job started by hand, ones made here. A scheduled job's request is
    frozen, so the digest of its data comes with the data."""
    return Origin(
        recipe_digest=config.recipe_digest or _digest(find_shaping(config)),
        data_digest=published or config.data_digest or _digest([row.fields for row in rows]),
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe_start(config: TrainConfig, adapter: Path | None) -> dict[str, str]:
    """The adapter that the training went on from: where it lay, whose it was, and its digest; empty for a new one."""
    if adapter is None:
        return {}
    folder = folder_with_adapter(adapter)
    left = folder / "manifest.json"
    weights = sorted(folder.glob("adapter_model.*"))
    return {
        "source": config.adapter_source or str(adapter),
        "job": str(json.loads(left.read_text(encoding="utf-8")).get("job", "")) if left.is_file() else "",
        "sha256": hashlib.sha256(weights[0].read_bytes()).hexdigest(),
    }


def make_manifest(
    config: TrainConfig,
    origin: Origin,
    base: Base,
    model: Any,
    schedule: Schedule,
) -> dict[str, Any]:
    trainable, total = model.get_nb_trainable_parameters()
    return {
        "steps_total": schedule.total,
        "base_model": {
            "name": base.name,
            "where": "the folder base/ of this artifact"
            if config.smoke
            else "the Hub, or the folder or channel of that name",
            "why": "a stand-in exists nowhere else, and the adapter fits nothing but it" if config.smoke else "",
            "revision": config.model_revision,
            "held_as": describe_quantisation(model.get_base_model()),
        },
        "trainable_parameters": trainable,
        "total_parameters": total,
        "versions": {"python": platform.python_version(), **library_versions()},
        "device": device_name(),
        "recipe_name": config.recipe_name,
        "recipe_digest": origin.recipe_digest,
        "data_digest": origin.data_digest,
        "source_digest": config.source_digest,
        "start_digest": config.start_digest,
        "git_revision": config.git_revision,
        "config": dataclasses.asdict(config),
    }


def describe_end(
    done: int, kept: int, total: int, early_stop: str, reason: str, evaluated: bool = True
) -> dict[str, Any]:
    """How the job ended: early stopping is the recipe's own end, anything else before the last step is a stop.

    So is a stop that left an evaluation undone: submitted again, the job makes it, and trains no step.
    """
    trained = done >= total or bool(early_stop)
    completed = trained and evaluated
    why = reason or ANOTHER
    if completed:
        why = "" if done >= total else early_stop
    elif trained:
        why += "; the training itself was done, an evaluation was not"
    return {"outcome": "completed" if completed else "stopped", "reason": why, "steps_done": done, "kept_step": kept}


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def peak_memory_gib() -> float:
    """Of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**30)
    unit = 1 if sys.platform == "darwin" else 1024  # kilobytes, but on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
