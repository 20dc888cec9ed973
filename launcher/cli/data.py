"""Verbs about data: prepare, preview."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from launcher.cli.recipes import load_recipe_from
from launcher.cli.verbs import add_json, add_verb
from launcher.cli.without_torch import without_torch
from launcher.errors import RecipeError


def add_verbs(verbs: Any) -> None:
    prepare = add_verb(
        verbs,
        "prepare",
        run_prepare,
        "make a recipe's channels from its sources",
        "prepare tinyllama-healthcare-qa-exp_001 --out data",
    )
    _add_recipe(prepare)
    prepare.add_argument("--out", default="data", help="folder of the channels (default: data)")
    prepare.add_argument("--instance", help="local: s3:// sources lie on the local endpoint")
    add_json(prepare)

    preview = add_verb(
        verbs,
        "preview",
        run_preview,
        "show rows exactly as the trainer sees them",
        "preview gemma-2b-text-to-sql --smoke -n 1",
    )
    _add_recipe(preview)
    preview.add_argument("-n", type=int, default=3, dest="count", metavar="ROWS", help="how many rows (default: 3)")
    preview.add_argument("--channel", default="train", choices=("train", "eval", "test"), help="default: train")
    preview.add_argument("--ids", action="store_true", help="also each token's id and label")
    preview.add_argument("--model", help="Hub id, or a folder")
    preview.add_argument("--train", metavar="JSONL", help="training rows")
    preview.add_argument("--eval", metavar="JSONL", help="evaluation rows")
    preview.add_argument("--test", metavar="JSONL", help="rows for the final evaluation")
    preview.add_argument(
        "--smoke",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="with the stand-in's tokenizer, which needs no download",
    )
    add_json(preview)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", nargs="?", help="a TOML file or a shipped recipe (default: recipe.toml here, else the shipped one)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key, such as data.prepare.limit=500"
    )


def run_prepare(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.preparation import prepare

    recipe = load_recipe_from(args)
    prepared = prepare(recipe, args.out, track=console.track)
    if args.json:
        console.data_json({"out": str(prepared.folder), **prepared.as_json()})
    else:
        console.print_prepared(prepared)
    flags = " ".join(f"--{channel.name} {channel.path}" for channel in prepared.channels)
    console.say(f"  -> `launcher submit {args.recipe or ''}{' ' if args.recipe else ''}{flags}` trains on these files")
    return 0


def run_preview(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.data.preview import preview_rows
    from launcher.plan import find_prepared, find_row_files

    if args.count < 1:
        raise RecipeError(f"-n {args.count} shows nothing.", hint="Give a number above 0.")
    recipe = load_recipe_from(args)
    files = find_row_files(recipe, find_prepared(recipe, console.track))
    with without_torch():
        preview = preview_rows(_model_of(recipe), recipe.config, files, args.channel, args.count)
    if args.json:
        console.data_json(preview.as_json())
    else:
        console.print_preview(preview, ids=args.ids)
    return 0


def _model_of(recipe: Any) -> str:
    """A folder by its path from the recipe, else the Hub id."""
    if recipe.model.s3 and not recipe.config.smoke:
        raise RecipeError(
            "The model lies in S3, so its tokenizer is not at hand.", hint="Give --model with a folder or a Hub id."
        )
    folder: Path = recipe.resolve(recipe.config.model_name_or_path)
    return str(folder) if folder.is_dir() else recipe.config.model_name_or_path
