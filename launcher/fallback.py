"""Spot that waited in vain goes on on demand: a job of the same run, started by whoever follows it, and only once.

The request lies beside the run's claims from the submit on, so that any follower sends exactly what the plan said.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

from launcher import ledger, runs
from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.aws.shapes import check_request
from launcher.errors import UnknownJob
from launcher.job import Job, JobState, run_of
from launcher.plan import Plan, make_stamp
from launcher.progress import Say, silent
from launcher.request import Site, checkpoint_uri, full_key, make_request

APPEARS_S = 60.0  # a job that another follower claimed is there by then, or will never be
POLL_S = 1.0


def make_fallback(plan: Plan, site: Site) -> dict[str, Any]:
    """The plan's request on demand, with the checkpoints of the spot job."""
    compute = dataclasses.replace(plan.recipe.compute, spot=False, max_wait_s=0, on_demand_after_wait=False)
    recipe = dataclasses.replace(plan.recipe, compute=compute)
    on_demand = dataclasses.replace(plan, recipe=recipe, checkpoints=checkpoint_uri(plan, site))
    return make_request(on_demand, site)


def save_fallback(plan: Plan, site: Site, session: Session) -> None:
    if not plan.recipe.compute.on_demand_after_wait:
        return
    request = make_fallback(plan, site)
    check_request(request)
    key = full_key(plan, _key(plan.job_name))
    s3.put_bytes(session, json.dumps(request).encode(), site.bucket, key)


def find_next(
    job: Job, state: JobState, say: Say = silent, *, sleep: Callable[[float], None] = time.sleep
) -> Job | None:
    """The on-demand job that follows this one; started here, unless another follower has. None where none is due."""
    if not state.lacked_capacity or not state.spot:
        return None
    session = job.session
    bucket, folder = _launcher_folder(job.description())
    if s3.find_object(session, bucket, folder + _key(job.name)) is None:
        return None  # the recipe did not say so
    content, _ = s3.get_bytes(session, bucket, folder + _key(job.name))
    run = run_of(job.name)
    name = f"{run}-{make_stamp()}"
    claim = f"{folder}{runs.claim_key(run, job.name)}"
    holder = runs.take_claim(session, bucket, claim, name)
    if holder:
        say(f"{job.name} got no spot capacity; {holder} goes on from it, started by somebody else")
        return _wait_for(Job(holder, session), sleep)
    with runs.giving_back(session, bucket, claim):
        jobs.create_job(session, _named(json.loads(content), name))
    ledger.record(ledger.Entry(name, session.place, session.region))
    say(f"{job.name} got no spot capacity within its wait; {name} goes on from it on demand")
    return Job(name, session)


def _key(job: str) -> str:
    return f"runs/{run_of(job)}/{job}.on-demand.json"


def _launcher_folder(description: dict[str, Any]) -> tuple[str, str]:
    """The bucket, and the recipe's prefix in it: the folder that the output lies in."""
    bucket, key = s3.split_uri(description["OutputDataConfig"]["S3OutputPath"].rstrip("/"))
    return bucket, key.removesuffix("output")


def _named(request: dict[str, Any], name: str) -> dict[str, Any]:
    hyperparameters = {**request["HyperParameters"], "sagemaker_job_name": json.dumps(name)}
    return {**request, "TrainingJobName": name, "HyperParameters": hyperparameters}


def _wait_for(job: Job, sleep: Callable[[float], None]) -> Job:
    """Another follower claims first and creates then."""
    deadline = time.monotonic() + APPEARS_S
    while True:
        try:
            job.description()
        except UnknownJob:
            if time.monotonic() >= deadline:
                raise
            sleep(POLL_S)
        else:
            return job
