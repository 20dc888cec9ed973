"""Staying with a job to its end, and what is said then."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import CloudError, JobFailed, JobStopped, LauncherError

if TYPE_CHECKING:
    from launcher.job import Job, JobState

INTERRUPTED = 130


def follow(job: Job, emit: Callable[[str], None]) -> tuple[int, Job]:
    """Until the job is over, each line by `emit`; Ctrl-C ends the following, never the job.

    A spot job that got no capacity may go on as another, on demand; that one is followed and returned then.
    """
    from launcher import console
    from launcher.fallback import find_next

    try:
        while True:
            console.follow(job.logs(follow=True), emit)
            following = find_next(job, job.state(), console.say)
            if following is None:
                return 0, job
            job = following
    except KeyboardInterrupt:
        console.say(
            f"{job.name} goes on without you; `launcher logs -f {job.name}` follows it again, "
            f"`launcher stop {job.name}` ends it."
        )
        return INTERRUPTED, job
    except LauncherError as error:
        error.hint += f" The job is not affected: `launcher logs -f {job.name}` follows it again."
        raise


def wait(
    job: Job, timeout: float | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> tuple[Job, JobState]:
    """Until the job is over, and the on-demand job that may come after it: the last of them, however it ended."""
    from launcher import console
    from launcher.fallback import find_next

    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            state = job.wait_over(None if deadline is None else max(0.0, deadline - time.monotonic()), sleep=sleep)
            following = find_next(job, state, console.say)
        except CloudError as error:
            error.hint += f" The job is not affected: `launcher wait {job.name}` waits for it again."
            raise
        if following is None:
            return job, state
        job = following


def finish(job: Job, folder: str | Path, as_json: bool) -> int:
    """Fetch what the job left, say what to type next, and take over its exit code."""
    from launcher import console

    code, state = 0, job.state()
    try:
        job.check(state)
    except (JobFailed, JobStopped) as ended:
        if isinstance(ended, JobFailed) or not job.has_model(state):
            if as_json:
                console.data_json(state.describe() | {"adapter": None})
            raise
        console.print_error(ended)
        code = ended.exit_code
    adapter = job.fetch(folder, console.track)
    if as_json:
        console.data_json(state.describe() | {"adapter": str(adapter.folder), "base_model": adapter.base_model})
    else:
        console.print_adapter(job.name, adapter)
    return code
