"""One shape for every verb."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int]


def add_verb(verbs: Any, name: str, run: Run, help: str, example: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  launcher {example or name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, verb=parser)
    return parser


def add_json(parser: argparse.ArgumentParser, help: str = "print JSON for a program") -> None:
    parser.add_argument("--json", action="store_true", help=help)
