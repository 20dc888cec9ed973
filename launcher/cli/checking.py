"""The verb check: everything that can be known of the rows before a GPU is billed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.recipes import load_recipe_from
from launcher.cli.verbs import add_json, add_verb
from launcher.cli.without_torch import without_torch
from launcher.errors import DataError, RecipeError

if TYPE_CHECKING:
    from launcher.data.checking import Subject


def add_verbs(verbs: Any) -> None:
    check = add_verb(
        verbs, "check", run_check, "check every row of a recipe's channels, or of files", "check train.jsonl eval.jsonl"
    )
    check.add_argument(
        "what", nargs="*", help="a recipe (default: recipe.toml here, else the shipped one), or files of rows"
    )
    check.add_argument("--train", metavar="JSONL", help="training rows")
    check.add_argument("--eval", metavar="JSONL", help="evaluation rows")
    check.add_argument("--test", metavar="JSONL", help="rows for the final evaluation")
    check.add_argument("--tokenizer", metavar="MODEL", help="folder or Hub id (default: the recipe's model)")
    check.add_argument("--max-length", type=int, metavar="TOKENS", help="where rows are cut (default: the recipe's)")
    check.add_argument("--no-tokens", action="store_true", help="leave out what needs a tokenizer")
    check.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the recipe, such as data.prepare.limit=500",
    )
    add_json(check)


def run_check(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.data.checking import check

    if args.max_length is not None and args.max_length < 1:
        raise RecipeError(f"--max-length {args.max_length} leaves nothing.", hint="Give a number above 0.")
    subject, assumed = _files(args) if _names_files(args.what) else _recipe(args)
    if args.tokenizer:
        subject = subject.counted_with(args.tokenizer)
    with without_torch():
        result = check(subject.cut_at(args.max_length), tokens=not args.no_tokens, track=console.track)
    if args.json:
        console.data_json({**result.as_json(), "assumed": assumed})
        return DataError.exit_code if result.errors else 0
    console.print_checked(result)
    if assumed:
        console.note(f"{assumed}.")
    result.refuse()
    return 0


def _names_files(what: list[str]) -> bool:
    """A recipe is a .toml file or a name; files of rows lie on this disk."""
    return bool(what) and (len(what) > 1 or (not what[0].endswith(".toml") and _is_there(Path(what[0]))))


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink() or path.suffix in (".jsonl", ".gz")


def _recipe(args: argparse.Namespace) -> tuple[Subject, str]:
    from launcher.plan import find_left_out, find_prepared, find_subject

    args.recipe = args.what[0] if args.what else None
    args.smoke = False  # a stand-in's tokenizer says nothing about the model's
    recipe = load_recipe_from(args)
    return find_subject(recipe, find_prepared(recipe), network=True), find_left_out(recipe)


def _files(args: argparse.Namespace) -> tuple[Subject, str]:
    from launcher.data.checking import Subject
    from launcher.data.roles import assign_roles

    if args.set:
        raise RecipeError(
            "--set changes a recipe, and files have none.", hint="Use --max-length for where rows are cut."
        )
    for path in args.what:
        if path.endswith(".toml"):
            raise RecipeError(
                f"{path} is a recipe, and stands among files of rows.",
                hint="Check it by itself; --train, --eval and --test replace the files that it names.",
            )
    named = {name: Path(path) for name in ("train", "eval", "test") if (path := getattr(args, name))}
    roles = assign_roles([Path(path) for path in args.what], named)
    return Subject(roles.files), roles.assumed
