"""The verb doctor: what an account lacks for a recipe."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from launcher.cli.recipes import load_recipe_from
from launcher.cli.verbs import add_json, add_verb
from launcher.errors import CloudError, LauncherError

if TYPE_CHECKING:
    from launcher.account.doctor_scene import Finding


def add_verbs(verbs: Any) -> None:
    doctor = add_verb(
        verbs, "doctor", run_doctor, "check what an account lacks for a recipe; changes nothing", "doctor my.toml"
    )
    doctor.add_argument(
        "recipe", nargs="?", help="a TOML file or a shipped recipe (default: recipe.toml here, else the shipped one)"
    )
    doctor.add_argument("--instance", help="local, or a type such as ml.g5.xlarge")
    doctor.add_argument("--model", help="Hub id, or a folder")
    doctor.add_argument("--max-runtime", metavar="TIME", help="the job's time limit, such as 90m or 4h")
    doctor.add_argument("--max-wait", metavar="TIME", help="for spot: end it after this, waiting included")
    doctor.add_argument("--keep-alive", metavar="TIME", help="keep the instances for the next job, such as 20m")
    doctor.add_argument("--spot", action="store_true", default=None, help="on spot capacity")
    doctor.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key, such as compute.role=my-role"
    )
    add_json(doctor)


def run_doctor(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.account.doctor import examine

    findings = examine(load_recipe_from(args))
    if args.json:
        console.data_json([dataclasses.asdict(finding) for finding in findings])
    else:
        console.print_findings(findings)
    return find_exit_code(findings)


def find_exit_code(findings: list[Finding]) -> int:
    """A check that broke is a bug of ours, unless something is missing anyway."""
    from launcher.account.doctor import is_healthy

    if is_healthy(findings):
        return 0
    lacks = any(finding.state == "missing" for finding in findings)
    return CloudError.exit_code if lacks else LauncherError.exit_code
