"""Staying with a job to its end, and what is said then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import JobFailed, JobStopped, LauncherError

if TYPE_CHECKING:
    from launcher.job import Job

INTERRUPTED = 130


def follow(job: Job, emit: Callable[[str], None]) -> int:
    """Until the job is over, each line by `emit`; Ctrl-C ends the following, never the job."""
    from launcher import console

    try:
        console.follow(job.logs(follow=True), emit)
    except KeyboardInterrupt:
        console.say(
            f"{job.name} goes on without you; `launcher logs -f {job.name}` follows it again, "
            f"`launcher stop {job.name}` ends it."
        )
        return INTERRUPTED
    except LauncherError as error:
        error.hint += f" The job is not affected: `launcher logs -f {job.name}` follows it again."
        raise
    return 0


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
