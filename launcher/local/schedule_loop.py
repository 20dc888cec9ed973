"""Fires schedules when their time has come, and tries again what did not reach its target.

What was missed while the endpoint was down goes by the rule that AWS has for an event it cannot deliver: it is
delivered late while it is younger than the schedule's MaximumEventAgeInSeconds (a day, unless set), else never. Of
several missed firings of one schedule only the last is made up for: a schedule by the minute must not start hundreds
of jobs after a night.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import takewhile
from threading import Event, RLock, Thread

from launcher.local.clock import Clock, SimulatedClock
from launcher.local.json_protocol import ApiError
from launcher.local.schedule_book import FAILED, STARTED, Execution, Schedule, ScheduleBook
from launcher.local.targets import Targets

log = logging.getLogger(__name__)

# A wait counts the time that this machine is awake. This is AWS's own precision, and so rarely is no polling.
LONGEST_WAIT_S = 60.0
RETRY_S = 5.0
FIRST_BACKOFF_S = 30.0
LONGEST_BACKOFF_S = 900.0
TOO_OLD = ApiError("AWS.Scheduler.InternalServerError", "It is older than its MaximumEventAgeInSeconds.", 500)
TRANSIENT = ("Throttling", "TooManyRequests", "ServiceUnavailable", "InternalServer", "InternalFailure")


class ScheduleLoop:
    """One thread; a request that moves a simulated clock does the same work under the same lock."""

    def __init__(
        self, book: ScheduleBook, targets: Targets, clock: Clock, new_id: Callable[[], str] | None = None
    ) -> None:
        self._book = book
        self._targets = targets
        self._clock = clock
        self._new_id = new_id or (lambda: str(uuid.uuid4()))
        self._lock = RLock()
        self._wakeup = Event()
        self._closing = False
        self._thread = Thread(target=self._run, name="schedules", daemon=True)

    def start(self) -> None:
        self._book.recover(self._clock.now())
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """The schedules have changed."""
        self._wakeup.set()

    def run_due(self) -> None:
        """Everything whose time has come."""
        with self._lock:
            now = self._clock.now()
            for schedule in self._book.due(now):
                self._fire(schedule, now)
            for execution in self._book.waiting(now):
                if self._book.claim(execution):
                    self._attempt(execution)

    def advance(self, clock: SimulatedClock, to: float) -> None:
        """Move a simulated clock from one event to the next; returns when all up to `to` were handed over."""
        with self._lock:
            self.run_due()
            while (time_s := self._book.find_next_time()) is not None and time_s <= to:
                clock.move_to(time_s)
                self.run_due()
            clock.move_to(to)
            self._book.keep_simulated_now(clock.now())

    # The thread

    def _run(self) -> None:
        while not self._closing:
            self._wakeup.clear()
            try:
                self.run_due()
                patience_s = self._find_patience()
            except (OSError, sqlite3.OperationalError):
                log.exception("schedules cannot be read or written now")  # a full disk, above all
                patience_s = RETRY_S
            self._wakeup.wait(patience_s)

    def _find_patience(self) -> float | None:
        """Until the next event; for ever when there is none, or time stands still."""
        next_at = self._book.find_next_time()
        if next_at is None or self._clock.is_simulated:
            return None
        return min(max(next_at - self._clock.now(), 0.0), LONGEST_WAIT_S)

    # Firing

    def _fire(self, schedule: Schedule, now: float) -> None:
        """One execution for the last time up to now that is not too old, and a note about those before it."""
        if (first := schedule.next_at) is None:
            return
        oldest = max(first, now - schedule.document["Target"]["RetryPolicy"]["MaximumEventAgeInSeconds"])
        times = _up_to(now, schedule.iter_times(_just_before(oldest)))
        last = times[-1] if times else None
        with self._book.together():
            if last != first:
                until = format_time(now if last is None else last)
                why = f"from {format_time(first)} until {until} the endpoint was down, or its clock was set ahead"
                self._book.note_missed(schedule, first, self._new_id(), why, now)
            if last is not None:
                self._book.fire(schedule, last, self._new_id(), now)
            # Kept, and never before what has fired: a clock that is set back cannot fire it again.
            self._book.set_next(schedule, schedule.find_next(max(now, last or now)))

    def _attempt(self, execution: Execution) -> None:
        number = execution.attempts + 1
        payload = substitute(execution.target.get("Input", "{}"), execution, number)
        if self._clock.now() > _find_end(execution):
            self._give_up(execution, payload, TOO_OLD, "MaximumEventAgeInSeconds")
            return
        try:
            result = self._targets.call(execution.target["Arn"], payload, is_repeated=number > 1)
        except ApiError as error:
            self._fail(execution, payload, error)
        except Exception as error:  # over HTTP too, whatever is not foreseen is a 500, and those are tried again
            log.exception("%s could not be handed over", execution.schedule_arn)
            self._fail(execution, payload, ApiError("InternalServerException", str(error), 500))
        else:
            self._book.finish(execution, STARTED, self._clock.now(), result=result, error=None)

    def _fail(self, execution: Execution, payload: str, error: ApiError) -> None:
        """Another attempt later, unless this one was the last or no other would fare better."""
        if not _is_transient(error):
            self._give_up(execution, payload, error, None)
            return
        backoff_s = min(FIRST_BACKOFF_S * 2**execution.attempts, LONGEST_BACKOFF_S)
        due_at = self._clock.now() + backoff_s
        if execution.attempts >= execution.target["RetryPolicy"]["MaximumRetryAttempts"]:
            self._give_up(execution, payload, error, "MaximumRetryAttempts")
        elif due_at > _find_end(execution):
            self._give_up(execution, payload, error, "MaximumEventAgeInSeconds")
        else:
            self._book.put_off(execution, due_at, _describe(error))

    def _give_up(self, execution: Execution, payload: str, error: ApiError, exhausted: str | None) -> None:
        why = _describe(error)
        log.warning("%s at %s: %s", execution.schedule_arn, format_time(execution.scheduled_at), why)
        letter = self._bury(execution, payload, error, exhausted)
        self._book.finish(execution, FAILED, self._clock.now(), error=why, dead_letter=letter)

    def _bury(self, execution: Execution, payload: str, error: ApiError, exhausted: str | None) -> str | None:
        queue = execution.target.get("DeadLetterConfig", {}).get("Arn")
        if queue is None:
            return None
        attributes = {
            "ERROR_CODE": error.code,
            "ERROR_MESSAGE": error.message,
            "EXECUTION_ID": execution.id,
            "IS_PAYLOAD_TRUNCATED": "false",
            "RETRY_ATTEMPTS": str(execution.attempts),
            "SCHEDULED_TIME": format_time(execution.scheduled_at),
            "SCHEDULE_ARN": execution.schedule_arn,
            "TARGET_ARN": execution.target["Arn"],
        }
        if exhausted:
            attributes["EXHAUSTED_RETRY_CONDITION"] = exhausted
        try:
            self._targets.bury(queue, payload, attributes)
        except ApiError as refused:
            return f"lost: {refused.code}: {refused.message}"
        return str(queue).rpartition(":")[2]


def substitute(text: str, execution: Execution, attempt: int) -> str:
    """The context attributes of AWS in a target's Input.

    One id for all attempts: a job name with it keeps a repeated attempt from making a second job.
    """
    values = {
        "schedule-arn": execution.schedule_arn,
        "scheduled-time": format_time(execution.scheduled_at),
        "execution-id": execution.id,
        "attempt-number": str(attempt),
    }
    for name, value in values.items():
        text = text.replace(f"<aws.scheduler.{name}>", value)
    return text


def format_time(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _up_to(now: float, times: Iterable[float]) -> list[float]:
    return list(takewhile(lambda time_s: time_s <= now, times))


def _just_before(time_s: float) -> float:
    return time_s - 1e-3  # finer than any firing, coarser than what a float of seconds can hold


def _is_transient(error: ApiError) -> bool:
    return error.status >= 500 or error.code.startswith(TRANSIENT)


def _find_end(execution: Execution) -> float:
    return execution.scheduled_at + float(execution.target["RetryPolicy"]["MaximumEventAgeInSeconds"])


def _describe(error: ApiError) -> str:
    return f"{error.code}: {error.message}"
