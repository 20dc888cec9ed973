"""What the last job of a run means for the next submit: start, go on, already done, or a refusal.

A run is what the user names; a job is one attempt at it. Jobs of a run form a chain, and each link is claimed with one
conditional put, so that of two submits at once exactly one follows a given job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.claims import claim_key, giving_back, take_claim
from launcher.errors import RunError
from launcher.job import Status, find_state
from launcher.plan import Plan
from launcher.request import Site, full_key

# the marker that the container writes last; see container_src/sft/checkpoint.py
FINISHED_SAVE = re.compile(r"/?checkpoint-\d+/complete\.json")


@dataclass(frozen=True)
class Previous:
    """The last job of a run."""

    name: str
    status: Status
    recipe_digest: str
    data_digest: str
    checkpoints: str


@dataclass(frozen=True)
class Decision:
    """`why` is said to the user when it is not empty."""

    action: Literal["start", "resume", "finished"]
    previous: Previous | None = None
    why: str = ""


def find_previous(session: Session, run: str) -> Previous | None:
    pattern = re.compile(re.escape(run) + r"-\d{8}-\d{6}")
    for summary in jobs.iter_jobs(session, f"{run}-"):
        if pattern.fullmatch(summary["TrainingJobName"]):
            return _make_previous(session, jobs.describe_job(session, summary["TrainingJobName"]))
    return None


def _make_previous(session: Session, description: dict[str, Any]) -> Previous:
    hyperparameters = description.get("HyperParameters", {})
    return Previous(
        name=description["TrainingJobName"],
        status=find_state(session, description).status,
        recipe_digest=json.loads(hyperparameters.get("recipe_digest", '""')),
        data_digest=json.loads(hyperparameters.get("data_digest", '""')),
        checkpoints=description.get("CheckpointConfig", {}).get("S3Uri", ""),
    )


def decide(plan: Plan, previous: Previous | None, *, fresh: bool, has_checkpoint: bool) -> Decision:
    """Pure: the rules of design.md in the order in which they are asked."""
    if previous is None:
        return Decision("start")
    if not previous.status.is_over:
        raise RunError(
            f"The run {plan.run} has a live job: {previous.name} is {previous.status.value}.",
            hint=f"`launcher logs -f {previous.name}` follows it, `launcher stop {previous.name}` ends it; "
            "--name starts another run.",
        )
    if fresh:
        return Decision("start", previous, f"starting afresh after {previous.name}")
    changed = _what_changed(plan, previous)
    if previous.status is Status.COMPLETED:
        if changed:
            return Decision("start", previous, f"{changed} since {previous.name} finished: starting afresh")
        return Decision(
            "finished",
            previous,
            f"the run {plan.run} is finished: {previous.name} trained this recipe on this data "
            "(--fresh trains it again)",
        )
    if not has_checkpoint:
        return Decision(
            "start", previous, f"{previous.name} is {previous.status.value} and left no checkpoint: starting afresh"
        )
    if changed:
        raise RunError(
            f"The run {plan.run} has an unfinished checkpoint from {previous.name}, and {changed} since.",
            hint="Going on would mix two trainings: use --fresh to start again, or --name for another run.",
        )
    return Decision("resume", previous, f"going on from the checkpoint of {previous.name}")


def _what_changed(plan: Plan, previous: Previous) -> str:
    changed = [
        word
        for word, new, old in (
            ("the recipe", plan.config.recipe_digest, previous.recipe_digest),
            ("the data", plan.config.data_digest, previous.data_digest),
        )
        if new != old
    ]
    return f"{' and '.join(changed)} changed" if changed else ""


def has_checkpoint(session: Session, previous: Previous | None) -> bool:
    """Whether a save was finished: a note of how the job ended lies in the same place, and halves of saves may."""
    if previous is None or not previous.checkpoints:
        return False
    bucket, key = s3.split_uri(previous.checkpoints)
    return any(FINISHED_SAVE.fullmatch(found.removeprefix(key)) for found in s3.iter_keys(session, bucket, key))


@contextmanager
def claimed(session: Session, site: Site, plan: Plan, previous: Previous | None) -> Iterator[None]:
    """Hold the right to follow `previous`; given back when the job could not be started."""
    key = full_key(plan, claim_key(plan.run, previous.name if previous else "nothing"))
    holder = take_claim(session, site.bucket, key, plan.job_name)
    if holder:
        raise RunError(
            f"The run {plan.run} is being submitted by somebody else at this moment, as {holder}.",
            hint=f"`launcher status {holder}` shows it in a moment; --name starts another run.",
        )
    with giving_back(session, site.bucket, key):
        yield
