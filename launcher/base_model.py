"""What is known of a recipe's base model without loading it, and the settings that it cannot have."""

from __future__ import annotations

import json
from typing import Any

from container_src.sft.architectures import LINEAR_MODULES, find_architecture
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
    config, model = recipe.config, recipe.config.model_name_or_path
    known = LINEAR_MODULES.get(base.get("model_type", ""))
    missing = [name for name in config.target_modules if known and name not in known]
    if known and missing:
        raise RecipeError(
            f"lora.target_modules names {', '.join(missing)}, which {model} does not have.",
            hint=f"It has {', '.join(known)}.",
        )
    longest = base.get("max_position_embeddings")
    if isinstance(longest, int) and config.max_length > longest:
        raise RecipeError(
            f"data.max_length is {config.max_length:,}, but {model} knows positions up to {longest:,}.",
            hint=f"Use at most {longest}.",
        )
