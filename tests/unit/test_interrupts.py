"""Ctrl-C while a command stays with a job: kept while it is busy, at once while it pauses."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from launcher.cli.interrupts import Interrupts


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_one_that_comes_within_a_request_is_kept_for_the_next_pause(capfd: pytest.CaptureFixture[str]) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts(sleep=done.append) as interrupts:
        _interrupt()
        done.append("the request")
        interrupts.sleep(5)
    assert done == ["the request"]
    assert "Ctrl-C again ends at once" in capfd.readouterr().err


def test_one_that_comes_between_lines_lets_the_line_through_and_no_other() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        for line in interrupts.between("abc"):
            seen.append(line)
            if line == "b":
                _interrupt()
    assert seen == ["a", "b"]


def test_one_that_nothing_comes_after_is_not_lost() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts():
        _interrupt()
        done.append("the last request")
    assert done == ["the last request"]


def test_a_line_that_comes_after_one_is_not_printed() -> None:
    """Its reader may be gone: Ctrl-C on `logs -f | tee` ends both."""

    def lines() -> Iterator[str]:
        _interrupt()
        yield "late"

    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        seen.extend(interrupts.between(lines()))
    assert not seen


def test_one_that_comes_before_the_time_is_up_is_not_taken_for_that() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        _interrupt()
        raise TimeoutError("not over after 5 s")


def test_one_in_a_pause_lets_the_next_one_in_at_once() -> None:
    with pytest.raises(KeyboardInterrupt) as second, Interrupts(lambda seconds: _interrupt()) as interrupts:
        try:
            interrupts.sleep(5)
        finally:
            _interrupt()  # within what cleans up
            pytest.fail("it was kept")
    assert second.value.__context__ is not None


def test_an_error_that_comes_after_one_is_not_hidden() -> None:
    with pytest.raises(OSError, match="gone"), Interrupts():
        _interrupt()
        raise OSError("gone")


def test_one_that_comes_in_a_pause_ends_it() -> None:
    def sleep(seconds: float) -> None:
        _interrupt()
        threading.Event().wait(seconds)  # a lock's wait lets the handler run, as time.sleep does

    with pytest.raises(KeyboardInterrupt), Interrupts(sleep) as interrupts:
        interrupts.sleep(600)


def test_a_second_one_breaks_in_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        _interrupt()
        _interrupt()
        pytest.fail("it went on")


def test_what_was_there_is_there_again_and_what_somebody_set_is_left_alone() -> None:
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_thread_follows_without_a_handler() -> None:
    ended = []

    def follow() -> None:
        with Interrupts(sleep=ended.append) as interrupts:
            interrupts.sleep(1)

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join()
    assert ended == [1]
