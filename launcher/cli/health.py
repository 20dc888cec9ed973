"""The verb doctor: what an account lacks for a recipe."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from launcher.cli.recipes import load_recipe_from
from launcher.cli.verbs import add_json, add_verb
from launcher.errors import CloudError


def add_verbs(verbs: Any) -> None:
    doctor = add_verb(
        verbs, "doctor", run_doctor, "check what an account lacks for a recipe; changes nothing", "doctor my.toml"
    )
    doctor.add_argument(
        "recipe", nargs="?", help="a TOML file or a shipped recipe (default: recipe.toml here, else the shipped one)"
    )
    doctor.add_argument("--instance", help="local, or a type such as ml.g5.xlarge")
    doctor.add_argument("--model", help="Hub id, or a folder")
    doctor.add_argument("--spot", action="store_true", default=None, help="on spot capacity")
    doctor.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key, such as compute.role=my-role"
    )
    add_json(doctor)


def run_doctor(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.account.doctor import examine, is_healthy

    findings = examine(load_recipe_from(args))
    if args.json:
        console.data_json([dataclasses.asdict(finding) for finding in findings])
    else:
        console.print_findings(findings)
    return 0 if is_healthy(findings) else CloudError.exit_code
