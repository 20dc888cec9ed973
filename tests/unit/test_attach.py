"""Which job a name means."""

from __future__ import annotations

import pytest

from launcher.errors import UnknownJob
from launcher.job import _pick
from launcher.job_names import run_of
from launcher.ledger import Entry, entries, forget, record

NEWEST_FIRST = ["mine-20260103-000000", "mine-20260102-000000", "mine-2-20260101-000000", "other-20260101-000000"]


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("mine-20260102-000000", "mine-20260102-000000"),
        ("mine", "mine-20260103-000000"),
        ("mine-2", "mine-2-20260101-000000"),
        ("oth", "other-20260101-000000"),
        ("absent", None),
    ],
)
def test_a_name_means_a_job_then_a_run_then_a_beginning(name: str, means: str | None) -> None:
    assert _pick(name, NEWEST_FIRST) == means


def test_a_beginning_of_several_jobs_is_refused_with_their_names() -> None:
    with pytest.raises(UnknownJob, match="fits 3 jobs: mine-20260103"):
        _pick("min", NEWEST_FIRST)


def test_a_run_may_hold_dashes_and_digits() -> None:
    assert run_of("qwen2-5-20260101-000000") == "qwen2-5"


def test_the_ledger_keeps_order_survives_a_cut_line_and_forgets_a_place() -> None:
    from launcher.home import state_home

    for job, place in (("a", "local"), ("b", "aws"), ("c", "local")):
        record(Entry(job, place, "us-east-1"))
    with (state_home() / "jobs.jsonl").open("a") as file:
        file.write('{"job": "cu')
    record(Entry("d", "aws", "us-east-1"))
    assert [entry.job for entry in entries()] == ["a", "b", "c", "d"]
    forget("local")
    assert [entry.job for entry in entries()] == ["b", "d"]
