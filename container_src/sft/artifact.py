"""What the job leaves in the model folder: the adapter, its tokenizer, the numbers and a manifest; no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"


def save_artifact(
    output: Path,
    model: Any,
    tokenizer: Any,
    metrics: dict[str, Any],
    manifest: dict[str, Any],
    stand_in: Path | None,
) -> None:
    """Write everything aside, then move it in place, the manifest last: whoever finds one finds all."""
    aside = output / UNFINISHED
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_adapter(model, aside)
    tokenizer.save_pretrained(aside)
    if stand_in is not None:
        shutil.copytree(stand_in, aside / "base")
    write_json(aside / "metrics.json", metrics)
    for path in sorted(aside.iterdir()):
        _move(path, output / path.name)
    aside.rmdir()
    write_json(output / "manifest.json", manifest)


def save_adapter(model: Any, folder: Path) -> None:
    # the embedding is frozen; asked to decide by itself, peft looks for the base's config on the Hub
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card, a form that nobody filled in


def _move(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
