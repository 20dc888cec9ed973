"""Settings that a base model cannot have are refused by the plan, not by a job that has loaded it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from container_src.sft.architectures import KNOWN, LINEAR_MODULES
from launcher import base_model
from launcher.errors import RecipeError
from launcher.recipe import Recipe, load_recipe


def recipe_with(overrides: Mapping[str, object]) -> Recipe:
    return load_recipe("tinyllama-chatdoctor", overrides)


def folder_with(tmp_path: Path, config: str) -> str:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(config)
    return str(tmp_path / "base")


def test_a_target_that_the_family_lacks_is_named() -> None:
    with pytest.raises(RecipeError, match=r"names c_attn, which TinyLlama/.* does not have"):
        base_model.check_settings(recipe_with({"lora.target_modules": ["q_proj", "c_attn"]}))


def test_rows_longer_than_the_models_positions_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"max_length is 4,096, but .* up to 2,048"):
        base_model.check_settings(recipe_with({"data.max_length": 4096}))
    base_model.check_settings(recipe_with({"data.max_length": 2048}))


def test_a_folders_own_configuration_counts(tmp_path: Path) -> None:
    base = folder_with(tmp_path, json.dumps({"model_type": "gpt2", "max_position_embeddings": 128}))
    with pytest.raises(RecipeError, match="up to 128"):
        base_model.check_settings(recipe_with({"model.id": base, "lora.target_modules": ["c_attn"]}))
    base_model.check_settings(
        recipe_with({"model.id": base, "lora.target_modules": ["c_attn"], "data.max_length": 128})
    )


@pytest.mark.parametrize("text", ["{", "[]", '"config"'])
def test_a_broken_configuration_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"config\.json"):
        base_model.check_settings(recipe_with({"model.id": folder_with(tmp_path, text)}))


def test_every_known_family_has_its_modules_listed() -> None:
    assert {config["model_type"] for config in KNOWN.values()} == set(LINEAR_MODULES)
