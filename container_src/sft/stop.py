"""When to stop early: SIGTERM (a stop, a time limit, a spot interruption) or the clock, whichever comes first."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

MARGIN_SHARE = 0.1
MARGIN_MIN_S = 5.0
MARGIN_MAX_S = 300.0
# the reason in a process that has none of its own
ANOTHER = "another process of the job was asked to stop"


class Stopping:
    """Asked after every step, and between the batches of an evaluation: is there a reason to stop?"""

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
        """The reason to stop now, or ""; `ahead_s` is what comes before the job asks again, and the saving after it."""
        if not self.reason and self._deadline is not None and self._clock() + ahead_s >= self._deadline:
            self.reason = "the job's time limit is near (max_runtime_s)"
        return self.reason


def watch_sigterm() -> Stopping:
    """From now on SIGTERM asks for a stop after the current step, instead of ending the process."""
    stopping = Stopping()
    signal.signal(signal.SIGTERM, stopping.on_signal)
    return stopping


def agree(accelerator: Any, *flags: bool) -> tuple[bool, ...]:
    """What any process wants, all do: SIGTERM reaches one of them, and saving needs them all."""
    if accelerator.num_processes == 1:
        return flags
    import torch

    votes = torch.tensor([int(flag) for flag in flags], device=accelerator.device)
    return tuple(vote > 0 for vote in accelerator.reduce(votes, reduction="sum").tolist())
