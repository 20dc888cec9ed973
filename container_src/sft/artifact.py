"""What the job leaves in the model folder: the adapter, its tokenizer, the numbers and a manifest; no pickle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .strict_json import make_json

UNFINISHED = ".unfinished"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
RESULTS = ("metrics.json", "evaluation.json", "verdict.json", "manifest.json")


def save_artifact(output: Path, model: Any, tokenizer: Any, stand_in: Path | None, adapter_folder: str = "") -> None:
    """Write everything aside, then move it in place; an earlier attempt's results go first."""
    for name in RESULTS:
        (output / name).unlink(missing_ok=True)
    aside = output / UNFINISHED
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_adapter(model, aside)
    save_tokenizer(tokenizer, aside)
    if stand_in is not None:
        shutil.copytree(stand_in, aside / "base")
    if adapter_folder:
        (aside / adapter_folder).mkdir()
        for name in ADAPTER_FILES:
            shutil.copy2(aside / name, aside / adapter_folder / name)
    for path in sorted(aside.iterdir()):
        _move(path, output / path.name)
    aside.rmdir()


def write_results(
    output: Path, metrics: dict[str, Any], manifest: dict[str, Any], evaluation: dict[str, Any] | None = None
) -> None:
    """The manifest last: whoever finds one finds all."""
    if evaluation:
        write_json(output / "evaluation.json", evaluation)
    write_json(output / "metrics.json", metrics)
    write_json(output / "manifest.json", manifest)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    template = folder / "chat_template.jinja"
    if isinstance(tokenizer.chat_template, str) and not template.exists():
        # transformers before 4.50 keeps it in tokenizer_config.json alone
        template.write_text(tokenizer.chat_template, encoding="utf-8")


def save_adapter(model: Any, folder: Path) -> None:
    # the embedding is frozen; asked to decide by itself, peft looks for the base's config on the Hub
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card, a form that nobody filled in


def _move(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def write_json(path: Path, value: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(make_json(value, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
