"""What the last job of a run means for the next submit: start, go on, already done, or a refusal.

A run is what the user names; a job is one attempt at it. Jobs of a run form a chain, and each link is claimed with one
conditional put, so that of two submits at once exactly one follows a given job.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.errors import CloudError, RunError, UnknownJob
from launcher.job import Status, make_status
from launcher.plan import Plan
from launcher.request import Site, full_key

# A claim without a job is given up after this long: made elsewhere, or here by a process that still seems to run.
CLAIM_LIFE_S = 15 * 60
CLAIM_LIFE_HERE_S = 6 * 3600
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
    stopped_itself: bool = False


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
            previous = _make_previous(jobs.describe_job(session, summary["TrainingJobName"]))
            return replace(previous, stopped_itself=_stopped_itself(session, previous))
    return None


def _stopped_itself(session: Session, previous: Previous) -> bool:
    """Whether a completed job ended before its last step, as it does shortly before its time limit."""
    if previous.status is not Status.COMPLETED or not previous.checkpoints:
        return False
    note = jobs.find_note(session, previous.checkpoints, "outcome.json")
    return bool(note and note["outcome"] == "stopped")


def _make_previous(description: dict[str, Any]) -> Previous:
    hyperparameters = description.get("HyperParameters", {})
    return Previous(
        name=description["TrainingJobName"],
        status=make_status(description),
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
    if previous.status is Status.COMPLETED and not previous.stopped_itself:
        if changed:
            return Decision("start", previous, f"{changed} since {previous.name} finished: starting afresh")
        return Decision(
            "finished", previous, f"the run {plan.run} is finished: {previous.name} trained this recipe on this data"
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


def claim_key(run: str, previous: str) -> str:
    return f"runs/{run}/after-{previous}.json"


@contextmanager
def giving_back(session: Session, bucket: str, key: str) -> Iterator[None]:
    try:
        yield
    except BaseException:  # Ctrl-C too: a claim left behind would hold up the next submit
        with suppress(CloudError):  # where the connection is gone, the next submit sees that this one is
            s3.delete_object(session, bucket, key)
        raise


def take_claim(session: Session, bucket: str, key: str, job: str) -> str:
    """Empty when the claim is ours now, else the job of whoever was faster; it may have the same name as ours."""
    mine = {"job": job, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    content = json.dumps(mine).encode()
    if s3.put_bytes(session, content, bucket, key, IfNoneMatch="*"):
        return ""
    held, etag = s3.get_bytes(session, bucket, key)
    holder = json.loads(held)
    if _is_dead(session, holder) and s3.put_bytes(session, content, bucket, key, IfMatch=etag):
        return ""
    return str(holder["job"])


def _is_dead(session: Session, holder: dict[str, Any]) -> bool:
    """A claim without a job, whose submit is gone."""
    try:
        jobs.describe_job(session, holder["job"])
    except UnknownJob:
        age_s = time.time() - float(holder["time"])
        if holder["host"] != socket.gethostname():
            return age_s > CLAIM_LIFE_S
        return not _is_running(int(holder["pid"])) or age_s > CLAIM_LIFE_HERE_S
    return False


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # our own earlier try, which has given up
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
