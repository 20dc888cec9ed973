"""Runs one training job to its end: python -m launcher.local.runner --root ... --endpoint-url ... JOB

A process of its own that needs the book of jobs and the objects on disk, and no endpoint. SIGTERM only says
that there is a wish to read in the book.
"""

from __future__ import annotations

import argparse
import enum
import gzip
import json
import math
import os
import shutil
import sqlite3
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.local import container, versions
from launcher.local.container import Tree
from launcher.local.entry_process import Alarm, EntryProcess, adopt_orphans
from launcher.local.failures import MAX_FAILURE_CHARS, describe_failure, is_no_space, refuse_requirements
from launcher.local.job_output import JobLog, LineSplitter, MetricWatch
from launcher.local.jobs import TERMINAL, JobBook
from launcher.local.processes import ProcessId
from launcher.local.store import ObjectStore, StoreError
from launcher.local.transfer import (
    Artifact,
    CheckpointSync,
    DownloadError,
    Location,
    fetch_channel,
    fetch_object,
)

CHECKPOINT_SYNC_S = 2.0
DEFAULT_MAX_RUNTIME_S = 86_400


class RequestError(Exception):
    """The job cannot be done as it was asked for: what SageMaker calls a ClientError."""


class StopAsked(Exception):
    """The job is to be stopped, and nothing of it runs yet."""


class Ending(enum.Enum):
    """Why the entry process came to its end."""

    BY_ITSELF = "by itself"
    STOP = "stop"
    LIMIT = "limit"
    INTERRUPT = "interrupt"


@dataclass(frozen=True)
class Result:
    ending: Ending
    exit_code: int


class JobRunner:
    def __init__(self, root: Path, name: str, endpoint_url: str, grace_s: float, alarm: Alarm) -> None:
        self._name = name
        self._endpoint_url = endpoint_url
        self._grace_s = grace_s
        self._alarm = alarm
        self._folder = root / "jobs" / name
        self._log_folder = root / "logs" / name
        self._book = JobBook(root / "jobs.sqlite")
        self._store = ObjectStore(root / "s3")
        self._document = self._book.get(name)
        self._metrics = MetricWatch(self._algorithm.get("MetricDefinitions", []))
        self._stages: list[dict[str, Any]] = []
        self._started: float | None = None
        self._interrupted: float | None = None
        self._waited_s = 0.0  # between an interruption and the next attempt, which is not billed
        self._trained_s = 0.0

    def run(self) -> None:
        """From whatever state the job is in to a terminal one."""
        if not self._book.claim(self._name, ProcessId.current()):
            _note(f"{self._name} has another runner; nothing to do")
            return
        if self._book.get(self._name)["TrainingJobStatus"] in TERMINAL:
            _note(f"{self._name} has ended already; nothing to do")
            return
        try:
            self._run_attempts()
        except StopAsked:
            self._finish("Stopped", "Stopped", "The job was stopped while no training ran.")
        except (RequestError, DownloadError) as error:
            self._fail(f"ClientError: {error}")
        except (OSError, StoreError, sqlite3.OperationalError) as error:
            self._fail(self._describe_own_failure(error))
        finally:
            self._clear()

    # The story

    def _run_attempts(self) -> None:
        attempt = 1
        while self._attempt(attempt) is Ending.INTERRUPT:
            attempt += 1

    def _attempt(self, number: int) -> Ending:
        log = JobLog(self._log_folder)
        try:
            with self._stage("Starting", f"Preparing attempt {number} on this machine."):
                self._clear()
                tree = container.make_tree(self._folder / "opt" / "ml")
                self._say_what_differs(log)
            with self._stage("Downloading", "Downloading the input data and the code."):
                checkpoints = self._download(tree, log)
            with self._stage("Training", "The training container runs."):
                result = self._train(tree, checkpoints, log)
            if result.ending is Ending.INTERRUPT and not self._is_stopping():
                self._note_interruption(log)
                return Ending.INTERRUPT
            with self._stage("Uploading", "Uploading the model and the output."):
                uploaded = self._upload(tree, result)
            self._conclude(tree, result, log, uploaded)
            return result.ending
        finally:
            log.close()

    # Starting

    def _say_what_differs(self, log: JobLog) -> None:
        log.say(versions.describe_differences(self._algorithm.get("TrainingImage", "")))
        for text in (*self._metrics.refused, *self._list_substitutes()):
            log.say(text)

    def _list_substitutes(self) -> Iterator[str]:
        """What was asked for and is done in another way here."""
        for channel in self._document.get("InputDataConfig", []):
            if self._input_mode(channel) == "FastFile":
                name = channel["ChannelName"]
                yield f"The channel {name} is FastFile; here it is downloaded first, as with File."
        if self._document.get("ResourceConfig", {}).get("InstanceCount", 1) > 1:
            yield "More than one instance is asked for; here the job runs as the only host, algo-1."
        if self._document.get("HyperParameters", {}).get("sagemaker_torch_distributed_enabled") == "true":
            yield (
                "torchrun starts one process for each GPU of this machine, one without a GPU, whatever the "
                f"{container.find_instance_type(self._document)} has."
            )

    # Downloading

    def _download(self, tree: Tree, log: JobLog) -> CheckpointSync | None:
        self._start_clock()
        self._raise_if_stopping()
        container.write_config(tree, self._document, self._fetch_bundle(log))
        try:
            for channel in self._document.get("InputDataConfig", []):
                self._fetch_channel(tree, channel)
            return self._restore_checkpoints(tree, log)
        except DownloadError as error:
            raise RequestError(f"Data download failed:{error}") from error

    def _start_clock(self) -> None:
        now = time.time()
        if self._started is None:
            self._started = now
            self._book.update(self._name, TrainingStartTime=now)
        if self._interrupted is not None:
            self._waited_s += now - self._interrupted
            self._interrupted = None

    def _fetch_bundle(self, log: JobLog) -> Path | None:
        uri = container.find_bundle_uri(self._document)
        if uri is None:
            return None
        path = self._folder / "opt" / "sourcedir.tar.gz"
        try:
            fetch_object(self._store, Location.parse(uri), path)
            unmet = versions.list_unmet(path)
        except DownloadError as error:
            raise RequestError(f"the code cannot be fetched: {error}") from error
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise RequestError(f"the code in {uri} is not a tar.gz archive: {error}.") from error
        if unmet:
            raise RequestError(refuse_requirements(unmet, log))
        return path

    def _fetch_channel(self, tree: Tree, channel: dict[str, Any]) -> None:
        source = channel["DataSource"].get("S3DataSource")
        if source is None or self._input_mode(channel) == "Pipe":
            raise RequestError(
                f"the channel {channel['ChannelName']} is not from S3 in File or FastFile mode, and "
                "nothing else is available on this machine."
            )
        fetch_channel(self._store, source, tree.channel(channel["ChannelName"]), self._raise_if_stopping)

    def _restore_checkpoints(self, tree: Tree, log: JobLog) -> CheckpointSync | None:
        config = self._document.get("CheckpointConfig")
        if not config:
            return None
        folder = tree.checkpoints(self._document)
        if folder is None:
            raise RequestError(
                f"CheckpointConfig.LocalPath is {config['LocalPath']}; on this machine it has to be a "
                "folder inside /opt/ml."
            )
        sync = CheckpointSync(self._store, folder, config["S3Uri"])
        if count := sync.restore(self._raise_if_stopping):
            log.say(f"{count} checkpoint files were restored from {config['S3Uri']}.")
        return sync

    # Training

    def _train(self, tree: Tree, checkpoints: CheckpointSync | None, log: JobLog) -> Result:
        """One loop over the job's output, the wishes in the book and the clock."""
        self._raise_if_stopping()
        ending, kill_at = Ending.BY_ITSELF, math.inf
        began = time.monotonic()
        limit_at = began + min(self._max_runtime_s - self._trained_s, container.wait_left_s(self._document))
        look_at = began
        lines = LineSplitter()
        with container.short_link(tree.temporary) as temporary:
            entry = self._start_entry(tree, temporary)
            try:
                while not entry.has_ended():
                    self._record(lines.feed(entry.wait(min(look_at, limit_at, kill_at))), log)
                    now = time.monotonic()

                    # what is asked for
                    if ending is Ending.BY_ITSELF and not entry.has_ended():
                        ending = self._find_reason_to_end(now >= limit_at)
                        if ending is not Ending.BY_ITSELF:
                            log.say(f"SIGTERM ({ending.value}); SIGKILL follows after {self._grace_s:g} s.")
                            entry.terminate()
                            limit_at, kill_at = math.inf, now + self._grace_s

                    # the end of patience
                    if now >= kill_at:
                        log.say("SIGKILL: the job did not end in time.")
                        entry.kill()

                    # checkpoints
                    if now >= look_at:
                        if checkpoints:
                            checkpoints.push()
                        look_at = time.monotonic() + CHECKPOINT_SYNC_S
                for data in entry.drain():
                    self._record(lines.feed(data), log)
                self._record(lines.finish(), log)
            finally:
                exit_code = entry.close()
                self._trained_s += time.monotonic() - began
        if checkpoints:
            checkpoints.push()
        return Result(ending, exit_code)

    def _start_entry(self, tree: Tree, temporary: Path) -> EntryProcess:
        command = container.make_command(self._document)
        environment = container.make_environment(tree, self._document, self._endpoint_url, temporary, os.environ)
        try:
            return EntryProcess(command, environment, tree.base, self._alarm)
        except (FileNotFoundError, PermissionError) as error:
            raise RequestError(f"the container's entrypoint {command[0]!r} cannot be started: {error}.") from error

    def _find_reason_to_end(self, is_over_limit: bool) -> Ending:
        asked = self._book.asked(self._name)
        if asked is None and is_over_limit:
            return Ending.LIMIT
        return Ending(asked) if asked else Ending.BY_ITSELF

    def _record(self, lines: Iterator[str], log: JobLog) -> None:
        for line in lines:
            log.write(line)
            self._metrics.read(line)
        log.flush()

    def _note_interruption(self, log: JobLog) -> None:
        self._interrupted = time.time()
        self._book.clear_ask(self._name)
        log.say("The instance was taken away. The job goes on from its last checkpoint.")
        message = "The instance was taken away; another attempt follows."
        self._book.transition(self._name, "InProgress", "Interrupted", message)

    # Uploading

    def _upload(self, tree: Tree, result: Result) -> dict[str, Any]:
        """Fields that tell where the results are: what there is goes up, however the job ended."""
        has_failed = result.ending is Ending.BY_ITSELF and result.exit_code != 0
        output = Artifact.of_folder(tree.output_data)
        if has_failed and tree.failure.is_file():
            output = Artifact(output.files | {"failure": tree.failure})
        self._upload_artifact(output, "output.tar.gz", "data/")

        model = Artifact.of_folder(tree.model)
        location = self._upload_artifact(model, "model.tar.gz", "model/")
        is_complete = result.ending is Ending.BY_ITSELF and result.exit_code == 0
        # A job that completes has this field in SageMaker even if it left no model.
        return {"ModelArtifacts": {"S3ModelArtifacts": str(location)}} if model or is_complete else {}

    def _upload_artifact(self, artifact: Artifact, archive: str, folder: str) -> Location:
        config = self._document["OutputDataConfig"]
        target = Location.parse_folder(config["S3OutputPath"]).at(f"{self._name}/output/")
        is_archive = config.get("CompressionType", "GZIP") != "NONE"
        location = target.at(archive if is_archive else folder)
        try:
            if artifact and is_archive:
                artifact.upload_archive(self._store, location)
            elif artifact:
                artifact.upload_files(self._store, location)
        except StoreError as error:
            if is_no_space(error):
                raise
            raise RequestError(f"the results cannot be written to {location}: {error}") from error
        return location

    # The end

    def _conclude(self, tree: Tree, result: Result, log: JobLog, fields: dict[str, Any]) -> None:
        if self._is_stopping():
            self._finish("Stopped", "Stopped", "The job was stopped.", **fields)
        elif result.ending is Ending.LIMIT and container.wait_left_s(self._document) <= 0:
            message = "The job took longer than MaxWaitTimeInSeconds, with its waiting, and was stopped."
            self._finish("Stopped", "MaxWaitTimeExceeded", message, **fields)
        elif result.ending is Ending.LIMIT:
            message = f"The job ran longer than MaxRuntimeInSeconds ({self._max_runtime_s}) and was stopped."
            self._finish("Stopped", "MaxRuntimeExceeded", message, **fields)
        elif result.exit_code == 0:
            self._finish("Completed", "Completed", "Training is complete.", **fields)
        else:
            self._fail(describe_failure(tree, result.exit_code, log), **fields)

    def _fail(self, reason: str, **fields: Any) -> None:
        reason = reason[:MAX_FAILURE_CHARS]
        self._finish("Failed", "Failed", reason, FailureReason=reason, **fields)

    def _finish(self, status: str, secondary: str, message: str, **fields: Any) -> None:
        # First, so that a full disk has room again for the last word.
        self._clear()
        if final := self._metrics.list_final():
            fields["FinalMetricDataList"] = final
        if self._started is not None:
            fields |= self._measure(self._started, time.time())
        self._book.transition(self._name, status, secondary, message, **fields)
        _note(f"{self._name} is {status} ({secondary}): {message}")

    def _measure(self, start: float, end: float) -> dict[str, Any]:
        return {
            "TrainingEndTime": end,
            "TrainingTimeInSeconds": math.ceil(end - start),
            "BillableTimeInSeconds": math.ceil(end - start - self._waited_s),
        }

    def _describe_own_failure(self, error: Exception) -> str:
        doing = self._stages[-1]["stage"] if self._stages else "Starting"
        what = f"{type(error).__name__}: {error}"
        if is_no_space(error):
            return (
                f"InternalServerError: no disk space left for {self._folder} in the stage {doing} ({what}). "
                "Make room there, or set LAUNCHER_HOME to a folder on a larger disk, and submit again."
            )
        return f"InternalServerError: the local runner failed in the stage {doing}: {what}"

    # Pieces

    @contextmanager
    def _stage(self, secondary: str, message: str) -> Iterator[None]:
        stage: dict[str, Any] = {"stage": secondary, "started": time.time(), "seconds": None}
        self._stages.append(stage)
        self._book.transition(self._name, "InProgress", secondary, message)
        began = time.monotonic()
        yield
        stage["seconds"] = round(time.monotonic() - began, 3)
        _note(f"{secondary} took {stage['seconds']} s")
        (self._folder / "stages.json").write_text(json.dumps(self._stages, indent=1))

    def _raise_if_stopping(self) -> None:
        if self._is_stopping():
            raise StopAsked

    def _is_stopping(self) -> bool:
        return self._book.asked(self._name) == "stop"

    def _clear(self) -> None:
        shutil.rmtree(self._folder / "opt", ignore_errors=True)

    def _input_mode(self, channel: dict[str, Any]) -> str:
        return str(channel.get("InputMode") or self._algorithm["TrainingInputMode"])

    @property
    def _algorithm(self) -> dict[str, Any]:
        algorithm: dict[str, Any] = self._document["AlgorithmSpecification"]
        return algorithm

    @property
    def _max_runtime_s(self) -> int:
        return int(self._document.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_S))


def _note(text: str) -> None:
    """A line of runner.log, which is this process's output."""
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launcher.local.runner")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--endpoint-url", required=True)
    parser.add_argument("--grace", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("job")
    options = parser.parse_args()
    alarm = Alarm()
    adopt_orphans()
    JobRunner(options.root.absolute(), options.job, options.endpoint_url, options.grace, alarm).run()


if __name__ == "__main__":
    main()
