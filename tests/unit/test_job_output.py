"""How a job's bytes become lines, events and metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.local.job_output import MAX_LINE_BYTES, JobLog, LineSplitter, MetricWatch


def split(*pieces: bytes) -> list[str]:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + list(splitter.finish())


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"o", b"ne\ntw", b"o"], ["one", "two"]),
        ([b"a\r\n\r\nb\n"], ["a", "", "b"]),
        ([b"\n\n"], ["", ""]),
        ([b" 1%\r 50%\r100%\n"], ["100%"]),
        ([b" 1%\r 50%\r"], [" 50%"]),
        ([b"caf\xe9\n"], ["caf\N{REPLACEMENT CHARACTER}"]),
        ([b"caf\xc3", b"\xa9\n"], ["caf\N{LATIN SMALL LETTER E WITH ACUTE}"]),
        ([], []),
    ],
)
def test_lines(pieces: list[bytes], lines: list[str]) -> None:
    assert split(*pieces) == lines


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_long_line_is_cut_between_characters_and_nothing_is_lost(end: bytes) -> None:
    text = "a" + "\N{EURO SIGN}" * MAX_LINE_BYTES
    lines = split(text.encode() + end)
    assert "".join(lines) == text
    assert max(len(line.encode()) for line in lines) <= MAX_LINE_BYTES
    assert len(lines) == 4


def test_progress_bar_without_an_end_takes_no_memory() -> None:
    splitter = LineSplitter()
    for step in range(8_000):
        assert list(splitter.feed(f"\rstep {step} of many".encode())) == []
    assert list(splitter.finish()) == ["step 7999 of many"]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_how_the_bytes_arrive(pieces: list[bytes]) -> None:
    assert split(*pieces) == split(b"".join(pieces))


def test_events_are_never_empty_and_the_runners_own_are_marked(tmp_path: Path) -> None:
    log = JobLog(tmp_path)
    log.write("")
    log.write("line\u2028separator")
    log.say("something else")
    log.close()
    (stream,) = tmp_path.glob("algo-1-*.jsonl")
    events = [json.loads(line) for line in stream.read_bytes().split(b"\n")[:-1]]
    assert [event["message"] for event in events] == [" ", "line\u2028separator", "[launcher] something else"]
    assert all(isinstance(event["timestamp"], int) for event in events)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["Traceback:", "ValueError: no", "shutting down"], "ValueError: no"),
        (["all is well", ""], "all is well"),
        ([], "the job printed nothing"),
    ],
)
def test_last_error_is_found_among_the_last_lines(tmp_path: Path, lines: list[str], found: str) -> None:
    log = JobLog(tmp_path)
    for line in lines:
        log.write(line)
    assert log.find_last_error() == found
    log.close()


def test_metrics_keep_the_last_number_and_refuse_what_is_none() -> None:
    definitions = [
        {"Name": "loss", "Regex": "loss=(\\S+)"},
        {"Name": "no group", "Regex": "loss"},
        {"Name": "broken", "Regex": "loss=("},
    ]
    watch = MetricWatch(definitions)
    for line in ("loss=3", "loss=1.5e-3", "loss=nan", "loss=inf", "loss=much", "none here"):
        watch.read(line)
    assert [(metric["MetricName"], metric["Value"]) for metric in watch.list_final()] == [("loss", 0.0015)]
    assert len(watch.refused) == 1 and "broken" in watch.refused[0]
