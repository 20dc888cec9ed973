"""Why a job failed, in the words that SageMaker's FailureReason would have."""

from __future__ import annotations

import errno
from pathlib import Path

from launcher.local import versions
from launcher.local.container import Tree
from launcher.local.job_output import JobLog
from launcher.local.store import StoreError

MAX_FAILURE_CHARS = 1024
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_no_space(error: Exception) -> bool:
    if isinstance(error, StoreError):
        return error.code == "InsufficientStorage"
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    return "disk is full" in str(error)  # SQLite's own words


def refuse_requirements(unmet: list[str], log: JobLog) -> str:
    for reason in unmet:
        log.say(f"{versions.REQUIREMENTS}: {reason}")
    return (
        f"the code has a {versions.REQUIREMENTS} or a {versions.SETUP} that this machine does not "
        f"satisfy, and nothing is installed into its environment: {'; '.join(unmet)}. Install what is "
        "missing yourself, or leave it out of the code."
    )


def describe_failure(tree: Tree, exit_code: int, log: JobLog) -> str:
    suffix = f", exit code: {exit_code}"
    text = _read_start(tree.failure).strip() or log.find_last_error()
    room = MAX_FAILURE_CHARS - len("AlgorithmError: ") - len(suffix)
    return f"AlgorithmError: {text[:room]}{suffix}"


def _read_start(path: Path) -> str:
    """As much as can be of use; empty when there is no such file."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_FAILURE_CHARS)
