"""Settings that a base model cannot have are refused by the plan, not by a job that has loaded it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from container_src.sft.architectures import KNOWN, LINEAR_MODULES, shrink
from launcher import base_model
from launcher.errors import RecipeError
from launcher.plan import make_plan
from launcher.recipe import Recipe, load_recipe


def recipe_with(overrides: Mapping[str, object]) -> Recipe:
    return load_recipe("tinyllama-chatdoctor", overrides)


def folder_with(tmp_path: Path, config: str) -> str:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(config)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
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


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_target_whose_matrix_is_in_two_places_is_refused(target: str) -> None:
    modules = {"lora.target_modules": ["q_proj", target]}
    with pytest.raises(RecipeError, match=f"names {target}, but embed_tokens and lm_head of Qwen/.* are one matrix"):
        base_model.check_settings(load_recipe("qwen2.5-1.5b-medical", modules))
    base_model.check_settings(recipe_with(modules))  # TinyLlama's are two


def test_a_folder_without_a_tokenizer_is_refused_unless_a_stand_in_takes_its_place(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, json.dumps(KNOWN["TinyLlama/TinyLlama-1.1B-Chat-v1.0"]))
    base_model.check_settings(recipe_with({"model.id": folder}))
    (tmp_path / "base" / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match="holds no tokenizer"):
        base_model.check_settings(recipe_with({"model.id": folder}))
    base_model.check_settings(recipe_with({"model.id": folder, "model.smoke": True}))


def adapter_of(tmp_path: Path, name: str, config: Mapping[str, Any]) -> str:
    """An adapter on q_proj and k_proj, as far as its config and its weights' header tell."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    keys = config["num_key_value_heads"] * (config.get("head_dim") or hidden // heads)
    shapes = {
        f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{side}.weight": shape
        for layer in range(config["num_hidden_layers"])
        for module, width in (("q_proj", hidden), ("k_proj", keys))
        for side, shape in (("A", [8, hidden]), ("B", [width, 8]))
    }
    header = json.dumps(
        {key: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for key, shape in shapes.items()}
    )
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name, "bias": "none"}))
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    return str(folder)


TINY = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"


def test_an_adapter_of_another_base_is_refused_by_its_shapes(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path, TINY, KNOWN[TINY])
    base_model.check_settings(recipe_with({"model.adapter": adapter}))
    with pytest.raises(
        RecipeError, match="another base than meta-llama/Llama-2-7b-hf: its q_proj is 2048 wide"
    ) as caught:
        base_model.check_settings(load_recipe("llama2-lora", {"model.adapter": adapter}))
    assert f"Its own base is {TINY}" in str(caught.value)


def test_a_stand_ins_adapter_fits_its_familys_stand_in_alone(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path, "base", shrink(KNOWN[TINY]))
    base_model.check_settings(recipe_with({"model.adapter": adapter, "model.smoke": True}))
    with pytest.raises(RecipeError, match="Its own base is a stand-in"):
        base_model.check_settings(recipe_with({"model.adapter": adapter}))
    with pytest.raises(RecipeError, match="than meta-llama/Llama-2-7b-hf as a stand-in"):
        base_model.check_settings(load_recipe("llama2-lora", {"model.adapter": adapter, "model.smoke": True}))


def test_a_base_of_the_same_shapes_and_another_name_is_noted(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path, "my/tinyllama", KNOWN[TINY])
    recipe = recipe_with({"model.adapter": adapter})
    base_model.check_settings(recipe)
    assert any("was made on my/tinyllama" in note for note in make_plan(recipe).notes)
    assert not base_model.adapter_notes(recipe_with({}))
