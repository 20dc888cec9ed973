"""Settings that must not change the result do not: the same rows, seed and steps give the same losses and adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from container_src import sft

TRAIN = Path(sft.__file__).parent.parent / "train.py"
# float32 on a CPU without dropout, 22 rows of unequal length, 8 a step: the third step of an epoch has six
SETTINGS: dict[str, Any] = {
    "smoke": True,
    "load_in_4bit": False,
    "lora_dropout": 0.0,
    "max_length": 64,
    "max_steps": 8,
    "learning_rate": 2e-3,
    "logging_steps": 1,
    "eval_steps": 4,
    "optim": "adamw_torch",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
}
# Sums in another order differ in the last bits; Adam magnifies that where a gradient is near zero.
LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 2e-4

SAME: dict[str, dict[str, Any]] = {
    "8x1": {},
    "4x2": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "2x4": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "padded to max_length": {"padding": "max_length"},
    "evaluated in other batches": {"per_device_eval_batch_size": 1},
    # all of a step in one row, a block mask between its rows, the backward pass written out
    "packed": {"fast_step": "on"},
}
OTHER = {"another seed": {"seed": 7}}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    make_base: Callable[[Path], Path],
    train_together: Callable[..., str],
) -> dict[str, Path]:
    bases = {name: make_base(tmp_path_factory.mktemp("same")) for name in {**SAME, **OTHER}}
    log = train_together({bases[name]: {**SETTINGS, **other} for name, other in {**SAME, **OTHER}.items()})
    assert log.count("ends with 0") == len(bases), log
    assert log.count("Fast step: packed rows of up to") == 1, log
    return bases


def _losses(base: Path, key: str) -> list[float]:
    lines = (base / "model" / "metrics.jsonl").read_text().splitlines()
    return [line[key] for line in map(json.loads, lines) if key in line]


def _largest_difference(one: Path, other: Path) -> float:
    ours, theirs = (load_file(base / "model" / "adapter_model.safetensors") for base in (one, other))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def _check_same(one: Path, other: Path) -> None:
    for key in ("loss", "eval_loss", "mean_token_accuracy"):
        torch.testing.assert_close(_losses(one, key), _losses(other, key), rtol=LOSS_TOLERANCE, atol=LOSS_TOLERANCE)
    assert _largest_difference(one, other) < WEIGHT_TOLERANCE


@pytest.mark.parametrize("name", [name for name in SAME if name != "8x1"])
def test_the_way_to_a_step_does_not_change_it(runs: dict[str, Path], name: str) -> None:
    _check_same(runs["8x1"], runs[name])


def test_the_comparison_can_fail(runs: dict[str, Path]) -> None:
    assert _losses(runs["8x1"], "loss") != _losses(runs["another seed"], "loss")
    assert _largest_difference(runs["8x1"], runs["another seed"]) > 10 * WEIGHT_TOLERANCE


def test_two_processes_equal_one(runs: dict[str, Path], tmp_path: Path, make_base: Callable[[Path], Path]) -> None:
    """Each sees 4 of a step's 8 rows; in an epoch's last step of six, 3."""
    base = make_base(tmp_path / "two")
    settings = {**SETTINGS, "per_device_train_batch_size": 4}
    argv = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, str(TRAIN), *argv],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _check_same(runs["8x1"], base)
    assert done.stdout.count("[metrics] step=8/8 epoch=2.66667 loss=") == 1
    evaluations = [json.loads((found / "model" / "evaluation.json").read_text()) for found in (runs["8x1"], base)]
    assert evaluations[0]["tuned"]["loss"]["value"] == pytest.approx(evaluations[1]["tuned"]["loss"]["value"], rel=1e-5)
