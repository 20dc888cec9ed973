"""Starts the runners of training jobs, watches them, and takes over those of an earlier endpoint."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock, Thread

from launcher.local.jobs import TERMINAL, Document, JobBook, RunnerId
from launcher.local.json_protocol import validation_error
from launcher.local.processes import (
    find_processes_with,
    identify_child,
    minds_signal,
    open_pidfd,
    send_signal,
)
from launcher.local.settings import Settings

RunnerCommand = Callable[[str], list[str]]

LAST_LINE_BYTES = 4096
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

    def __init__(self, book: JobBook, root: Path, jobs_at_once: int, command: RunnerCommand) -> None:
        self._book = book
        self._root = root
        self._jobs_at_once = jobs_at_once
        self._command = command
        self._watched: dict[str, Watch] = {}
        self._lock = RLock()
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._thread = Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        with self._lock:
            for document in self._book.unfinished():
                self._adopt(document["TrainingJobName"])
            self._dispatch()
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
            self._nudge(self._watched[job])

    def interrupt(self, job: str) -> None:
        """Play a spot interruption."""
        with self._lock:
            _check_interruptible(self._book.get(job))
            self._book.ask(job, "interrupt")
            self._nudge(self._watched[job])

    # The thread

    def _run(self) -> None:
        while not self._closing:
            ready = self._selector.select()
            with self._lock:
                for key, _ in ready:
                    if key.data is None:
                        os.eventfd_read(self._wakeup)
                    else:
                        self._bury(key.data)
                if not self._closing:
                    self._dispatch()

    def _dispatch(self) -> None:
        """Start as many waiting jobs as there are free places; tell the others whom they wait for."""
        waiting = [job["TrainingJobName"] for job in self._book.unfinished()]
        for job in (name for name in waiting if name not in self._watched):
            if len(self._watched) < self._jobs_at_once:
                self._launch(job)
            else:
                ahead = ", ".join(self._watched)
                message = f"Waiting for {ahead}: this endpoint runs {self._jobs_at_once} at once"
                self._book.transition(job, "InProgress", "Pending", message)

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
        self._book.claim(job, runner)
        self._watch(Watch(job, runner, pidfd, child))

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

    def _adopt(self, job: str) -> None:
        """Take over a job of an earlier endpoint."""
        runner = self._book.runner(job)
        if runner is None:
            if self._book.asked(job) == "stop":
                self._stop_waiting(job)
        elif (pidfd := open_pidfd(runner)) is None:
            self._settle(job, runner)
        else:
            watch = Watch(job, runner, pidfd, None)
            self._watch(watch)
            if self._book.asked(job):
                self._nudge(watch)  # the earlier endpoint may have been killed before it could

    def _bury(self, watch: Watch) -> None:
        self._selector.unregister(watch.pidfd)
        os.close(watch.pidfd)
        del self._watched[watch.job]
        if watch.child:
            watch.child.wait()
        entered = self._book.runner(watch.job)
        if entered not in (None, watch.runner):
            self._adopt(watch.job)  # ours has left the job to a runner that was there before it
        else:
            self._settle(watch.job, watch.runner)

    def _settle(self, job: str, runner: RunnerId) -> None:
        """After a runner's end: a job that has no result will not get one."""
        if self._book.get(job)["TrainingJobStatus"] in TERMINAL:
            self._book.set_runner(job, None)
            return
        kill_leftovers(self._root, job)
        log = self._runner_log(job)
        last_line = _read_last_line(log) or "it left no message"
        reason = f"InternalServerError: the local runner (pid {runner.pid}) ended without a result: "
        advice = f". Its log is {log}. Submit again: the checkpoints that reached S3 are kept."
        room = MAX_REASON - len(reason) - len(advice)
        self._fail(job, reason + last_line[: max(room, 0)] + advice)
        self._book.set_runner(job, None)
        shutil.rmtree(self._root / "jobs" / job / "opt", ignore_errors=True)

    def _fail(self, job: str, reason: str) -> None:
        reason = reason[:MAX_REASON]
        self._book.transition(job, "Failed", "Failed", "Training job failed", FailureReason=reason)

    def _stop_waiting(self, job: str) -> None:
        self._book.transition(job, "Stopped", "Stopped", "Training job stopped before it started")

    def _nudge(self, watch: Watch) -> None:
        """Make the runner read what is asked of it.

        One that has no handler yet has not read it either, and SIGTERM would kill it.
        """
        if minds_signal(watch.runner, signal.SIGTERM):
            send_signal(watch.runner, signal.SIGTERM)

    def _runner_log(self, job: str) -> Path:
        return self._root / "jobs" / job / "runner.log"


def kill_leftovers(root: Path, job: str) -> None:
    """Kill what a dead runner left of its job: the folder it ran in marks each of the processes."""
    for process in find_processes_with("SAGEMAKER_BASE_DIR", f"{root / 'jobs' / job}/"):
        send_signal(process, signal.SIGKILL)


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
