"""Metric lines of a job's log -> numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MARK = "[metrics]"
PAIR = re.compile(r"(\w+)=(\S+)")

Metrics = dict[str, float | str]


def parse_metrics(line: str) -> Metrics | None:
    """`[metrics] step=10/200 loss=2.1` -> {"step": 10.0, "steps": 200.0, "loss": 2.1}; None for any other line."""
    if not line.startswith(MARK):
        return None
    found: Metrics = {}
    for key, text in PAIR.findall(line):
        if key == "step" and "/" in text:
            step, _, steps = text.partition("/")
            found["step"], found["steps"] = _number(step), _number(steps)
        else:
            found[key] = _number(text)
    return found


def iter_metrics(lines: Iterable[str]) -> Iterator[Metrics]:
    for line in lines:
        found = parse_metrics(line)
        if found is not None:
            yield found


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
