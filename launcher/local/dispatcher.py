"""Starts the runners of training jobs, watches them, and takes over those of an earlier endpoint."""

from __future__ import annotations

import logging
import os
import selectors
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock, Thread

from launcher.local.jobs import TERMINAL, Document, JobBook, RunnerId, UnknownJob
from launcher.local.json_protocol import validation_error
from launcher.local.processes import (
    identify_child,
    kill_leftovers,
    minds_signal,
    open_pidfd,
    send_signal,
)
from launcher.local.settings import Settings

log = logging.getLogger(__name__)

RunnerCommand = Callable[[str], list[str]]

LAST_LINE_BYTES = 4096
RETRY_S = 5.0
MAX_REASON = 1024  # characters of a FailureReason


@dataclass
class Watch:
    """A runner that lives, as far as we know; `child` is None for one that an earlier endpoint started."""

    job: str
    runner: RunnerId
    pidfd: int
    child: subprocess.Popen[bytes] | None


def make_runner_command(root: Path, endpoint_url: str, settings: Settings) -> RunnerCommand:
    def command(job: str) -> list[str]:
        options = ["--root", str(root), "--endpoint-url", endpoint_url, "--grace", str(settings.grace_s)]
        return [sys.executable, "-m", "launcher.local.runner", *options, job]

    return command


class Dispatcher:
    """One thread that starts and buries runners; requests of other threads come in under the same lock."""

    def __init__(
        self,
        book: JobBook,
        root: Path,
        jobs_at_once: int,
        command: RunnerCommand,
        announce: Callable[[str], None] = lambda job: None,
    ) -> None:
        """`announce` is told every job that has ended."""
        self._book = book
        self._announce = announce
        self._root = root
        self._jobs_at_once = jobs_at_once
        self._command = command
        self._watched: dict[str, Watch] = {}
        self._buried: list[str] = []
        self._lock = RLock()
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._thread = Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        with self._lock:
            self._reconcile()
        self._thread.start()

    def close(self) -> None:
        """Stop watching; the runners go on."""
        self._closing = True
        self.wake()
        self._thread.join()
        for watch in self._watched.values():
            os.close(watch.pidfd)
        self._selector.close()
        os.close(self._wakeup)

    def wake(self) -> None:
        """There may be a job to start."""
        os.eventfd_write(self._wakeup, 1)

    def stop(self, job: str) -> None:
        """Ask the runner to end its job; a job that has none yet is over at once."""
        with self._lock:
            self._book.ask(job, "stop")
            if job not in self._watched:
                self._stop_waiting(job)
                return
            self._book.transition(job, "Stopping", "Stopping", "Stopping the training job")
            self._nudge(self._watched[job].runner)

    def interrupt(self, job: str) -> None:
        """Play a spot interruption."""
        with self._lock:
            _check_interruptible(self._book.get(job))
            self._book.ask(job, "interrupt")
            self._nudge(self._watched[job].runner)

    # The thread

    def _run(self) -> None:
        retry_s: float | None = None
        while not self._closing:
            ready = self._selector.select(retry_s)
            with self._lock:
                for key, _ in ready:
                    if key.data is None:
                        os.eventfd_read(self._wakeup)
                    else:
                        self._bury(key.data)
                try:
                    self._reconcile()
                    retry_s = None
                except (OSError, sqlite3.OperationalError):
                    log.exception("jobs cannot be started or ended now")  # a full disk, above all
                    retry_s = RETRY_S

    def _reconcile(self) -> None:
        """Make what runs agree with the book. It may fail half-way; the next time goes on from there."""
        while self._buried:
            self._announce_end(self._buried[0])
            del self._buried[0]
        for document in [] if self._closing else self._book.unfinished():
            job = document["TrainingJobName"]
            if job in self._watched:
                continue
            runner = self._book.runner(job)
            if runner is not None:
                self._adopt(job, runner)
            elif self._book.asked(job) == "stop":
                self._stop_waiting(job)
            elif len(self._watched) < self._jobs_at_once:
                self._launch(job)
            else:
                ahead = ", ".join(self._watched)
                message = f"Waiting for {ahead}: this endpoint runs {self._jobs_at_once} at once"
                self._book.transition(job, "InProgress", "Pending", message)

    def _adopt(self, job: str, runner: RunnerId) -> None:
        """Watch a runner that another endpoint started, or settle the job of one that has ended."""
        pidfd = open_pidfd(runner)
        if pidfd is None:
            self._settle(job, runner)
            return
        self._watch(Watch(job, runner, pidfd, None))
        if self._book.asked(job):
            self._nudge(runner)  # the other endpoint may have been killed before it could

    def _launch(self, job: str) -> None:
        self._book.transition(job, "InProgress", "Starting", "Starting the training job")
        try:
            child = self._start_runner(job)
        except OSError as error:
            self._fail(job, f"InternalServerError: the local runner could not be started: {error}")
            return
        # A child's pid is its own until it is waited for, so that nothing needs to be compared here.
        pidfd, runner = os.pidfd_open(child.pid), identify_child(child.pid)
        if runner is None:
            raise ProcessLookupError(f"no entry in /proc for the child {child.pid}")
        self._watch(Watch(job, runner, pidfd, child))
        self._book.claim(job, runner)

    def _start_runner(self, job: str) -> subprocess.Popen[bytes]:
        log = self._runner_log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                self._command(job),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _watch(self, watch: Watch) -> None:
        self._watched[watch.job] = watch
        self._selector.register(watch.pidfd, selectors.EVENT_READ, watch)

    def _bury(self, watch: Watch) -> None:
        self._selector.unregister(watch.pidfd)
        os.close(watch.pidfd)
        del self._watched[watch.job]
        if watch.child:
            watch.child.wait()
        self._buried.append(watch.job)

    def _announce_end(self, job: str) -> None:
        """Of a job whose runner has ended; one without a result gets it, and is announced, when that is settled."""
        with suppress(UnknownJob):  # deleted already
            if self._book.get(job)["TrainingJobStatus"] in TERMINAL:
                self._announce(job)

    def _settle(self, job: str, runner: RunnerId) -> None:
        """A job without a result whose runner has ended will not get one."""
        kill_leftovers(self._root, job)
        log = self._runner_log(job)
        last_line = _read_last_line(log) or "it left no message"
        reason = f"InternalServerError: the local runner (pid {runner.pid}) ended without a result: "
        advice = f". Its log is {log}. Submit again: the checkpoints that reached S3 are kept."
        room = MAX_REASON - len(reason) - len(advice)
        shutil.rmtree(self._root / "jobs" / job / "opt", ignore_errors=True)
        self._fail(job, reason + last_line[: max(room, 0)] + advice)

    def _fail(self, job: str, reason: str) -> None:
        reason = reason[:MAX_REASON]
        self._book.transition(job, "Failed", "Failed", "Training job failed", FailureReason=reason)
        self._announce(job)

    def _stop_waiting(self, job: str) -> None:
        self._book.transition(job, "Stopped", "Stopped", "Training job stopped before it started")
        self._announce(job)

    def _nudge(self, runner: RunnerId) -> None:
        """Make the runner read what is asked of it.

        One that has no handler yet has not read it either, and SIGTERM would kill it.
        """
        if minds_signal(runner, signal.SIGTERM):
            send_signal(runner, signal.SIGTERM)

    def _runner_log(self, job: str) -> Path:
        return self._root / "jobs" / job / "runner.log"


def _check_interruptible(document: Document) -> None:
    if not document["EnableManagedSpotTraining"]:
        raise validation_error("Only a job with EnableManagedSpotTraining can be interrupted.")
    if document["TrainingJobStatus"] != "InProgress" or document["SecondaryStatus"] != "Training":
        state = f"{document['TrainingJobStatus']}/{document['SecondaryStatus']}"
        raise validation_error(f"Only a job in Training can be interrupted; this one is {state}.")


def _read_last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_LINE_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
