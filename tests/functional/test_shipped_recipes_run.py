"""Every shipped recipe goes the whole road on the local endpoint, with its family's stand-in, and leaves an adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.recipe import shipped_recipes

COMMAND = Path(__file__).parent.parent / "bench" / "recipes.py"


def test_all_seven_end_with_adapters(endpoint: Path, tmp_path: Path, launch: Callable[..., Any]) -> None:
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
    _check_side_by_side(tmp_path, launch)
    assert list((tmp_path / "llama2-lora" / "tensorboard").iterdir())
    assert _read(tmp_path / "llama2-lora", "manifest.json")["base_model"]["held_as"] == "float32"


def _check_side_by_side(folder: Path, launch: Callable[..., Any]) -> None:
    """The three experiments below one base: two from their folders, one by its run's name from where its model lies."""
    names = [f"tinyllama-healthcare-qa-exp_00{number}" for number in (1, 2, 3)]
    words = ("compare", str(folder / names[0]), names[1].replace("_", "-"), str(folder / names[2]), "--json")
    done = launch(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [job["base"] for job in found["jobs"]] == [0, 0, 0], found
    assert [base["model"] for base in found["bases"]] == ["TinyLlama/TinyLlama-1.1B-Chat-v1.0 (stand-in)"]
    for name, job in zip(names, found["jobs"], strict=True):
        evaluation, metrics = (_read(folder / name, file) for file in ("evaluation.json", "metrics.json"))
        assert (job["loss"], job["perplexity"]) == (evaluation["tuned"]["loss"], evaluation["tuned"]["perplexity"])
        assert (job["peak_memory_gib"], job["seconds"]) == (metrics["peak_memory_gib"], metrics["seconds"])
        assert job["peak_memory_gib"] > 0 < job["seconds"]


def _check_adapter(folder: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).is_file(), f"{folder.name} has no {name}"
    assert (folder / "chat_template.jinja").is_file()
    assert "verdict" in _read(folder, "evaluation.json")
    assert "loss" in json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


def _read(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))
