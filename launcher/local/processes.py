"""Processes told apart by pid and start time, since the kernel gives a pid out again."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Fields of /proc/<pid>/stat behind the name. A killed process whose other threads still wind up shows the state
# of a zombie while it still holds its files, locks and ports.
STATE, THREADS, STARTED = 0, 17, 19

KILL_ROUNDS = 5
KILL_WAIT_S = 2.0


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
    stat = _read_stat(pid)
    if stat is None or (stat[STATE] in "ZX" and int(stat[THREADS]) <= 1):
        return None
    return _identify(pid, stat)


def identify_child(pid: int) -> ProcessId | None:
    """Like find_process for a child not waited for yet, which counts even when it has ended already."""
    stat = _read_stat(pid)
    return None if stat is None else _identify(pid, stat)


def _read_stat(pid: int) -> list[str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may itself hold blanks and parentheses: the fields start after the last one.
    return stat.rpartition(")")[2].split()


def _identify(pid: int, stat: list[str]) -> ProcessId:
    return ProcessId(pid, int(stat[STARTED]) / os.sysconf("SC_CLK_TCK"))


def find_processes_with(variable: str, prefix: str) -> list[ProcessId]:
    """This user's processes that were started with the variable set to something that begins like this."""
    wanted = f"{variable}={prefix}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):
            started_with = (entry / "environ").read_bytes().split(b"\0")
            process = find_process(int(entry.name))
            if process and any(item.startswith(wanted) for item in started_with):
                found.append(process)
    return found


def minds_signal(process: ProcessId, signal_number: int) -> bool:
    """Whether the process handles, ignores or blocks the signal rather than die of it."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    lines = [line for line in status.splitlines() if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:"))]
    masks = [line.split()[1] for line in lines]
    return any(int(mask, 16) >> (signal_number - 1) & 1 for mask in masks)


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


def kill_leftovers(root: Path, job: str) -> None:
    """Kill what a dead runner left of its job: the folder it ran in marks each of the processes."""
    for _ in range(KILL_ROUNDS):  # one may have started another while we looked
        leftovers = find_processes_with("SAGEMAKER_BASE_DIR", f"{root / 'jobs' / job}/")
        if not leftovers:
            return
        for process in leftovers:
            send_signal(process, signal.SIGKILL)
        for process in leftovers:
            wait_for_end(process, KILL_WAIT_S)
