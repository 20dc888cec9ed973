"""What is known of a recipe's base model without loading it, and the settings that it cannot have."""

from __future__ import annotations

import json
from typing import Any

from container_src.sft import earlier_adapter
from container_src.sft.architectures import LINEAR_MODULES, find_architecture, find_tied, holds_tokenizer, shrink
from launcher.errors import RecipeError
from launcher.recipe import Recipe


def find_config(recipe: Recipe) -> dict[str, Any] | None:
    """config.json of the base: from its folder, or known offline; None where only the Hub knows."""
    model = recipe.config.model_name_or_path
    path = recipe.resolve(model) / "config.json"
    if not path.is_file():
        return find_architecture(recipe.config.model_family or model)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} could not be read: {error}", hint="Download the model again.") from error
    if not isinstance(config, dict):
        raise RecipeError(f"{path} is not a model's configuration.", hint="Download the model again.")
    return config


def check_settings(recipe: Recipe) -> None:
    """Refuse what the job would refuse after its model is loaded, or would train without a warning and in vain."""
    base = find_config(recipe)
    if base is None:
        return
    _check_tokenizer(recipe)
    _check_adapter(recipe, base)
    config, model = recipe.config, recipe.config.model_name_or_path
    known = LINEAR_MODULES.get(base.get("model_type", ""))
    missing = [name for name in config.target_modules if known and name not in known]
    if known and missing:
        raise RecipeError(
            f"lora.target_modules names {', '.join(missing)}, which {model} does not have.",
            hint=f"It has {', '.join(known)}.",
        )
    if tied := find_tied(base, config.target_modules):
        raise RecipeError(
            f"lora.target_modules names {' and '.join(tied)}, but embed_tokens and lm_head of {model} are one matrix, "
            "so the adapter could not be merged.",
            hint="Leave them out; the projections are what QLoRA trains.",
        )
    longest = base.get("max_position_embeddings")
    if isinstance(longest, int) and config.max_length > longest:
        raise RecipeError(
            f"data.max_length is {config.max_length:,}, but {model} knows positions up to {longest:,}.",
            hint=f"Use at most {longest}.",
        )


def _check_tokenizer(recipe: Recipe) -> None:
    folder = recipe.resolve(recipe.config.model_name_or_path)
    if folder.is_dir() and not (recipe.config.smoke or recipe.model.s3) and not holds_tokenizer(folder):
        raise RecipeError(
            f"model.id: {folder} holds no tokenizer.",
            hint="Put its files, such as tokenizer.json or tokenizer.model, beside config.json.",
        )


def _check_adapter(recipe: Recipe, base: dict[str, Any]) -> None:
    """Refuse to continue from an adapter whose shapes are another base's."""
    adapter = find_adapter(recipe)
    if adapter is None or base.get("model_type") not in LINEAR_MODULES:
        return
    model = shrink(base) if recipe.config.smoke else base
    name = recipe.config.model_name_or_path + (" as a stand-in" if recipe.config.smoke else "")
    try:
        earlier_adapter.refuse_misfit(adapter, name, model)
    except earlier_adapter.AdapterError as error:
        raise RecipeError(f"model.adapter: {error}") from error


def find_adapter(recipe: Recipe) -> earlier_adapter.EarlierAdapter | None:
    """The adapter to continue from, where it lies on this machine and is one."""
    folder = recipe.resolve(recipe.model.adapter)
    if not recipe.model.adapter or not (folder / earlier_adapter.CONFIG).is_file():
        return None
    try:
        return earlier_adapter.read_adapter(folder)
    except earlier_adapter.AdapterError as error:
        raise RecipeError(f"model.adapter: {error}") from error


def adapter_notes(recipe: Recipe) -> list[str]:
    adapter = find_adapter(recipe)
    doubt = earlier_adapter.find_doubt(adapter, recipe.config.model_name_or_path) if adapter else ""
    return [doubt] if doubt and not recipe.config.smoke else []
