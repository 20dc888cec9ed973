"""The log of a job, line by line, from all of its streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from launcher.aws.errors import explained
from launcher.aws.session import Session

GROUP = "/aws/sagemaker/TrainingJobs"
POLL_S = 2.0
LOCAL_POLL_S = 0.3


def iter_log_lines(
    session: Session,
    job: str,
    *,
    is_over: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Yield what is there, then what comes, until the job is over and its log is read to the end."""
    logs = session.client("logs")
    tokens: dict[str, str | None] = {}
    pause = POLL_S if session.place == "aws" else LOCAL_POLL_S
    while True:
        over = is_over()  # asked before reading, so that the last lines are read after the end
        yield from _read_new(logs, job, tokens)
        if over:
            return
        sleep(pause)


def _read_new(logs: Any, job: str, tokens: dict[str, str | None]) -> Iterator[str]:
    with explained(f"reading the log of {job}"):
        for stream in _streams(logs, job):
            tokens.setdefault(stream, None)
        for stream in sorted(tokens):
            yield from _read_stream(logs, stream, tokens)


def _read_stream(logs: Any, stream: str, tokens: dict[str, str | None]) -> Iterator[str]:
    while True:
        words = {"nextToken": tokens[stream]} if tokens[stream] else {}
        answer = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, startFromHead=True, **words)
        for event in answer["events"]:
            yield event["message"]
        # CloudWatch repeats the token at the end of a stream, and may give an empty page before it
        if answer["nextForwardToken"] == tokens[stream]:
            return
        tokens[stream] = answer["nextForwardToken"]


def _streams(logs: Any, job: str) -> list[str]:
    try:
        pages = logs.get_paginator("describe_log_streams").paginate(logGroupName=GROUP, logStreamNamePrefix=f"{job}/")
        return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
    except logs.exceptions.ResourceNotFoundException:
        return []  # the group appears with the account's first job
