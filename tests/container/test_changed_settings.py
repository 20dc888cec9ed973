"""A run goes on under settings that do not change its result, and comes to the same adapter."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from container_src.sft.checkpoint import list_checkpoints
from container_src.sft.config import NOT_SHAPING, TrainConfig, find_shaping, section_of
from container_src.sft.manifest import make_origin

# float32 on a CPU without dropout, so that splitting a step otherwise changes rounding alone
SETTINGS: dict[str, Any] = {
    "smoke": True,
    "load_in_4bit": False,
    "lora_dropout": 0.0,
    "max_length": 64,
    "max_steps": 8,
    "learning_rate": 2e-3,
    "logging_steps": 2,
    "eval_steps": 4,
    "save_steps": 2,
    "optim": "adamw_torch",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
}
CHANGES: dict[str, dict[str, Any]] = {
    "smaller batches": {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing": True,
    },
    "another way to a step": {"fast_step": "on", "per_device_eval_batch_size": 1},
    "other notes and saves": {
        "logging_steps": 3,
        "report_to": "tensorboard",
        "save_steps": 5,
        "save_total_limit": 1,
        "adapter_folder": "lora_adapters",
    },
}
WEIGHT_TOLERANCE = 2e-4
RESUMED_AT = 4


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_base: Callable[[Path], Path], train_together: Callable[..., str]
) -> Path:
    base = make_base(tmp_path_factory.mktemp("whole"))
    assert "ends with 0" in train_together({base: {**SETTINGS, "save_total_limit": 4}})
    return base


@pytest.fixture(scope="module")
def resumed(
    whole: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_base: Callable[[Path], Path],
    train_together: Callable[..., str],
) -> dict[str, tuple[Path, str]]:
    """Each change, and another recipe, from the checkpoints that the whole run had after its fourth step."""
    changes = {**CHANGES, "another rate": {"learning_rate": 1e-3}}
    bases = {name: make_base(tmp_path_factory.mktemp("resumed")) for name in changes}
    for base in bases.values():
        for found in list_checkpoints(whole / "checkpoints"):
            if found.step <= RESUMED_AT:
                shutil.copytree(found.path, base / "checkpoints" / found.path.name)
    log = train_together({bases[name]: {**SETTINGS, **other} for name, other in changes.items()})
    logs = [part.rpartition("job in")[0] for part in log.split("ends with")]
    return {name: (bases[name], part) for (name, part) in zip(changes, logs, strict=False)}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_goes_on_under_other_settings_and_ends_the_same(
    whole: Path, resumed: dict[str, tuple[Path, str]], name: str
) -> None:
    base, log = resumed[name]
    assert "Resuming after step 4 from checkpoint-4" in log
    ours, theirs = (load_file(folder / "model" / "adapter_model.safetensors") for folder in (whole, base))
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < WEIGHT_TOLERANCE
    manifests = [json.loads((folder / "model" / "manifest.json").read_text()) for folder in (whole, base)]
    assert manifests[1]["steps_done"] == 8
    assert manifests[0]["recipe_digest"] == manifests[1]["recipe_digest"]


def test_the_new_settings_hold_from_there_on(resumed: dict[str, tuple[Path, str]]) -> None:
    base, _ = resumed["other notes and saves"]
    lines = [json.loads(line) for line in (base / "model" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 4, 6, 8]
    assert [found.step for found in list_checkpoints(base / "checkpoints")] == [8]
    assert (base / "model" / "lora_adapters" / "adapter_model.safetensors").is_file()
    assert list((base / "model" / "tensorboard").glob("events.*"))


def test_another_recipe_does_not_go_on(resumed: dict[str, tuple[Path, str]]) -> None:
    base, _ = resumed["another rate"]
    assert "belongs to another recipe" in (base / "output" / "failure").read_text()


OTHERS: dict[str, Any] = {
    "compute_dtype": "float16", "bnb_4bit_quant_type": "fp4", "loss_on": "all", "padding": "max_length",
    "lora_bias": "all", "lr_scheduler_type": "linear", "optim": "adamw_torch", "fast_step": "off",
    "eval_strategy": "epoch", "save_strategy": "epoch", "report_to": "tensorboard", "promote": "if-better",
    "guards": "none", "notify_topic": "arn:aws:sns:eu-west-1:123456789012:topic", "max_steps": 5,
    "per_device_train_batch_size": 3, "warmup_ratio": 0.5, "lora_dropout": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(TrainConfig)])
def test_every_setting_is_in_the_digest_or_on_the_list(name: str) -> None:
    """What changes the result, the recipe's digest sees; what it does not see is listed by section or by key."""
    config = TrainConfig()
    value = getattr(config, name)
    other = OTHERS.get(name, not value if isinstance(value, bool) else value + 1 if value != str(value) else "another")
    changed = dataclasses.replace(config, **{name: other})
    section, key = section_of(name)
    listed = section in NOT_SHAPING or f"{section}.{key}" in NOT_SHAPING
    assert (find_shaping(changed) == find_shaping(config)) == listed


def test_a_steps_rows_count_and_not_their_split() -> None:
    one, other = (
        TrainConfig(per_device_train_batch_size=rows, gradient_accumulation_steps=8 // rows) for rows in (2, 1)
    )
    assert make_origin(one, []) == make_origin(other, [])
    assert make_origin(TrainConfig(per_device_train_batch_size=4), []) != make_origin(one, [])


def test_the_list_names_settings_that_exist() -> None:
    places = [section_of(item.name) for item in dataclasses.fields(TrainConfig)]
    known = {section for section, _ in places} | {".".join(place) for place in places}
    assert set(NOT_SHAPING) <= known
