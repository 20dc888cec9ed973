"""Ctrl-C at moments of our choosing, so that a command that stays with a job can always end.

Python raises KeyboardInterrupt between any two of its instructions. In the middle of a request that may be where a
connection pool has just taken its lock; putting the connection back then waits for that lock for ever.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

LATER = b"Ending after this request; Ctrl-C again ends at once.\n"


class Interrupts:
    """Within it Ctrl-C is kept for the next pause or line; a second one breaks in at once, wherever it is.

    Not to be nested: the inner one would leave it to the outer one, which does not see its pauses.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._asked = False
        self._pausing = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if usual and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind in (None, TimeoutError):
            self.check()  # what is kept is not lost where neither a pause nor a line came after it

    def _take(self, number: int, frame: FrameType | None) -> None:
        at_once, self._asked = self._pausing or self._asked, True
        if at_once:
            raise KeyboardInterrupt
        os.write(2, LATER)  # not through a buffer, which may be what was broken into

    def sleep(self, seconds: float) -> None:
        self._pausing = True
        try:
            self.check()  # after the flag is set: one that came before it is seen here
            self._sleep(seconds)
        finally:
            self._pausing = False

    def check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def between(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self.check()  # whoever reads the lines may have ended by the same Ctrl-C
            yield line
            self.check()
        self.check()
