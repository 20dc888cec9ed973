"""Claims: one conditional put of an object decides who may start the job that follows another."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.errors import CloudError, UnknownJob

# A claim without a job is given up after this long: made elsewhere, or here by a process that still seems to run.
CLAIM_LIFE_S = 15 * 60
CLAIM_LIFE_HERE_S = 6 * 3600


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
