"""A job without a network: what it needs must come through S3 channels."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import RecipeError
from launcher.recipe import Recipe

ADVICE = "Put the base model into S3 and name it as model.s3, or turn compute.network_isolation off."


def check_isolation(recipe: Recipe, has_model_channel: bool) -> None:
    if not recipe.compute.network_isolation:
        return
    config = recipe.config
    if config.hf_token_secret:
        raise RecipeError(
            "compute.network_isolation cuts the job off from Secrets Manager, so secrets.hf_token cannot be read.",
            hint=ADVICE,
        )
    if not has_model_channel and not config.smoke:
        raise RecipeError(
            f"compute.network_isolation cuts the job off from the Hub: {config.model_name_or_path} cannot be loaded.",
            hint=ADVICE,
        )
    if any(Path(file).name == "requirements.txt" for file in recipe.code.files):
        raise RecipeError(
            "compute.network_isolation leaves nothing to install requirements.txt from.",
            hint="Remove it from code.files; the image holds what the training needs.",
        )
