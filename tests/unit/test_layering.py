"""Who may import whom: the table of the design, held against the imports in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import launcher

PACKAGE = Path(launcher.__file__).parent
LEAVES = {
    "cron",
    "differences",
    "errors",
    "gpu",
    "home",
    "images",
    "instances",
    "job_names",
    "leaks",
    "price_table",
    "progress",
    "tables",
}
# module or package -> what it may import beside the leaves
ALLOWED = {
    "__init__": {"job", "plan", "recipe", "request", "results", "retraining", "submission"},
    "__main__": {"cli"},
    "cli": {
        "account",
        "aws",
        "budget",
        "cli",
        "console",
        "data",
        "fallback",
        "job",
        "ledger",
        "local",
        "plan",
        "preparation",
        "recipe",
        "recipe_sections",
        "recipe_values",
        "request",
        "results",
        "retraining",
        "submission",
    },
    "console": {"account", "data", "job", "recipe", "results"},
    "submission": {"aws", "budget", "capacity", "data", "fallback", "hub", "job", "ledger", "plan", "request", "runs"},
    "fallback": {"aws", "job", "ledger", "on_demand", "plan", "request", "runs"},
    "on_demand": {"aws", "claims", "ledger"},
    "claims": {"aws"},
    "runs": {"aws", "claims", "job", "plan", "request"},
    "retraining": {
        "aws",
        "claims",
        "cron",
        "data",
        "job",
        "ledger",
        "plan",
        "recipe",
        "recipe_sections",
        "request",
        "results",
        "retraining",
        "runs",
        "submission",
    },
    "job": {"aws", "ledger", "on_demand", "outcomes", "results"},
    "outcomes": {"aws"},
    "job_names": set(),
    "results": {"aws", "results"},
    "plan": {"base_model", "bundle", "compute", "data", "isolation", "recipe"},
    "base_model": {"recipe"},
    "isolation": {"data", "recipe"},
    "request": {"compute", "data", "plan", "recipe", "signal_shim"},
    "compute": {"recipe_sections"},
    "preparation": {"aws", "data", "recipe"},
    "recipe": {"compute", "data", "output", "recipe_sections", "recipe_values"},
    "output": set(),
    "recipe_sections": {"data"},
    "recipe_values": {"data", "recipe_sections"},
    "data": {"data", "hub"},
    "bundle": set(),
    "ledger": set(),
    "hub": set(),
    "signal_shim": set(),
    "cron": set(),
    "errors": set(),
    "home": set(),
    "progress": set(),
    "images": set(),
    "instances": set(),
    "gpu": set(),
    "leaks": set(),
    "tables": set(),
    "aws": {"aws", "data", "output", "plan", "recipe", "request"},
    "local": {"local"},
    "budget": {"aws", "estimates", "plan", "recipe"},
    "capacity": {"aws", "compute", "plan"},
    "estimates": {"data", "estimates", "plan"},
    "price_table": set(),
    "account": {"account", "aws", "compute", "hub", "recipe", "recipe_sections", "request", "retraining"},
    "differences": set(),
}
# One arrow each, for one module each: the session starts the endpoint, and both sides hold requests against botocore.
EXCEPTIONS = {("aws/session", "local"), ("local/json_protocol", "aws"), ("local/rest_protocol", "aws")}
BRIDGES = {
    "recipe": {"config"},
    "recipe_sections": {"config"},
    "recipe_values": {"config"},
    "plan": {"config"},
    "base_model": {"architectures", "earlier_adapter"},
    "request": {"config"},
    "data": {"architectures", "config", "data", "failure", "model", "stand_in", "steps"},
    "submission": {"architectures"},
    "retraining": {"artifact", "champion", "comparison", "publication"},
    "estimates": {"architectures", "config", "fast_conditions", "memory_plan", "steps"},
}


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if not name.startswith("examples"):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_launcher_import_is_in_the_table() -> None:
    wrong = []
    for name, tree in _modules():
        room = name.partition("/")[0]
        for imported in _imports(tree):
            parts = imported.split(".")
            if (
                parts[0] != "launcher"
                or len(parts) < 2
                or not (PACKAGE / parts[1]).exists()
                and not (PACKAGE / f"{parts[1]}.py").exists()
            ):
                continue
            if parts[1] not in ALLOWED[room] | LEAVES and (name, parts[1]) not in EXCEPTIONS:
                wrong.append(f"{name} -> {imported}")
    assert wrong == []


def test_container_src_is_reached_over_the_bridges_only() -> None:
    wrong = []
    for name, tree in _modules():
        room = name.partition("/")[0]
        for imported in _imports(tree):
            parts = imported.split(".")
            if parts[0] == "container_src" and parts[2] not in BRIDGES.get(room, set()):
                wrong.append(f"{name} -> {imported}")
    assert wrong == []


def test_the_aws_libraries_stay_behind_their_doors() -> None:
    wrong = []
    for name, tree in _modules():
        for imported in _imports(tree):
            top = imported.partition(".")[0]
            allowed = {"boto3": ("aws/",), "sagemaker": ("aws/",), "botocore": ("aws/", "local/"), "moto": ("local/",)}
            if top in allowed and not name.startswith(allowed[top]):
                wrong.append(f"{name} -> {imported}")
    assert wrong == []


def test_the_container_never_imports_the_launcher() -> None:
    import container_src.sft.config as config

    folder = Path(config.__file__).parent.parent
    for path in folder.rglob("*.py"):
        assert not [
            name for name in _imports(ast.parse(path.read_text(encoding="utf-8"))) if name.startswith("launcher")
        ]


def test_importing_the_api_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import launcher, launcher.cli, launcher.recipe, launcher.plan, launcher.request, sys;"
        "print(sorted({'boto3', 'botocore', 'sagemaker', 'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
