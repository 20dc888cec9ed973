"""What a job's name says: its run or schedule, and the time or the execution that it was started by."""

from __future__ import annotations

import re
from datetime import UTC, datetime

STAMP_FORMAT = "%Y%m%d-%H%M%S"
STAMP = re.compile(r"-\d{8}-\d{6}$")
# The execution id of a scheduled job: sixteen letters and digits, or a UUID.
EXECUTION = re.compile(r"-((?=[a-z]*\d)[0-9a-z]{16}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$")


def make_stamp(now: datetime | None = None) -> str:
    return (now or datetime.now(UTC)).strftime(STAMP_FORMAT)


def run_of(job: str) -> str:
    """The run, or the schedule, that a job's name begins with."""
    return EXECUTION.sub("", STAMP.sub("", job))


def is_scheduled(job: str) -> bool:
    return EXECUTION.search(job) is not None
