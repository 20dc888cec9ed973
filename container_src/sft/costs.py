"""What a run has cost over all of its attempts. The sums up to a checkpoint lie in it; who resumes there adds on."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .strict_json import make_json

FILE = "sums.json"
START = ("importing", "encoding", "loading")
PHASES = (*START, "to_first_step", "training", "evaluating")


def write_sums(folder: Path, sums: Mapping[str, Any]) -> None:
    (folder / FILE).write_text(make_json(sums, indent=1), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, Any]:
    """Empty for a checkpoint of an earlier version of this code."""
    return dict(json.loads((folder / FILE).read_text(encoding="utf-8"))) if (folder / FILE).is_file() else {}


class Costs:
    """Seconds by phase, in all and the memory at most; what an attempt did after its last checkpoint is not in them."""

    def __init__(self, peak_gib: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._peak_gib = peak_gib
        self._clock = clock
        self._started = clock()
        self._running: dict[str, float] = {}
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._earlier: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._running[name] = self._clock()
        try:
            yield
        finally:
            self._spent[name] += self._clock() - self._running.pop(name)

    def note_first_step(self) -> str:
        """What the seconds up to the end of the first step are made of; "" when that was said before."""
        if self._spent["to_first_step"]:
            return ""
        whole = self._spent["to_first_step"] = self._clock() - self._started
        parts = [f"{name} {self._spent[name]:.1f}" for name in START]
        rest = whole - sum(self._spent[name] for name in START)
        return f"First step done after {whole:.1f} s: {', '.join(parts)}, the rest {rest:.1f}."

    def sums(self) -> dict[str, float]:
        now = self._clock()
        own = {name: spent + now - self._running.get(name, now) for name, spent in self._spent.items()}
        added = {
            "attempts": 1,
            **{f"seconds_{name}": spent for name, spent in own.items()},
            "seconds": now - self._started,
        }
        sums = {name: round(self._earlier.get(name, 0) + value, 3) for name, value in added.items()}
        peak = max(self._peak_gib(), self._earlier.get("peak_memory_gib", 0.0))
        return sums | {"peak_memory_gib": round(peak, 3)}

    def load(self, saved: Mapping[str, float]) -> None:
        self._earlier = dict(saved)
