"""Fine-tune open language models with QLoRA on Amazon SageMaker, or on this machine along the same road.

plan = make_plan(load_recipe("recipe.toml"))
job = submit(plan)
job.wait()
job.fetch("out/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.job import Job, JobState, Status, attach, list_jobs
    from launcher.plan import Plan, make_plan
    from launcher.recipe import Recipe, load_recipe
    from launcher.request import Site, make_request
    from launcher.submission import submit

# Loaded at first use, so that `launcher --help` and a scheduler's import stay instant.
_HOMES = {
    "Job": "job",
    "JobState": "job",
    "Status": "job",
    "attach": "job",
    "list_jobs": "job",
    "Plan": "plan",
    "make_plan": "plan",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "Site": "request",
    "make_request": "request",
    "submit": "submission",
}
__all__ = [
    "Job",
    "JobState",
    "Plan",
    "Recipe",
    "Site",
    "Status",
    "attach",
    "list_jobs",
    "load_recipe",
    "make_plan",
    "make_request",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'launcher' has no attribute {name!r}")
    return getattr(import_module(f"launcher.{_HOMES[name]}"), name)
