"""The only place of the job that prints, and the format of its metric lines.

A metric line is `[metrics] step=10/200 epoch=0.05 loss=2.1234 learning_rate=0.0002 ...`: the mark at the start of the
line, then `name=value` pairs divided by one space. Every value is a plain or scientific number, `nan` or `inf`; step
alone is `done/total`. The launcher and SageMaker's metric definitions match `name=([0-9.eE+-]+|nan|inf)` on such lines.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from .strict_json import make_json

MARK = "[metrics]"


def say(text: str) -> None:
    """One line of talk, from the first process only."""
    if is_first_process():
        # In one write: the training toolkit reads what is there and ends it with a newline of its own, so that a
        # line whose end comes later would be followed by an empty one.
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()  # a pipe is block-buffered, and a follower of the log would see nothing for minutes


def warn(text: str) -> None:
    say(f"[warning] {text}")


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def metric_line(step: int, total: int, values: Mapping[str, float]) -> str:
    pairs = [f"{name}={_number(value)}" for name, value in values.items()]
    return " ".join([MARK, f"step={step}/{total}", *pairs])


def _number(value: float) -> str:
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    return f"{value:.6g}"


class MetricsFile:
    """metrics.jsonl: one object per metric line. After a resume it begins with the lines before the checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, earlier: Iterable[Mapping[str, float]]) -> None:
        if is_first_process():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(map(_json_line, earlier)), encoding="utf-8")

    def append(self, values: Mapping[str, float]) -> None:
        if is_first_process():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_json_line(values))


def _json_line(values: Mapping[str, float]) -> str:
    return make_json(values) + "\n"
