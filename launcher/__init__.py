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
    from launcher.results.comparison import compare
    from launcher.retraining.champion import Champion, find_champion, list_moves, promote_job, roll_back_champion
    from launcher.retraining.deployment import create_schedule, plan_update
    from launcher.retraining.publication import Publication, publish, roll_back_publication
    from launcher.retraining.schedule import Schedule, attach_schedule, list_schedules
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
    "Champion": "retraining.champion",
    "find_champion": "retraining.champion",
    "list_moves": "retraining.champion",
    "promote_job": "retraining.champion",
    "roll_back_champion": "retraining.champion",
    "Publication": "retraining.publication",
    "publish": "retraining.publication",
    "roll_back_publication": "retraining.publication",
    "Schedule": "retraining.schedule",
    "attach_schedule": "retraining.schedule",
    "create_schedule": "retraining.deployment",
    "list_schedules": "retraining.schedule",
    "plan_update": "retraining.deployment",
    "Site": "request",
    "make_request": "request",
    "compare": "results.comparison",
    "submit": "submission",
}
__all__ = [
    "Champion",
    "Job",
    "JobState",
    "Plan",
    "Publication",
    "Recipe",
    "Schedule",
    "Site",
    "Status",
    "attach",
    "attach_schedule",
    "compare",
    "create_schedule",
    "find_champion",
    "list_jobs",
    "list_moves",
    "list_schedules",
    "load_recipe",
    "make_plan",
    "make_request",
    "plan_update",
    "promote_job",
    "publish",
    "roll_back_champion",
    "roll_back_publication",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'launcher' has no attribute {name!r}")
    return getattr(import_module(f"launcher.{_HOMES[name]}"), name)
