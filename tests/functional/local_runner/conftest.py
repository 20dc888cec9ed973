"""The runner as the endpoint starts it: a process, a book of jobs, objects on disk; no endpoint is there."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.local.jobs import JobBook
from launcher.local.store import ObjectStore
from launcher.signal_shim import ENTRYPOINT

JOBS = Path(__file__).parent / "trivial_jobs"
BUCKET = "bucket"
NO_ENDPOINT = "http://127.0.0.1:9"
IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:"
    "2.8.0-transformers4.56.2-gpu-py312-cu129-ubuntu22.04"
)
METRICS = [{"Name": "loss", "Regex": r"'loss': ([0-9.]+)"}, {"Name": "never", "Regex": "never (.*)"}]
DEADLINE_S = 60.0


@dataclasses.dataclass
class Site:
    """One state folder, and what a test does with it."""

    root: Path

    def __post_init__(self) -> None:
        self.book = JobBook(self.root / "jobs.sqlite")
        self.store = ObjectStore(self.root / "s3")
        self.store.create_bucket(BUCKET)
        self.runners: dict[str, subprocess.Popen[bytes]] = {}

    def put(self, key: str, content: str) -> None:
        self.store.put(BUCKET, key, io.BytesIO(content.encode()))

    def keys(self, prefix: str = "") -> list[str]:
        return [stored.key for stored in self.store.list(BUCKET, prefix)]

    def read(self, key: str) -> bytes:
        with self.store.open(BUCKET, key)[1] as file:
            return file.read()

    def read_archive(self, key: str) -> dict[str, str]:
        with tarfile.open(fileobj=io.BytesIO(self.read(key))) as archive:
            return {member.name: archive.extractfile(member).read().decode() for member in archive}

    def pack(self, files: dict[str, str]) -> str:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        self.store.put(BUCKET, "source/sourcedir.tar.gz", io.BytesIO(buffer.getvalue()))
        return f"s3://{BUCKET}/source/sourcedir.tar.gz"

    def add(self, job: str, **request: Any) -> str:
        """A job whose container runs what `request` says."""
        algorithm = {"TrainingImage": IMAGE, "TrainingInputMode": "File", "MetricDefinitions": METRICS}
        self.book.add(
            {
                "TrainingJobName": job,
                "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{job}",
                "TrainingJobStatus": "InProgress",
                "SecondaryStatus": "Starting",
                "AlgorithmSpecification": algorithm | request.pop("AlgorithmSpecification", {}),
                "HyperParameters": {},
                "InputDataConfig": [],
                "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
                "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
                "StoppingCondition": {"MaxRuntimeInSeconds": 600},
                "CreationTime": time.time(),
                **request,
            }
        )
        return job

    def add_training(self, job: str, script: str, *, entrypoint: tuple[str, ...] = ENTRYPOINT, **request: Any) -> str:
        """A job of the real toolkit with one of the trivial scripts as train.py."""
        files = {"train.py": (JOBS / script).read_text()} | request.pop("files", {})
        hyperparameters = {
            "sagemaker_program": '"train.py"',
            "sagemaker_submit_directory": json.dumps(self.pack(files)),
        }
        algorithm = {"ContainerEntrypoint": list(entrypoint)} if entrypoint else {}
        request["HyperParameters"] = hyperparameters | request.get("HyperParameters", {})
        return self.add(job, AlgorithmSpecification=algorithm | request.pop("AlgorithmSpecification", {}), **request)

    def add_shell(self, job: str, script: str, **request: Any) -> str:
        """A job that is one shell script, without the toolkit."""
        algorithm = {"ContainerEntrypoint": ["/bin/bash", "-c", script]} | request.pop("AlgorithmSpecification", {})
        return self.add(job, AlgorithmSpecification=algorithm, **request)

    def start(self, job: str, *, grace_s: float = 60, **options: Any) -> subprocess.Popen[bytes]:
        folder = self.root / "jobs" / job
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "launcher.local.runner", "--root", str(self.root)]
        with (folder / "runner.log").open("ab") as log:
            self.runners[job] = subprocess.Popen(
                [*command, "--endpoint-url", NO_ENDPOINT, "--grace", str(grace_s), job],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )
        return self.runners[job]

    def close(self) -> None:
        """Leave no process behind, however a test ended."""
        for job, runner in self.runners.items():
            if runner.poll() is None:
                self.ask(job, "stop", runner)
                runner.wait(DEADLINE_S)
        self.book.close()
        self.store.close()

    def run(self, job: str, **options: Any) -> dict[str, Any]:
        return self.finish(job, self.start(job, **options))

    def finish(self, job: str, runner: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert runner.wait(DEADLINE_S) == 0, self.runner_log(job)
        assert not (self.root / "jobs" / job / "opt").exists()
        return self.book.get(job)

    def ask(self, job: str, wish: str, runner: subprocess.Popen[bytes]) -> None:
        self.book.ask(job, wish)
        if wish == "stop":
            self.book.transition(job, "Stopping", "Stopping", "Stopping the training job")
        runner.send_signal(signal.SIGTERM)

    def log(self, job: str) -> list[str]:
        lines = []
        for stream in sorted((self.root / "logs" / job).glob("*.jsonl")):
            lines += [json.loads(line)["message"] for line in stream.read_text().splitlines()]
        return lines

    def runner_log(self, job: str) -> str:
        return (self.root / "jobs" / job / "runner.log").read_text()

    def wait_for_line(self, job: str, text: str, times: int = 1) -> None:
        self.wait_until(lambda: "\n".join(self.log(job)).count(text) >= times, f"{text!r} in {self.log(job)}")

    @staticmethod
    def wait_until(condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.02)

    @staticmethod
    def is_running(pid: int) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    @staticmethod
    def statuses(document: dict[str, Any]) -> list[str]:
        return [transition["Status"] for transition in document["SecondaryStatusTransitions"]]

    @staticmethod
    def channel(name: str, uri: str, data_type: str = "S3Prefix", **more: str) -> dict[str, Any]:
        source = {"S3DataType": data_type, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
        return {"ChannelName": name, "DataSource": {"S3DataSource": source}, **more}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with contextlib.closing(Site(tmp_path / "local")) as made:
        yield made


@pytest.fixture(scope="session")
def make_site() -> Callable[[Path], Site]:
    return Site
