"""Processes told apart by pid and start time, since the kernel gives a pid out again."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """One process of this boot; `started` is in seconds after boot, which no clock correction moves."""

    pid: int
    started: float

    @classmethod
    def current(cls) -> ProcessId:
        process = find_process(os.getpid())
        if process is None:
            raise ProcessLookupError("this process has no readable entry in /proc")
        return process

    def is_alive(self) -> bool:
        return find_process(self.pid) == self


def find_process(pid: int) -> ProcessId | None:
    """The living process with this pid; a zombie is not one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may itself hold blanks and parentheses: the fields start after the last one.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return ProcessId(pid, int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def open_pidfd(process: ProcessId) -> int | None:
    """A descriptor that turns readable when exactly this process ends, a child or not; None if it has."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    # Compared after the open: from here on the descriptor cannot come to mean another process.
    if process.is_alive():
        return pidfd
    os.close(pidfd)
    return None


def send_signal(process: ProcessId, signal_number: int) -> bool:
    """Signal exactly this process; False when it has ended."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, signal_number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def wait_for_end(process: ProcessId, timeout_s: float) -> bool:
    """True when the process has ended within the time."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def find_memory(pid: int) -> int:
    """Resident bytes of a process, 0 when it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE")
    return 0
