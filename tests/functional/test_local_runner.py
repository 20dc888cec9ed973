"""The runner as the endpoint starts it: a process, a book of jobs, objects on disk; no endpoint is there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import resource
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
        wait_until(lambda: "\n".join(self.log(job)).count(text) >= times, f"{text!r} in {self.log(job)}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def statuses(document: dict[str, Any]) -> list[str]:
    return [transition["Status"] for transition in document["SecondaryStatusTransitions"]]


def channel(name: str, uri: str, data_type: str = "S3Prefix", **more: str) -> dict[str, Any]:
    source = {"S3DataType": data_type, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, **more}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with contextlib.closing(Site(tmp_path / "local")) as made:
        yield made


# One job that tells what it was given


@dataclasses.dataclass
class Reported:
    site: Site
    document: dict[str, Any]
    report: dict[str, Any]
    before: dict[str, Any]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reported]:
    site = Site(tmp_path_factory.mktemp("reported") / "local")
    for key in (
        "train/a.jsonl",
        "train/deep/b.jsonl",
        "train/",
        "eval.jsonl",
        "eval-old.jsonl",
        "m/x",
        "m/y/z",
    ):
        site.put(f"data/{key}", key)
    manifest = [{"prefix": f"s3://{BUCKET}/data/m/"}, "x", "y/z"]
    site.put("data/current.manifest", json.dumps(manifest))
    job = site.add_training(
        "report",
        "report.py",
        files={"requirements.txt": "pytest>=1\n"},
        HyperParameters={"lora_r": "16", "text": '"a b"', "bf16": "true"},
        Environment={
            "GREETING": "hello",
            "SAGEMAKER_BASE_DIR": "/nowhere",
            "PIP_NO_INDEX": "0",
            "TZ": "UTC+7",
        },
        InputDataConfig=[
            channel("train", f"s3://{BUCKET}/data/train/", ContentType="application/jsonlines"),
            channel("slash", f"s3://{BUCKET}/data/train"),
            channel("eval", f"s3://{BUCKET}/data/eval", InputMode="FastFile"),
            channel("file", f"s3://{BUCKET}/data/eval.jsonl"),
            channel("listed", f"s3://{BUCKET}/data/current.manifest", "ManifestFile"),
        ],
    )
    before = site.book.get(job)
    private = {"MY_SECRET": "s3cr3t", "AWS_PROFILE": "mine", "AWS_SECRET_ACCESS_KEY": "real", "TZ": "UTC"}
    document = site.run(job, env=os.environ | private)
    assert document["TrainingJobStatus"] == "Completed", (document, site.log(job), site.runner_log(job))
    report = json.loads(site.read_archive("output/report/output/model.tar.gz")["report.json"])
    yield Reported(site, document, report, before)
    site.close()


def test_job_completes_with_artifacts_and_aws_fields(reported: Reported) -> None:
    document = reported.document
    assert statuses(document) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    uri = document["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/output/report/output/model.tar.gz"
    side = reported.site.read_archive("output/report/output/output.tar.gz")
    assert side == {"notes.txt": "a side result"}
    assert "FailureReason" not in document
    assert reported.report["environment"]["AWS_ENDPOINT_URL"] == NO_ENDPOINT
    assert "127.0.0.1" in reported.report["environment"]["NO_PROXY"].split(",")


def test_network_isolation_takes_the_hub_away(site: Site) -> None:
    site.run(site.add_shell("isolated", "echo offline: $HF_HUB_OFFLINE", EnableNetworkIsolation=True))
    assert "offline: 1" in site.log("isolated")


def test_arguments_without_an_entrypoint_go_to_the_images_own(site: Site) -> None:
    algorithm = {"ContainerArguments": ["echo", "one", "'two  three'"]}
    site.run(site.add("argued", AlgorithmSpecification=algorithm))
    assert "one two  three" in site.log("argued")


def test_times_are_those_of_the_run(reported: Reported) -> None:
    document = reported.document
    seconds = document["TrainingEndTime"] - document["TrainingStartTime"]
    assert 0 < seconds <= document["TrainingTimeInSeconds"] < seconds + 1
    assert document["BillableTimeInSeconds"] == document["TrainingTimeInSeconds"]


def test_stages_are_measured(reported: Reported) -> None:
    stages = json.loads((reported.site.root / "jobs/report/stages.json").read_text())
    assert [stage["stage"] for stage in stages] == ["Starting", "Downloading", "Training", "Uploading"]
    assert stages[2]["seconds"] > 0.5
    assert f"Training took {stages[2]['seconds']} s" in reported.site.runner_log("report")


def test_hyperparameters_become_arguments(reported: Reported) -> None:
    assert reported.report["arguments"] == ["--bf16", "True", "--lora_r", "16", "--text", "a b"]


def test_describe_keeps_the_address_of_the_code(reported: Reported) -> None:
    assert reported.document["HyperParameters"] == reported.before["HyperParameters"]
    inside = reported.report["config"]["hyperparameters.json"]["sagemaker_submit_directory"]
    assert inside.endswith('/opt/sourcedir.tar.gz"') and "s3://" not in inside


def test_request_environment_wins_but_not_over_what_the_toolkit_needs(reported: Reported) -> None:
    environment = reported.report["environment"]
    assert environment["GREETING"] == "hello"
    assert environment["TZ"] == "UTC+7"
    assert environment["SAGEMAKER_BASE_DIR"].endswith("/jobs/report/opt/ml")
    assert environment["PIP_NO_INDEX"] == "1"
    assert environment["TRAINING_JOB_NAME"] == "report"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_users_environment_does_not_leak(reported: Reported) -> None:
    environment = reported.report["environment"]
    assert "MY_SECRET" not in environment
    assert "AWS_PROFILE" not in environment
    assert environment["AWS_SECRET_ACCESS_KEY"] == "local"
    assert "s3cr3t" not in json.dumps(environment)
    assert "HF_HUB_OFFLINE" not in environment


def test_temporary_folder_leaves_room_for_a_sockets_path(reported: Reported) -> None:
    temporary = reported.report["environment"]["TMPDIR"]
    assert len(temporary) + len("/pymp-abcdefgh/listener-abcdefgh") < 108
    assert not os.path.lexists(temporary)


def test_links_of_killed_runners_are_removed(site: Site, tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    (temporary / "launcher-job-dead").symlink_to(tmp_path / "gone")
    (temporary / "launcher-job-alive").symlink_to(tmp_path)
    job = site.add_shell("tidy", "echo $TMPDIR; [ -d $TMPDIR ]")
    assert site.run(job, env=os.environ | {"TMPDIR": str(temporary)})["TrainingJobStatus"] == "Completed"
    assert any(line.startswith(str(temporary)) for line in site.log(job))
    assert [path.name for path in temporary.iterdir()] == ["launcher-job-alive"]


def test_channels_hold_what_s3_has_under_their_names(reported: Reported) -> None:
    channels = reported.report["channels"]
    assert channels == {
        "train/a.jsonl": "train/a.jsonl",
        "train/deep/b.jsonl": "train/deep/b.jsonl",
        "slash/a.jsonl": "train/a.jsonl",
        "slash/deep/b.jsonl": "train/deep/b.jsonl",
        "eval/eval.jsonl": "eval.jsonl",
        "eval/eval-old.jsonl": "eval-old.jsonl",
        "file/eval.jsonl": "eval.jsonl",
        "listed/x": "m/x",
        "listed/y/z": "m/y/z",
    }


def test_container_is_told_its_channels_and_host(reported: Reported) -> None:
    config = reported.report["config"]
    assert config["inputdataconfig.json"]["train"]["ContentType"] == "application/jsonlines"
    assert config["inputdataconfig.json"]["eval"]["TrainingInputMode"] == "File"
    assert config["resourceconfig.json"]["current_host"] == "algo-1"
    assert config["resourceconfig.json"]["current_instance_type"] == "ml.g5.xlarge"


def test_log_has_the_jobs_lines_and_says_what_is_different_here(reported: Reported) -> None:
    lines = reported.site.log("report")
    assert lines[0].startswith("[launcher] This machine is not the image 2.8.0-transformers4.56.2")
    assert any("eval is FastFile" in line and line.startswith("[launcher]") for line in lines)
    assert "100%" in lines and not any("50%" in line for line in lines)
    assert "caf\N{REPLACEMENT CHARACTER}" in lines
    assert " " in lines and "" not in lines


def test_last_value_of_each_metric_is_final(reported: Reported) -> None:
    (metric,) = reported.document["FinalMetricDataList"]
    assert (metric["MetricName"], metric["Value"]) == ("loss", 0.25)


# Failures of train.py


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three jobs at once, each with a runner of its own, in one state folder."""
    site = Site(tmp_path_factory.mktemp("failed") / "local")
    ways = ("raise", "exit", "kill")
    jobs = [site.add_training(how, "fails.py", HyperParameters={"how": how}) for how in ways]
    for job, runner in [(job, site.start(job)) for job in jobs]:
        site.finish(job, runner)
    yield site
    site.close()


@pytest.mark.parametrize(
    ("how", "words"),
    [("raise", "the learning rate is a banana"), ("exit", "ExitCode 7"), ("kill", "ExitCode -9")],
)
def test_failure_reason_tells_what_train_py_did(failed: Site, how: str, words: str) -> None:
    document = failed.book.get(how)
    assert document["TrainingJobStatus"] == "Failed"
    reason = document["FailureReason"]
    assert reason.startswith("AlgorithmError: ExecuteUserScriptError:") and len(reason) <= 1024
    assert words in reason and reason.endswith(", exit code: 1")
    assert "ModelArtifacts" not in document
    assert words in failed.read_archive(f"output/{how}/output/output.tar.gz")["failure"]


def test_own_failure_file_comes_first_and_is_cut(site: Site) -> None:
    script = 'cd $SAGEMAKER_BASE_DIR; printf "%01500d" 7 > output/failure; echo kept > model/a; exit 3'
    document = site.run(site.add_shell("long", script))
    assert len(document["FailureReason"]) == 1024
    assert document["FailureReason"].startswith("AlgorithmError: 0000")
    assert document["FailureReason"].endswith(", exit code: 3")
    assert site.read_archive("output/long/output/model.tar.gz") == {"a": "kept\n"}


def test_entry_process_killed_by_9_is_137(site: Site) -> None:
    document = site.run(site.add_shell("killed", "echo before; echo 'MemoryError: much'; echo after; kill -9 $$"))
    assert document["FailureReason"] == "AlgorithmError: MemoryError: much, exit code: 137"


def test_unknown_entrypoint_is_a_client_error(site: Site) -> None:
    job = site.add("lost", AlgorithmSpecification={"ContainerEntrypoint": ["/no/such/program"]})
    assert "ClientError: the container's entrypoint '/no/such/program'" in site.run(job)["FailureReason"]


# Stopping


def test_stop_reaches_train_py_and_keeps_its_model(site: Site) -> None:
    job = site.add_training("stopped", "waits_for_term.py")
    runner = site.start(job)
    site.wait_for_line(job, "ready")
    site.ask(job, "stop", runner)
    document = site.finish(job, runner)
    assert (document["TrainingJobStatus"], document["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert statuses(document)[-3:] == ["Stopping", "Uploading", "Stopped"]
    assert site.read_archive("output/stopped/output/model.tar.gz") == {"adapter.txt": "saved on SIGTERM"}


def test_without_the_shim_sigterm_does_not_reach_train_py(site: Site) -> None:
    job = site.add_training("deaf", "waits_for_term.py", entrypoint=())
    runner = site.start(job, grace_s=0.5)
    site.wait_for_line(job, "ready")
    site.ask(job, "stop", runner)
    document = site.finish(job, runner)
    assert document["SecondaryStatus"] == "Stopped"
    assert "[launcher] SIGKILL: the job did not end in time." in site.log(job)
    assert site.keys("output/") == []
    assert "ModelArtifacts" not in document


def test_one_that_ignores_sigterm_is_killed_with_all_its_descendants(site: Site) -> None:
    script = "trap '' TERM; setsid sleep 300 & echo pid $!; echo ready; while :; do sleep 300; done"
    job = site.add_shell("stubborn", script)
    runner = site.start(job, grace_s=0.3)
    site.wait_for_line(job, "ready")
    site.ask(job, "stop", runner)
    assert site.finish(job, runner)["TrainingJobStatus"] == "Stopped"
    (pid,) = (int(line.split()[1]) for line in site.log(job) if line.startswith("pid "))
    assert not is_running(pid)


def test_time_limit_stops_the_job_and_keeps_its_model(site: Site) -> None:
    script = "trap 'echo saved > $SAGEMAKER_BASE_DIR/model/a; exit 0' TERM; while :; do sleep 0.05; done"
    job = site.add_shell("slow", script, StoppingCondition={"MaxRuntimeInSeconds": 1})
    document = site.run(job)
    assert (document["TrainingJobStatus"], document["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert "FailureReason" not in document
    assert site.read_archive("output/slow/output/model.tar.gz") == {"a": "saved\n"}


def test_stop_before_the_start_runs_nothing(site: Site) -> None:
    job = site.add_shell("early", "echo never")
    site.book.ask(job, "stop")
    document = site.run(job)
    assert document["TrainingJobStatus"] == "Stopped"
    assert "never" not in site.log(job)


def test_sigterm_without_a_wish_changes_nothing(site: Site) -> None:
    job = site.add_shell("calm", "echo ready; sleep 0.5; echo end")
    runner = site.start(job)
    site.wait_for_line(job, "ready")
    runner.send_signal(signal.SIGTERM)
    assert site.finish(job, runner)["TrainingJobStatus"] == "Completed"


def test_second_runner_of_a_job_leaves_it_alone(site: Site) -> None:
    job = site.add_shell("once", "echo started; sleep 1")
    runner = site.start(job)
    site.wait_for_line(job, "started")
    command = [
        sys.executable,
        "-m",
        "launcher.local.runner",
        "--root",
        str(site.root),
        "--endpoint-url",
        NO_ENDPOINT,
    ]
    second = subprocess.run([*command, job], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert "has another runner" in second.stdout
    assert site.finish(job, runner)["TrainingJobStatus"] == "Completed"
    assert site.log(job).count("started") == 1


# Output


def test_descendant_that_holds_the_output_open_does_not_hold_up_the_end(site: Site) -> None:
    job = site.add_shell("daemon", "setsid sleep 300 & echo pid $!")
    began = time.monotonic()
    assert site.run(job)["TrainingJobStatus"] == "Completed"
    assert time.monotonic() - began < 30
    (pid,) = (int(line.split()[1]) for line in site.log(job) if line.startswith("pid "))
    assert not is_running(pid)


def test_job_that_closes_its_output_early_is_waited_for(site: Site) -> None:
    script = "exec >/dev/null 2>&1; sleep 0.5; echo kept > $SAGEMAKER_BASE_DIR/model/a"
    assert site.run(site.add_shell("silent", script))["TrainingJobStatus"] == "Completed"
    assert site.keys("output/silent") == ["output/silent/output/model.tar.gz"]


# Checkpoints


def test_checkpoints_follow_the_folder_while_the_job_runs(site: Site) -> None:
    site.put("checkpoints/run/old/state", "from the last job")
    script = (
        "cd $SAGEMAKER_BASE_DIR/checkpoints; cat old/state; echo; rm -r old; mkdir -p new tmp-next;"
        "echo 1 > new/state; echo half > tmp-next/state;"
        "until [ -e $SAGEMAKER_BASE_DIR/go ]; do sleep 0.05; done;"
        "echo 22 > new/state"
    )
    config = {"S3Uri": f"s3://{BUCKET}/checkpoints/run", "LocalPath": "/opt/ml/checkpoints"}
    job = site.add_shell("syncs", script, CheckpointConfig=config)
    runner = site.start(job)
    wait_until(lambda: site.keys("checkpoints/") == ["checkpoints/run/new/state"], "the first sync")
    assert site.book.get(job)["SecondaryStatus"] == "Training"
    (site.root / "jobs" / job / "opt/ml/go").touch()
    assert site.finish(job, runner)["TrainingJobStatus"] == "Completed"
    assert site.read("checkpoints/run/new/state") == b"22\n"
    assert site.keys("checkpoints/") == ["checkpoints/run/new/state"]
    assert "from the last job" in site.log(job)


def test_interrupted_job_goes_on_from_its_checkpoint(site: Site) -> None:
    job = site.add_training(
        "spot",
        "resumes.py",
        EnableManagedSpotTraining=True,
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/checkpoints/spot/"},
    )
    runner = site.start(job)
    site.wait_for_line(job, "ready")
    site.ask(job, "interrupt", runner)
    document = site.finish(job, runner)
    assert document["TrainingJobStatus"] == "Completed"
    first = ["Starting", "Downloading", "Training", "Interrupted"]
    assert statuses(document) == [*first, "Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert [line for line in site.log(job) if line.startswith("starting after")] == [
        "starting after step 0",
        "starting after step 1",
    ]
    assert site.read_archive("output/spot/output/model.tar.gz") == {"adapter.txt": "resumed after 1"}
    assert site.keys("checkpoints/") == [f"checkpoints/spot/checkpoint-{step}/state.txt" for step in (1, 2, 3)]
    assert document["BillableTimeInSeconds"] <= document["TrainingTimeInSeconds"]
    assert site.book.asked(job) is None


def test_checkpoint_path_outside_opt_ml_is_refused(site: Site) -> None:
    config = {"S3Uri": f"s3://{BUCKET}/checkpoints/", "LocalPath": "/opt/ml/../../etc"}
    reason = site.run(site.add_shell("outside", "echo never", CheckpointConfig=config))["FailureReason"]
    assert "CheckpointConfig.LocalPath" in reason


# Input that cannot be had


def test_channel_without_objects_fails_in_the_words_of_aws(site: Site) -> None:
    source = f"s3://{BUCKET}/data/nothing/"
    document = site.run(site.add_shell("empty", "echo never", InputDataConfig=[channel("train", source)]))
    assert document["TrainingJobStatus"] == "Failed"
    assert document["FailureReason"].startswith(
        f'ClientError: Data download failed:No S3 objects found under S3 URL "{source}"'
    )
    assert "never" not in site.log("empty")


@pytest.mark.parametrize("key", ["data/../../../escape", "data//etc/passwd", "data/a/../../../../escape"])
def test_key_that_would_leave_the_channel_is_refused(site: Site, key: str) -> None:
    site.put(key, "evil")
    job = site.add_shell("evil", "echo never", InputDataConfig=[channel("train", f"s3://{BUCKET}/data/")])
    reason = site.run(job)["FailureReason"]
    assert "does not stay inside the folder" in reason
    assert not list(site.root.rglob("escape"))


@pytest.mark.parametrize("manifest", ["{}", "[]", '["x"]', '[{"prefix": 1}]', "not json", '[{"prefix": "s3://b/"}, 3]'])
def test_malformed_manifest_is_refused(site: Site, manifest: str) -> None:
    site.put("data/list.manifest", manifest)
    source = channel("train", f"s3://{BUCKET}/data/list.manifest", "ManifestFile")
    reason = site.run(site.add_shell("malformed", "echo never", InputDataConfig=[source]))["FailureReason"]
    assert reason.startswith("ClientError: Data download failed:the manifest s3://")


def test_keys_that_cannot_be_files_side_by_side_are_refused(site: Site) -> None:
    site.put("data/a", "a file")
    site.put("data/a/b", "and a folder")
    job = site.add_shell("clash", "echo never", InputDataConfig=[channel("train", f"s3://{BUCKET}/data/")])
    assert "uses a part of its name as a file or a folder" in site.run(job)["FailureReason"]


def test_missing_code_is_a_client_error(site: Site) -> None:
    hyperparameters = {"sagemaker_submit_directory": f'"s3://{BUCKET}/no/sourcedir.tar.gz"'}
    reason = site.run(site.add_shell("codeless", "echo never", HyperParameters=hyperparameters))["FailureReason"]
    assert reason.startswith("ClientError: the code cannot be fetched")


@pytest.mark.parametrize("damage", [lambda data: b"text", lambda data: data[:-20], lambda data: data[:60]])
def test_damaged_code_is_a_client_error(site: Site, damage: Callable[[bytes], bytes]) -> None:
    hyperparameters = {"sagemaker_submit_directory": site.pack({"train.py": "pass\n" * 1000})}
    site.store.put(BUCKET, "source/sourcedir.tar.gz", io.BytesIO(damage(site.read("source/sourcedir.tar.gz"))))
    reason = site.run(site.add_shell("damaged", "echo never", HyperParameters=hyperparameters))["FailureReason"]
    assert reason.startswith("ClientError: the code in s3://") and "is not a tar.gz archive" in reason


def test_unmet_requirements_fail_before_anything_is_installed(site: Site) -> None:
    requirements = "# ours\nno-such-package-here>=2\n-r more.txt\n"
    files = {"requirements.txt": requirements, "more.txt": "pytest==0.1 ; python_version > '3'\npytest\n"}
    document = site.run(site.add_training("unmet", "report.py", files=files))
    reason = document["FailureReason"]
    assert reason.startswith("ClientError: the code has a requirements.txt")
    assert "no-such-package-here>=2 is not installed" in reason
    assert "pytest==0.1" in reason and reason.count("pytest") == 1
    assert "Training" not in statuses(document)


# Artifacts


def test_uncompressed_output_keeps_its_files(site: Site) -> None:
    script = "cd $SAGEMAKER_BASE_DIR; mkdir model/sub;echo a > model/a; echo b > model/sub/b; echo c > output/data/c"
    config = {"S3OutputPath": f"s3://{BUCKET}/output/", "CompressionType": "NONE"}
    document = site.run(site.add_shell("plain", script, OutputDataConfig=config))
    assert document["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/output/plain/output/model/"
    assert site.keys("output/") == [
        "output/plain/output/data/c",
        "output/plain/output/model/a",
        "output/plain/output/model/sub/b",
    ]


def test_bucket_that_is_gone_at_the_end_is_named(site: Site) -> None:
    config = {"S3OutputPath": "s3://other-bucket/output"}
    script = "echo a > $SAGEMAKER_BASE_DIR/model/a"
    reason = site.run(site.add_shell("homeless", script, OutputDataConfig=config))["FailureReason"]
    assert reason.startswith("ClientError: the results cannot be written to s3://other-bucket/output/homeless/")


# A full disk


def limit_file_size() -> None:
    """The nearest thing to a full disk that needs no rights: writing past it fails with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


@pytest.mark.parametrize(
    ("stage", "script"),
    [
        ("Downloading", "echo never"),
        ("Training", "yes a line of the log | head -n 100000; sleep 300"),
        ("Uploading", "for i in 1 2 3; do head -c 900000 /dev/urandom > model/$i; done"),
    ],
)
def test_full_disk_is_said_and_leaves_nothing_behind(site: Site, stage: str, script: str) -> None:
    channels = []
    if stage == "Downloading":
        site.store.put(BUCKET, "data/big", io.BytesIO(bytes(3 << 20)))
        channels = [channel("train", f"s3://{BUCKET}/data/")]
    job = site.add_shell("full", f"cd $SAGEMAKER_BASE_DIR; {script}", InputDataConfig=channels)
    document = site.run(job, preexec_fn=limit_file_size)
    assert document["TrainingJobStatus"] == "Failed"
    reason = document["FailureReason"]
    assert reason.startswith("InternalServerError: no disk space left") and f"stage {stage}" in reason
    assert "Make room" in reason
    assert site.keys("output/") == []


def test_disk_that_is_really_full(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(root)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own takes the right to mount")
    try:
        site = Site(root / "local")
        site.store.put(BUCKET, "data/big", io.BytesIO(bytes(4 << 20)))
        job = site.add_shell("full", "echo never", InputDataConfig=[channel("train", f"s3://{BUCKET}/data/")])
        reason = site.run(job)["FailureReason"]
        assert os.strerror(errno.ENOSPC) in reason and "Make room" in reason
        site.close()
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


# More than one process


def test_torchrun_starts_the_processes_that_are_asked_for(site: Site) -> None:
    job = site.add_training(
        "pair",
        "two_processes.py",
        HyperParameters={
            "sagemaker_torch_distributed_enabled": "true",
            "sagemaker_mpi_num_of_processes_per_host": "2",
        },
    )
    document = site.run(job)
    assert document["TrainingJobStatus"] == "Completed", site.log(job)
    assert site.read_archive("output/pair/output/model.tar.gz") == {"sum.txt": "2 processes, sum 3"}
    assert any("torchrun starts one process for each GPU" in line for line in site.log(job))


def test_a_job_without_a_network_gets_its_code_from_a_channel(site: Site) -> None:
    bundle = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/source/sourcedir.tar.gz"}}
    job = site.add_training(
        "isolated",
        "report.py",
        files={"train.py": "print('the code came')"},
        EnableNetworkIsolation=True,
        InputDataConfig=[{"ChannelName": "code", "DataSource": bundle}],
        HyperParameters={"sagemaker_submit_directory": '"/opt/ml/input/data/code/sourcedir.tar.gz"'},
    )
    document = site.run(job)
    assert document["TrainingJobStatus"] == "Completed", site.log(job)
    assert "the code came" in site.log(job)
