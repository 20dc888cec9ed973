"""The book of jobs, and telling processes apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.local.jobs import JobBook, NameTaken, RunnerId, UnknownJob
from launcher.local.processes import (
    ProcessId,
    find_process,
    find_processes_with,
    identify_child,
    minds_signal,
    open_pidfd,
    send_signal,
    wait_for_end,
)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[JobBook]:
    book = JobBook(tmp_path / "new" / "jobs.sqlite")
    yield book
    book.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def enter(book: JobBook, name: str, **fields: Any) -> None:
    book.add({"TrainingJobName": name, "TrainingJobStatus": "InProgress", "SecondaryStatus": "Starting", **fields})


def list_steps(document: dict[str, Any]) -> list[str]:
    return [step["Status"] for step in document["SecondaryStatusTransitions"]]


def test_a_job_is_found_again_by_another_process(book: JobBook, tmp_path: Path) -> None:
    enter(book, "a", HyperParameters={"lr": "ä"})
    script = (
        "import sys; from pathlib import Path; from launcher.local.jobs import JobBook;"
        "print(ascii(JobBook(Path(sys.argv[1])).get('a')['HyperParameters']['lr']))"
    )
    command = [sys.executable, "-c", script, tmp_path / "new" / "jobs.sqlite"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == r"'\xe4'"


def test_a_name_is_taken_once_and_for_ever(book: JobBook) -> None:
    enter(book, "a")
    with pytest.raises(NameTaken):
        enter(book, "a")
    book.delete("a")
    with pytest.raises(UnknownJob):
        book.get("a")
    with pytest.raises(NameTaken):
        enter(book, "a")
    assert book.all() == []


@pytest.mark.parametrize("act", ["get", "asked", "runner", "tags", "clear_ask", "delete", "request", "update"])
def test_every_access_to_an_unknown_job_says_so(book: JobBook, act: str) -> None:
    with pytest.raises(UnknownJob):
        getattr(book, act)("nobody")


def test_jobs_come_oldest_first(book: JobBook) -> None:
    for name in "cab":
        enter(book, name)
    book.transition("a", "Completed", "Completed", "done")
    assert [job["TrainingJobName"] for job in book.all()] == ["c", "a", "b"]
    assert [job["TrainingJobName"] for job in book.unfinished()] == ["c", "b"]


def test_a_transition_closes_the_step_before_and_opens_the_next(book: JobBook) -> None:
    enter(book, "a")
    book.transition("a", "InProgress", "Downloading", "data")
    document = book.transition("a", "InProgress", "Training", "now", TrainingStartTime=1.5)
    first, second = document["SecondaryStatusTransitions"]
    assert first["EndTime"] == second["StartTime"]
    assert "EndTime" not in second
    assert document["TrainingStartTime"] == 1.5
    assert book.get("a") == document


def test_the_same_step_again_only_changes_its_message(book: JobBook) -> None:
    enter(book, "a")
    book.transition("a", "InProgress", "Pending", "behind b")
    document = book.transition("a", "InProgress", "Pending", "behind c")
    assert [step["StatusMessage"] for step in document["SecondaryStatusTransitions"]] == ["behind c"]


def test_the_end_of_a_job_is_its_end(book: JobBook) -> None:
    enter(book, "a")
    ended = book.transition("a", "Stopped", "Stopped", "enough")
    assert ended["TrainingEndTime"] == ended["SecondaryStatusTransitions"][-1]["EndTime"]
    assert book.transition("a", "InProgress", "Training", "on") == ended
    assert book.transition("a", "Failed", "Failed", "no", FailureReason="late") == ended


def test_a_runner_may_give_a_better_end_time(book: JobBook) -> None:
    enter(book, "a")
    assert book.transition("a", "Completed", "Completed", "ok", TrainingEndTime=5.0)["TrainingEndTime"] == 5.0


def test_a_stopping_job_stays_so_until_its_end(book: JobBook) -> None:
    enter(book, "a")
    book.transition("a", "Stopping", "Stopping", "asked")
    document = book.transition("a", "InProgress", "Uploading", "model")
    assert (document["TrainingJobStatus"], document["SecondaryStatus"]) == ("Stopping", "Uploading")
    assert book.transition("a", "Stopped", "Stopped", "done")["TrainingJobStatus"] == "Stopped"


def test_a_stop_is_not_replaced_by_an_interruption(book: JobBook) -> None:
    enter(book, "a")
    assert book.asked("a") is None
    book.ask("a", "interrupt")
    book.ask("a", "stop")
    book.ask("a", "interrupt")
    assert book.asked("a") == "stop"
    book.clear_ask("a")
    assert book.asked("a") is None


def test_tags_and_the_request_are_kept_beside_the_document(book: JobBook) -> None:
    document = {"TrainingJobName": "a", "TrainingJobStatus": "InProgress"}
    book.add(document, tags={"k": "v"}, request={"Tags": []})
    assert (book.get("a"), book.tags("a"), book.request("a")) == (document, {"k": "v"}, {"Tags": []})
    book.set_tags("a", {"x": ""})
    assert book.tags("a") == {"x": ""}


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    books = [JobBook(path) for _ in range(4)]
    enter(books[0], "a")

    def write(number: int) -> None:
        for step in range(25):
            books[number].transition("a", "InProgress", f"{number}-{step}", "")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps = list_steps(books[0].get("a"))
    assert sorted(steps) == sorted(f"{number}-{step}" for number in range(4) for step in range(25))
    for book in books:
        book.close()


def test_a_failed_change_leaves_the_book_as_it_was(book: JobBook) -> None:
    enter(book, "a")
    before = book.get("a")
    with pytest.raises(TypeError):
        book.update("a", odd=object())
    assert book.get("a") == before
    book.update("a", fine=1)


def test_one_living_runner_has_the_job(book: JobBook, sleeper: subprocess.Popen[bytes]) -> None:
    enter(book, "a")
    mine, other = RunnerId.current(), find_process(sleeper.pid)
    assert other
    assert book.claim("a", other)
    assert book.claim("a", other)
    assert not book.claim("a", mine)
    sleeper.kill()
    sleeper.wait()
    assert book.claim("a", mine)
    assert book.runner("a") == mine
    book.set_runner("a", None)
    assert book.runner("a") is None


def test_a_pid_given_out_again_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    process = find_process(sleeper.pid)
    assert process
    impostor = ProcessId(process.pid, process.started - 1)
    assert process.is_alive()
    assert not impostor.is_alive()
    assert open_pidfd(impostor) is None
    assert not send_signal(impostor, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_zombie_is_no_living_process(sleeper: subprocess.Popen[bytes]) -> None:
    process = find_process(sleeper.pid)
    assert process
    assert not wait_for_end(process, 0)
    assert send_signal(process, signal.SIGKILL)
    assert wait_for_end(process, 10)
    assert find_process(sleeper.pid) is None
    assert identify_child(sleeper.pid) == process


def test_a_name_with_parentheses_hides_no_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) R (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        found = find_process(process.pid)
        process.kill()
    assert found
    assert found.pid == process.pid


def test_processes_are_found_by_the_variable_they_were_started_with(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], env={"BASE": f"{tmp_path}/job/opt"}) as process:
        assert [found.pid for found in find_processes_with("BASE", f"{tmp_path}/job/")] == [process.pid]
        assert find_processes_with("BASE", f"{tmp_path}/jo/") == []
        process.kill()


def test_a_process_without_a_handler_would_die_of_a_signal(sleeper: subprocess.Popen[bytes]) -> None:
    process = find_process(sleeper.pid)
    assert process
    assert not minds_signal(process, signal.SIGTERM)
    assert minds_signal(ProcessId.current(), signal.SIGINT)  # Python's own handler
    assert not minds_signal(ProcessId(os.getpid(), 0), signal.SIGKILL)
