"""A job in a closed network, or without one: what it needs must come through S3 channels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from launcher.data.channels import Channel
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


def network_notes(recipe: Recipe, channels: Iterable[Channel]) -> list[str]:
    """What the job must be able to reach, and nobody can check from here."""
    compute, notes = recipe.compute, []
    if compute.place == "local":
        return []
    in_s3 = {channel.name: channel.s3_uri for channel in channels}
    if compute.subnets and "model" not in in_s3 and not recipe.config.smoke:
        notes.append(
            f"the job loads {recipe.config.model_name_or_path} from the Hub: these subnets must lead to "
            "huggingface.co, else use model.s3 (a VPC made by `launcher bootstrap --vpc` does not lead there)"
        )
    prefix = recipe.output.prefix.strip("/")
    for uri in in_s3.values():
        key = uri.removeprefix("s3://").partition("/")[2]
        if uri and prefix and not compute.role and not key.startswith(f"{prefix}/"):
            notes.append(f"the role made by `launcher bootstrap` reads only {prefix}/ of its bucket, not {uri}")
    return notes
