"""Clients for look-ups that somebody waits for: a second or two, and no patience with a slow network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from launcher.aws.session import Session

Result = TypeVar("Result")
CONNECT_S, READ_S = 1.0, 2.0


def make_quick_client(session: Session, service: str, region: str = "") -> Any:
    from botocore.config import Config

    style = {"s3": {"addressing_style": "path"}, "proxies": {}} if session.place == "local" else {}
    return session.botocore.create_client(
        service,
        region_name=region or session.region,
        endpoint_url=session.service_url or None,
        config=Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": 2}, **style),
    )


class Task:
    """A call on a thread of its own, which is left behind when its time is over: nobody waits for it at the exit."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error

    def result(self, timeout: float) -> Any:
        """Its result; raises what it raised, or TimeoutError."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError
        if self._error:
            raise self._error
        return self._value


def run_together(calls: Sequence[Callable[[], Result]], limit_s: float, late: Callable[[int], Result]) -> list[Result]:
    """All calls at once; `late(number)` stands in for one that has not ended within the limit."""
    return collect([Task(call) for call in calls], limit_s, late)


def collect(tasks: Sequence[Task], limit_s: float, late: Callable[[int], Result]) -> list[Result]:
    """As run_together, of calls that run already."""
    end = time.monotonic() + limit_s
    results = []
    for number, task in enumerate(tasks):
        try:
            results.append(task.result(max(0.0, end - time.monotonic())))
        except TimeoutError:
            results.append(late(number))
    return results
