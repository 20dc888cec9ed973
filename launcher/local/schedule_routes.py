"""The endpoint's own routes about schedules, for what EventBridge Scheduler has no API for.

GET  /_local/executions                           what became of the firings, oldest first
GET  /_local/executions/GROUP/NAME                those of one schedule
GET  /_local/clock                                the time that schedules go by
POST /_local/clock  {"to": "2026-03-09T04:00:00Z"} or {"advance_s": 604800}
     Moves a simulated clock forward, firing by firing; answers when everything up to there was handed over. Only on
     an endpoint that was started with LAUNCHER_LOCAL_CLOCK set to the time at which its clock shall stand.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from launcher.local.clock import Clock, SimulatedClock
from launcher.local.json_protocol import ApiError, Params, parse_document, read_body, read_time, validation_error
from launcher.local.schedule_book import ScheduleBook
from launcher.local.schedule_loop import ScheduleLoop, format_time

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

LAST_TIME = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # what comes later, such as another attempt, has a date too


class ScheduleRoutes:
    def __init__(self, book: ScheduleBook, loop: ScheduleLoop, clock: Clock) -> None:
        self._book = book
        self._loop = loop
        self._clock = clock

    def answer(self, route: tuple[str, ...], environ: WSGIEnvironment) -> dict[str, Any] | None:
        """None for a route that is not about schedules."""
        match route:
            case ("GET", "executions", *schedule) if len(schedule) in (0, 2):
                return {"executions": self._list_executions(*schedule)}
            case ("GET", "clock"):
                return self._describe_clock()
            case ("POST", "clock"):
                return self._move_clock(parse_document(read_body(environ)))
            case _:
                return None

    def describe(self) -> dict[str, Any]:
        """For `local status`."""
        schedules = self._book.schedules()
        times = [schedule.next_at for schedule in schedules if schedule.next_at is not None]
        return {"count": len(schedules), "next_firing": format_time(min(times)) if times else None}

    def _list_executions(self, group: str = "", name: str = "") -> list[dict[str, Any]]:
        suffix = f":schedule/{group}/{name}" if name else ""
        return [
            {
                "schedule_arn": row["schedule_arn"],
                "execution_id": row["id"],
                "scheduled_time": format_time(row["scheduled_at"]),
                "outcome": row["outcome"],
                "attempts": row["attempts"],
                "result": row["result"],
                "error": row["error"],
                "dead_letter": row["dead_letter"],
                "ended": row["ended_at"] and format_time(row["ended_at"]),
            }
            for row in self._book.executions()
            if row["schedule_arn"].endswith(suffix)
        ]

    def _describe_clock(self) -> dict[str, Any]:
        return {"now": format_time(self._clock.now()), "is_simulated": self._clock.is_simulated}

    def _move_clock(self, params: Params) -> dict[str, Any]:
        if not isinstance(self._clock, SimulatedClock):
            message = "This endpoint goes by the clock of this machine. One started with LAUNCHER_LOCAL_CLOCK does not."
            raise ApiError("AccessDeniedException", message, 403)
        if set(params) not in ({"to"}, {"advance_s"}):
            raise validation_error('The clock wants {"to": TIME} or {"advance_s": SECONDS}.')
        now = self._clock.now()
        to = read_time(params["to"]) if "to" in params else now + read_time(params["advance_s"])
        if to < now:
            raise validation_error(f"It is {format_time(now)} already; the clock goes forward only.")
        if to > LAST_TIME:
            raise validation_error(f"The clock ends with {format_time(LAST_TIME)}.")
        self._loop.advance(self._clock, to)
        return self._describe_clock()
