"""Verbs about a recipe's champion: show, history, promote, rollback."""

from __future__ import annotations

import argparse
from typing import Any

from launcher.cli.recipes import load_recipe_from
from launcher.cli.verbs import add_json, add_verb


def add_verbs(verbs: Any) -> None:
    champion = verbs.add_parser("champion", help="the adapter to beat").add_subparsers(metavar="VERB", required=True)
    for name, run, help in (
        ("show", run_show, "show a recipe's champion, and whether all of it is there"),
        ("history", run_history, "list every change of a recipe's champion"),
        ("rollback", run_rollback, "go back to the champion before the current one"),
    ):
        parser = add_verb(champion, name, run, help, f"champion {name} my.toml")
        parser.add_argument("recipe", nargs="?", help="a TOML file or a shipped recipe (default: as for submit)")
        parser.add_argument("--instance", help="local: the champion on this machine's endpoint")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the recipe")
        add_json(parser)
    promote = add_verb(
        champion, "promote", run_promote, "make a job's adapter the champion, if it is better", "champion promote JOB"
    )
    promote.add_argument("name", help="a job's name, or its beginning")
    promote.add_argument(
        "--place", "--at", dest="at", choices=("aws", "local"), help="where to look (default: wherever it was sent)"
    )
    add_json(promote)


def _print(champion: Any, args: argparse.Namespace) -> None:
    from launcher import console

    if args.json:
        console.data_json(champion.describe())
    else:
        console.print_pairs(champion.rows())


def run_show(args: argparse.Namespace) -> int:
    from launcher.retraining.champion import find_champion

    champion = find_champion(load_recipe_from(args)).check()
    _print(champion, args)
    return 0


def run_history(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.retraining.champion import list_moves

    moves = list_moves(load_recipe_from(args))
    if args.json:
        console.data_json([move.describe() for move in moves])
    elif not moves:
        console.say("There was no champion yet. `launcher champion promote JOB` makes one.")
    else:
        rows = [(move.time, move.before or "-", move.after or "-", move.by, move.why) for move in moves]
        console.print_table(("TIME", "FROM", "TO", "BY", "WHY"), rows)
    return 0


def run_rollback(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.retraining.champion import roll_back_champion

    champion = roll_back_champion(load_recipe_from(args), say=console.say)
    _print(champion, args)
    console.say("  -> `launcher publish --rollback` too, if its data is not to be trained on again")
    return 0


def run_promote(args: argparse.Namespace) -> int:
    from launcher.retraining.champion import promote_job

    _print(promote_job(args.name, args.at), args)
    return 0
