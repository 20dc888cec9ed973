"""How a job ends: by its own failure, by a stop, by its time limit; and when its output does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NO_ENDPOINT = "http://127.0.0.1:9"
DEADLINE_S = 60.0


# Failures of train.py


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, make_site: Callable[[Path], Any]) -> Iterator[Any]:
    """Three jobs at once, each with a runner of its own, in one state folder."""
    site = make_site(tmp_path_factory.mktemp("failed") / "local")
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
def test_failure_reason_tells_what_train_py_did(failed: Any, how: str, words: str) -> None:
    document = failed.book.get(how)
    assert document["TrainingJobStatus"] == "Failed"
    reason = document["FailureReason"]
    assert reason.startswith("AlgorithmError: ExecuteUserScriptError:") and len(reason) <= 1024
    assert words in reason and reason.endswith(", exit code: 1")
    assert "ModelArtifacts" not in document
    assert words in failed.read_archive(f"output/{how}/output/output.tar.gz")["failure"]


def test_own_failure_file_comes_first_and_is_cut(site: Any) -> None:
    script = 'cd $SAGEMAKER_BASE_DIR; printf "%01500d" 7 > output/failure; echo kept > model/a; exit 3'
    document = site.run(site.add_shell("long", script))
    assert len(document["FailureReason"]) == 1024
    assert document["FailureReason"].startswith("AlgorithmError: 0000")
    assert document["FailureReason"].endswith(", exit code: 3")
    assert site.read_archive("output/long/output/model.tar.gz") == {"a": "kept\n"}


def test_entry_process_killed_by_9_is_137(site: Any) -> None:
    document = site.run(site.add_shell("killed", "echo before; echo 'MemoryError: much'; echo after; kill -9 $$"))
    assert document["FailureReason"] == "AlgorithmError: MemoryError: much, exit code: 137"


def test_unknown_entrypoint_is_a_client_error(site: Any) -> None:
    job = site.add("lost", AlgorithmSpecification={"ContainerEntrypoint": ["/no/such/program"]})
    assert "ClientError: the container's entrypoint '/no/such/program'" in site.run(job)["FailureReason"]


# Stopping


def test_stop_reaches_train_py_and_keeps_its_model(site: Any) -> None:
    job = site.add_training("stopped", "waits_for_term.py")
    runner = site.start(job)
    site.wait_for_line(job, "ready")
    site.ask(job, "stop", runner)
    document = site.finish(job, runner)
    assert (document["TrainingJobStatus"], document["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert site.statuses(document)[-3:] == ["Stopping", "Uploading", "Stopped"]
    assert site.read_archive("output/stopped/output/model.tar.gz") == {"adapter.txt": "saved on SIGTERM"}


def test_without_the_shim_sigterm_does_not_reach_train_py(site: Any) -> None:
    job = site.add_training("deaf", "waits_for_term.py", entrypoint=())
    runner = site.start(job, grace_s=0.5)
    site.wait_for_line(job, "ready")
    site.ask(job, "stop", runner)
    document = site.finish(job, runner)
    assert document["SecondaryStatus"] == "Stopped"
    assert "[launcher] SIGKILL: the job did not end in time." in site.log(job)
    assert site.keys("output/") == []
    assert "ModelArtifacts" not in document


def test_one_that_ignores_sigterm_is_killed_with_all_its_descendants(site: Any) -> None:
    script = "trap '' TERM; setsid sleep 300 & echo pid $!; echo ready; while :; do sleep 300; done"
    job = site.add_shell("stubborn", script)
    runner = site.start(job, grace_s=0.3)
    site.wait_for_line(job, "ready")
    site.ask(job, "stop", runner)
    assert site.finish(job, runner)["TrainingJobStatus"] == "Stopped"
    (pid,) = (int(line.split()[1]) for line in site.log(job) if line.startswith("pid "))
    assert not site.is_running(pid)


def test_time_limit_stops_the_job_and_keeps_its_model(site: Any) -> None:
    script = "trap 'echo saved > $SAGEMAKER_BASE_DIR/model/a; exit 0' TERM; while :; do sleep 0.05; done"
    job = site.add_shell("slow", script, StoppingCondition={"MaxRuntimeInSeconds": 1})
    document = site.run(job)
    assert (document["TrainingJobStatus"], document["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert "FailureReason" not in document
    assert site.read_archive("output/slow/output/model.tar.gz") == {"a": "saved\n"}


def test_stop_before_the_start_runs_nothing(site: Any) -> None:
    job = site.add_shell("early", "echo never")
    site.book.ask(job, "stop")
    document = site.run(job)
    assert document["TrainingJobStatus"] == "Stopped"
    assert "never" not in site.log(job)


def test_sigterm_without_a_wish_changes_nothing(site: Any) -> None:
    job = site.add_shell("calm", "echo ready; sleep 0.5; echo end")
    runner = site.start(job)
    site.wait_for_line(job, "ready")
    runner.send_signal(signal.SIGTERM)
    assert site.finish(job, runner)["TrainingJobStatus"] == "Completed"


def test_second_runner_of_a_job_leaves_it_alone(site: Any) -> None:
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


def test_descendant_that_holds_the_output_open_does_not_hold_up_the_end(site: Any) -> None:
    job = site.add_shell("daemon", "setsid sleep 300 & echo pid $!")
    assert site.run(job)["TrainingJobStatus"] == "Completed"
    (pid,) = (int(line.split()[1]) for line in site.log(job) if line.startswith("pid "))
    assert not site.is_running(pid)


def test_job_that_closes_its_output_early_is_waited_for(site: Any) -> None:
    script = "exec >/dev/null 2>&1; sleep 0.5; echo kept > $SAGEMAKER_BASE_DIR/model/a"
    assert site.run(site.add_shell("silent", script))["TrainingJobStatus"] == "Completed"
    assert site.keys("output/silent") == ["output/silent/output/model.tar.gz"]
