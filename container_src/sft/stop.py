"""When to stop early: SIGTERM (a stop, a time limit, a spot interruption) or the clock, whichever comes first."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

MARGIN_SHARE = 0.1
MARGIN_MIN_S = 5.0
MARGIN_MAX_S = 300.0


class Stopping:
    """Asked after every step: is there a reason to stop?"""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._deadline: float | None = None
        self.reason = ""

    def on_signal(self, number: int, frame: object) -> None:
        self.reason = self.reason or f"{signal.Signals(number).name} received (a stop, a time limit or an interruption)"

    def watch_clock(self, max_runtime_s: int) -> None:
        """Stop before SageMaker does: it counts the upload too, and SIGTERM may not reach this process at all."""
        if max_runtime_s > 0:
            margin = min(max(MARGIN_SHARE * max_runtime_s, MARGIN_MIN_S), MARGIN_MAX_S)
            self._deadline = self._started + max_runtime_s - margin

    def check(self, ahead_s: float) -> str:
        """The reason to stop now, or ""; `ahead_s` is what the next step and the saving after it may take."""
        if not self.reason and self._deadline is not None and self._clock() + ahead_s >= self._deadline:
            self.reason = "the job's time limit is near (max_runtime_s)"
        return self.reason


def watch_sigterm() -> Stopping:
    """From now on SIGTERM asks for a stop after the current step, instead of ending the process."""
    stopping = Stopping()
    signal.signal(signal.SIGTERM, stopping.on_signal)
    return stopping
