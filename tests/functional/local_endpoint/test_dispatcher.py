"""The dispatcher with runners of the test's own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.local.server import LocalServer
from launcher.local.settings import Settings


@pytest.fixture
def serve(tmp_path: Path, make_client: Callable[[str], Any]) -> Iterator[Callable[[str], Any]]:
    """An endpoint inside this process, whose runners are small scripts."""
    servers = []

    def start(script: str) -> Any:
        root = tmp_path / "root"
        prelude = "import sys, os, signal, pathlib; from launcher.local.jobs import *; name = sys.argv[2]\n"
        prelude += "book = JobBook(pathlib.Path(sys.argv[1]) / 'jobs.sqlite')\n"

        def command(job: str) -> list[str]:
            return [sys.executable, "-c", prelude + script, str(root), job]

        servers.append(LocalServer(root, Settings(), runner_command=command))
        servers[-1].start()
        return make_client(servers[-1].url)

    yield start
    for server in servers:
        server.close()


def test_a_runner_that_dies_at_once_has_its_last_line_in_the_reason(serve: Callable[[str], Any]) -> None:
    client = serve("print('noise'); sys.exit('the last word')")
    client.create("short")
    job = client.wait("short", "Failed")
    assert "ended without a result: the last word. Its log is " in job["FailureReason"]


def test_a_runner_is_not_signalled_before_it_can_take_a_signal(serve: Callable[[str], Any]) -> None:
    client = serve(
        "import time\n"
        "book.transition(name, 'InProgress', 'Starting', 'deaf')\n"
        "while book.asked(name) is None: time.sleep(0.01)\n"
        "book.transition(name, 'Stopped', 'Stopped', 'read it')\n"
    )
    client.create("deaf")
    client.poll(
        lambda: client.describe("deaf"),
        lambda job: job["SecondaryStatusTransitions"][-1]["StatusMessage"] == "deaf",
    )
    client.sagemaker.stop_training_job(TrainingJobName="deaf")
    job = client.wait("deaf", "Stopped", "Failed")
    assert job["SecondaryStatusTransitions"][-1]["StatusMessage"] == "read it"


def test_many_clients_at_once_lose_nothing(serve: Callable[[str], Any], make_client: Callable[[str], Any]) -> None:
    client = serve("book.transition(name, 'Completed', 'Completed', '')")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = make_client(client.url)
            for step in range(5):
                mine.create(f"job-{number}-{step}")
                mine.describe(f"job-{number}-{step}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    client.poll(lambda: client.list_names(StatusEquals="Completed", MaxResults=100), lambda names: len(names) == 20)
