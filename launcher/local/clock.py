"""The time that schedules go by: this machine's, or one that stands until a test moves it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    @property
    def is_simulated(self) -> bool: ...

    def now(self) -> float: ...


class WallClock:
    is_simulated = False

    def now(self) -> float:
        return time.time()


class SimulatedClock:
    """Stands still until it is moved, and is never moved back."""

    is_simulated = True

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def move_to(self, time_s: float) -> None:
        self._now = max(self._now, time_s)
