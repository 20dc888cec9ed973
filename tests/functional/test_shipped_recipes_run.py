"""Every shipped recipe goes the whole road on the local endpoint, with its family's stand-in, and leaves an adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from launcher.recipe import shipped_recipes

COMMAND = Path(__file__).parent.parent / "bench" / "recipes.py"


def test_all_seven_end_with_adapters(endpoint: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--steps", "4", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = shipped_recipes().keys()
    assert len(names) == 7
    assert {folder.name for folder in tmp_path.iterdir()} == names
    for name in names:
        _check_adapter(tmp_path / name)
    assert done.stdout.count("| completed | 4 |") == 7
    for name in ("exp_001", "exp_002", "exp_003"):
        folder = tmp_path / f"tinyllama-healthcare-qa-{name}"
        assert (folder / "lora_adapters" / "adapter_model.safetensors").is_file()
        assert _read(folder, "metrics.json")["evaluated_on"] == "test"
    assert list((tmp_path / "llama2-lora" / "tensorboard").iterdir())
    assert _read(tmp_path / "llama2-lora", "manifest.json")["base_model"]["held_as"] == "float32"


def _check_adapter(folder: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).is_file(), f"{folder.name} has no {name}"
    assert (folder / "chat_template.jinja").is_file()
    assert "verdict" in _read(folder, "evaluation.json")
    assert "loss" in json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


def _read(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))
