"""The training benchmark tells success only where ways were compared and agree."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"
FIRST = [1.0, 0.5, 0.4]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    import training

    return training


def _agree(bench: Any, *losses: list[float]) -> bool:
    results = [
        bench.Result(way, 1.0, 1.0, 1, 1.0, 1.0, 1.0, "", 1.0, found)
        for way, found in zip(bench.WAYS, losses, strict=False)
    ]
    return bool(bench.compare_losses(Namespace(equal=True), results))


@pytest.mark.parametrize(
    ("others", "agrees"),
    [
        ([1.0, 0.5, 0.4], True),
        ([1.0, 0.5, 0.404], True),
        ([1.0, 0.5, 0.5], False),
        ([1.0, 0.5, math.nan], False),
        ([1.0, 0.5], False),
        ([], False),
    ],
)
def test_losses_that_are_apart_not_numbers_or_missing_are_no_success(
    bench: Any, others: list[float], agrees: bool
) -> None:
    assert _agree(bench, FIRST, others) is agrees
    assert _agree(bench, others, FIRST) is agrees


def test_one_way_alone_has_nothing_to_agree_with(bench: Any) -> None:
    assert _agree(bench, FIRST)
