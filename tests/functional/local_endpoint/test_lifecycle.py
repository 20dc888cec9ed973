"""The process that is the endpoint: started, killed, restarted, reset."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LocalEndpointError
from launcher.local import lifecycle
from launcher.local.jobs import JobBook, RunnerId
from launcher.local.processes import find_processes_with, send_signal, wait_for_end
from launcher.local.settings import Settings, load_settings

BUCKET = "bucket"
DEADLINE_S = 40.0
FOR_EVER = "trap 'exit 0' TERM; echo started; while :; do sleep 0.05; done"


def kill(own: Any, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    own.poll(lifecycle.find_endpoint, lambda endpoint: endpoint is None)


def find_runner(own: Any, name: str) -> RunnerId:
    book = JobBook(lifecycle.local_root() / "jobs.sqlite")
    try:
        found: RunnerId = own.poll(lambda: book.runner(name), lambda runner: runner is not None)
        return found
    finally:
        book.close()


def restart(own: Any) -> None:
    """At the same address, so that clients go on."""
    assert lifecycle.ensure_endpoint().url == own.url


def test_two_commands_at_once_start_one_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path))
    script = "from launcher.local.lifecycle import ensure_endpoint; print(ensure_endpoint().pid)"
    commands = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {command.communicate()[0] for command in commands}
    assert len(pids) == 1
    endpoint = lifecycle.find_endpoint()
    assert endpoint
    assert pids == {f"{endpoint.pid}\n"}
    assert lifecycle.stop_endpoint()
    assert not lifecycle.stop_endpoint()
    assert lifecycle.find_endpoint() is None
    lifecycle.reset()
    assert list(tmp_path.iterdir()) == [tmp_path / "local.lock"]


def test_a_job_survives_the_kill_of_the_endpoint(own: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    own.create("survivor", f"echo started; until [ -e {gate} ]; do sleep 0.05; done; echo ended")
    own.create("queued", "echo ran")
    own.wait_for_line("survivor", "started")
    runner = find_runner(own, "survivor")
    kill(own, lifecycle.ensure_endpoint().pid)
    restart(own)
    assert own.describe("survivor")["TrainingJobStatus"] == "InProgress"
    assert own.wait("queued", "Pending")
    assert find_runner(own, "survivor") == runner
    gate.touch()
    assert own.wait("survivor", "Completed", "Failed")["TrainingJobStatus"] == "Completed"
    assert own.wait("queued", "Completed", "Failed")["TrainingJobStatus"] == "Completed"
    assert own.read_lines("survivor").count("started") == 1


def test_a_job_that_ends_while_no_endpoint_runs_has_its_result(own: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    own.create("alone", f"echo started; until [ -e {gate} ]; do sleep 0.05; done")
    own.create("next", "echo ran")
    own.wait_for_line("alone", "started")
    runner = find_runner(own, "alone")
    lifecycle.stop_endpoint()
    gate.touch()
    assert wait_for_end(runner, DEADLINE_S)
    restart(own)
    assert own.describe("alone")["TrainingJobStatus"] == "Completed"
    assert own.wait("next", "Completed", "Failed")["TrainingJobStatus"] == "Completed"


def test_a_job_whose_runner_is_killed_fails_with_a_sentence(own: Any) -> None:
    own.create("bereft", FOR_EVER)
    own.create("heir", "echo ran")
    own.wait_for_line("bereft", "started")
    runner = find_runner(own, "bereft")
    assert send_signal(runner, signal.SIGKILL)
    job = own.wait("bereft", "Failed")
    assert f"the local runner (pid {runner.pid}) ended without a result: " in job["FailureReason"]
    assert job["FailureReason"].startswith("InternalServerError: ")
    assert "Submit again" in job["FailureReason"]
    own.wait("heir", "Completed")
    folder = lifecycle.local_root() / "jobs" / "bereft"
    assert find_processes_with("SAGEMAKER_BASE_DIR", f"{folder}/") == []
    assert not (folder / "opt").exists()


def test_a_job_fails_when_endpoint_and_runner_are_killed(own: Any) -> None:
    own.create("lost", FOR_EVER)
    own.wait_for_line("lost", "started")
    runner = find_runner(own, "lost")
    kill(own, lifecycle.ensure_endpoint().pid)
    assert send_signal(runner, signal.SIGKILL)
    restart(own)
    job = own.describe("lost")
    assert job["TrainingJobStatus"] == "Failed"
    assert "ended without a result" in job["FailureReason"]
    folder = lifecycle.local_root() / "jobs" / "lost"
    assert find_processes_with("SAGEMAKER_BASE_DIR", f"{folder}/") == []


def test_a_stop_asked_of_a_killed_endpoint_is_not_lost(own: Any) -> None:
    own.create("asked", FOR_EVER)
    own.create("behind", FOR_EVER)
    own.wait_for_line("asked", "started")
    own.wait("behind", "Pending")
    kill(own, lifecycle.ensure_endpoint().pid)
    book = JobBook(lifecycle.local_root() / "jobs.sqlite")
    book.ask("asked", "stop")  # as far as the endpoint came
    book.ask("behind", "stop")
    book.close()
    restart(own)
    assert own.wait("asked", "Stopped", "Failed")["TrainingJobStatus"] == "Stopped"
    assert own.wait("behind", "Stopped", "Failed")["TrainingJobStatus"] == "Stopped"


def test_another_program_on_the_old_port_is_not_taken_for_the_endpoint(
    own: Any, make_client: Callable[[str], Any]
) -> None:
    endpoint = lifecycle.ensure_endpoint()
    kill(own, endpoint.pid)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", endpoint.port))
        taken.listen()
        assert lifecycle.find_endpoint() is None
        moved = lifecycle.ensure_endpoint()
    assert moved.port != endpoint.port
    assert make_client(moved.url).service("s3").list_buckets()["Buckets"][0]["Name"] == BUCKET


def test_a_port_that_is_set_and_taken_is_an_error_that_says_so(
    own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAUNCHER_LOCAL_PORT", str(own.address[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_HOME", str(tmp_path / "second"))
        with pytest.raises(LocalEndpointError, match="Address already in use") as caught:
            lifecycle.ensure_endpoint()
        assert "endpoint.log" in caught.value.hint


def test_settings_come_from_the_environment_and_senseless_ones_are_refused() -> None:
    assert load_settings({}) == Settings()
    given = {"LAUNCHER_LOCAL_JOBS": "2", "LAUNCHER_LOCAL_GRACE_S": "0.5", "LAUNCHER_LOCAL_PORT": "8080"}
    assert load_settings(given) == Settings(jobs_at_once=2, grace_s=0.5, port=8080)
    for name, text in [
        ("JOBS", "0"),
        ("JOBS", "many"),
        ("GRACE_S", "-1"),
        ("GRACE_S", "nan"),
        ("PORT", "1.5"),
    ]:
        with pytest.raises(LocalEndpointError, match=f"LAUNCHER_LOCAL_{name}='{text}'"):
            load_settings({f"LAUNCHER_LOCAL_{name}": text})


def test_status_tells_what_people_ask_for(own: Any) -> None:
    own.create("done")
    own.wait("done", "Completed")
    status = lifecycle.find_status()
    assert status
    assert status.jobs == {"Completed": 1}
    assert 0 < status.uptime_s < 600
    assert 10_000_000 < status.memory_bytes < 150_000_000
    assert status.disk_bytes > 0
    assert not status.is_moto_loaded
    own.service("sts").get_caller_identity()
    status = lifecycle.find_status()
    assert status
    assert status.is_moto_loaded


def test_the_endpoint_keeps_to_itself_what_the_command_had(own: Any) -> None:
    """A profile of the user's must not lead a job or a moto backend to a real account."""
    environment = Path(f"/proc/{lifecycle.ensure_endpoint().pid}/environ").read_bytes().split(b"\0")
    assert not [entry for entry in environment if entry.startswith(b"AWS_")]
    assert [entry for entry in environment if entry.startswith(b"NO_PROXY=") and b"127.0.0.1" in entry]


def test_a_reset_spares_a_live_job_unless_forced(own: Any) -> None:
    own.create("alive", FOR_EVER)
    own.wait_for_line("alive", "started")
    runner = find_runner(own, "alive")
    with pytest.raises(LocalEndpointError, match="alive would be lost"):
        lifecycle.reset()
    assert lifecycle.find_endpoint()
    lifecycle.reset(force=True)
    assert not runner.is_alive()
    assert find_processes_with("SAGEMAKER_BASE_DIR", f"{lifecycle.local_root()}/") == []
    assert not lifecycle.local_root().exists()


def test_shutdown_answers_the_request_that_asks_for_it(own: Any) -> None:
    endpoint = lifecycle.ensure_endpoint()
    assert own.send("POST", "/_local/shutdown", b"")[0] == 200
    own.poll(lifecycle.find_endpoint, lambda found: found is None)
    log = (endpoint.root / "endpoint.log").read_text()
    assert "Traceback" not in log
    assert "runners go on" in log
