"""The job on demand that follows a spot job without capacity: started by whoever follows the run, and only once.

Its request lies beside the run's claims from the submit on (see fallback.py), so any follower sends what the plan said.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from launcher import ledger
from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.claims import claim_key, giving_back, take_claim
from launcher.errors import LauncherError, NextJobRefused, UnknownJob
from launcher.job_names import make_stamp, run_of
from launcher.progress import Say, silent

APPEARS_S = 60.0  # a job that another follower claimed is there by then, or will never be
POLL_S = 1.0


def find_next(
    session: Session,
    description: dict[str, Any],
    say: Say = silent,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """The name of the job that follows a spot job on demand; started here, unless another follower has.

    None where the recipe did not say so.
    """
    job = description["TrainingJobName"]
    bucket, folder = _launcher_folder(description)
    if not is_due(session, description):
        return None
    content, _ = s3.get_bytes(session, bucket, folder + request_key(job))
    run = run_of(job)
    name = f"{run}-{make_stamp()}"
    claim = f"{folder}{claim_key(run, job)}"
    holder = take_claim(session, bucket, claim, name)
    if holder:
        say(f"{job} got no spot capacity; {holder} goes on from it, started by somebody else")
        return _wait_for(session, holder, sleep)
    with giving_back(session, bucket, claim), _telling_refusal(job):
        jobs.create_job(session, _named(json.loads(content), name))
    ledger.record(ledger.Entry(name, session.place, session.region))
    say(f"{job} got no spot capacity within its wait; {name} goes on from it on demand")
    return name


@contextmanager
def _telling_refusal(job: str) -> Iterator[None]:
    """The spot job is over then: whoever hears that it goes on, or is not affected, hears the wrong thing."""
    try:
        yield
    except LauncherError as error:
        raise NextJobRefused(
            f"{job} got no spot capacity, and the job on demand after it was not started. {error.message}",
            hint=f"{error.hint} `launcher wait {job}` tries to start it again.",
        ) from error


def is_due(session: Session, description: dict[str, Any]) -> bool:
    """Whether the recipe of a spot job says that one on demand follows it."""
    bucket, folder = _launcher_folder(description)
    return s3.find_object(session, bucket, folder + request_key(description["TrainingJobName"])) is not None


def request_key(job: str) -> str:
    """Where the request lies, below the recipe's prefix."""
    return f"runs/{run_of(job)}/{job}.on-demand.json"


def _launcher_folder(description: dict[str, Any]) -> tuple[str, str]:
    """The bucket, and the recipe's prefix in it: the folder that the output lies in."""
    bucket, key = s3.split_uri(description["OutputDataConfig"]["S3OutputPath"].rstrip("/"))
    return bucket, key.removesuffix("output")


def _named(request: dict[str, Any], name: str) -> dict[str, Any]:
    hyperparameters = {**request["HyperParameters"], "sagemaker_job_name": json.dumps(name)}
    return {**request, "TrainingJobName": name, "HyperParameters": hyperparameters}


def _wait_for(session: Session, job: str, sleep: Callable[[float], None]) -> str:
    """Another follower claims first and creates then."""
    deadline = time.monotonic() + APPEARS_S
    while True:
        try:
            jobs.describe_job(session, job)
        except UnknownJob:
            if time.monotonic() >= deadline:
                raise
            sleep(POLL_S)
        else:
            return job
