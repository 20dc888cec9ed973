"""Staying with a job to its end, and what is said then."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.interrupts import Interrupts
from launcher.errors import CloudError, JobFailed, JobStopped, LauncherError, NextJobRefused

if TYPE_CHECKING:
    from launcher.job import Job, JobState

INTERRUPTED = 130


def follow(job: Job, emit: Callable[[str], None]) -> int:
    """Until the job is over, each line by `emit`; Ctrl-C ends the following, never the job.

    A spot job that got no capacity may go on as another, on demand; that one is followed then.
    """
    from launcher import console

    try:
        with Interrupts() as interrupts:
            console.follow(interrupts.between(job.logs(follow=True, sleep=interrupts.sleep)), emit)
            while job.go_on(job.state(), console.say, sleep=interrupts.sleep):
                console.follow(interrupts.between(job.logs(follow=True, sleep=interrupts.sleep)), emit)
    except KeyboardInterrupt:
        console.say(
            f"{job.name} goes on without you; `launcher logs -f {job.name}` follows it again, "
            f"`launcher stop {job.name}` ends it."
        )
        return INTERRUPTED
    except NextJobRefused:
        raise  # it says itself what there is to do
    except LauncherError as error:
        error.hint += f" The job is not affected: `launcher logs -f {job.name}` follows it again."
        raise
    return 0


def wait(job: Job, timeout: float | None = None, *, sleep: Callable[[float], None] = time.sleep) -> JobState:
    """Until the job is over, and the on-demand job that may come after it, however it ended."""
    from launcher import console

    try:
        with Interrupts(sleep) as interrupts:
            return job.wait_over(timeout, say=console.say, sleep=interrupts.sleep)
    except NextJobRefused:
        raise  # it says itself what there is to do
    except CloudError as error:
        error.hint += f" The job is not affected: `launcher wait {job.name}` waits for it again."
        raise


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
