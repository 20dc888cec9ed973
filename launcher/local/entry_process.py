"""The process that is PID 1 in a container, everything it starts, and the waiting for it."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

READ_BYTES = 64 * 1024
PR_SET_CHILD_SUBREAPER = 36

# A job's descendants may hold its output open after its end; what they say for a moment is still taken.
QUIET_S = 0.3
DRAIN_S = 5.0


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, as PID 1 of a container is."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot adopt orphaned processes")


class Alarm:
    """A descriptor that SIGTERM makes readable: the signal means "read your wishes", and nothing else."""

    def __init__(self) -> None:
        self.fd, write_fd = os.pipe()
        for fd in (self.fd, write_fd):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGTERM, _only_wake)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

    def clear(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass


def _only_wake(_number: int, _frame: FrameType | None) -> None:
    """The byte in the pipe is what counts."""


class EntryProcess:
    """Started in a session of its own, with one pipe for all output."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, alarm: Alarm) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdout is not None  # for mypy: PIPE above
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        self._selector.register(alarm.fd, selectors.EVENT_READ)
        self._alarm = alarm

    def wait(self, deadline: float) -> bytes:
        """Output, or nothing when there was another event: the end, a signal, the deadline (monotonic)."""
        ready = {key.fd for key, _ in self._selector.select(max(0.0, deadline - time.monotonic()))}
        if self._alarm.fd in ready:
            self._alarm.clear()
        return self._read() if self._output.fileno() in ready else b""

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def terminate(self) -> None:
        """SIGTERM to the entry process alone, as a container runtime does it."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to everything that was started, in whatever group or session it is now."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _kill_children()

    def drain(self) -> Iterator[bytes]:
        """The rest of the output; ends also while a descendant keeps the pipe open."""
        end = time.monotonic() + DRAIN_S
        while self._is_open() and time.monotonic() < end:
            if not self._select_output(QUIET_S):
                return
            yield self._read()

    def close(self) -> int:
        """Kill what is left and return the exit code as a shell shows it."""
        self.kill()
        self._selector.close()
        self._output.close()
        os.close(self._pidfd)
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def _is_open(self) -> bool:
        return any(key.fileobj is self._output for key in self._selector.get_map().values())

    def _select_output(self, timeout_s: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            return bool(selector.select(timeout_s))

    def _read(self) -> bytes:
        data = self._output.read(READ_BYTES)
        if data == b"":  # closed by all writers; a closed pipe would be ready for ever
            self._selector.unregister(self._output)
        return data or b""


def _kill_children() -> None:
    """End adopted orphans too; each that ends may leave its own children to us."""
    while True:
        for pid in _find_children(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _find_children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name, in parentheses, may hold blanks; the parent is the second field after it.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                yield int(entry.name)
