"""Everything of EventBridge Scheduler on this machine, put together."""

from __future__ import annotations

import json
from pathlib import Path

from launcher.local.clock import Clock, SimulatedClock, WallClock
from launcher.local.jobs import JobBook
from launcher.local.json_protocol import read_time
from launcher.local.moto_parts import MotoParts
from launcher.local.schedule_book import ScheduleBook
from launcher.local.schedule_loop import ScheduleLoop
from launcher.local.schedule_routes import ScheduleRoutes
from launcher.local.schedules import Schedules
from launcher.local.settings import Settings
from launcher.local.targets import Targets
from launcher.local.training import TrainingJobs


class Scheduling:
    def __init__(
        self, root: Path, settings: Settings, training: TrainingJobs, jobs: JobBook, clock: Clock | None = None
    ) -> None:
        self._book = ScheduleBook(root / "schedules.sqlite")
        clock = clock or _make_clock(self._book, settings)
        self._moto = MotoParts(settings)
        targets = Targets(training, jobs, self._moto)
        self._loop = ScheduleLoop(self._book, targets, clock)
        self.operations = Schedules(self._book, targets, self._loop, clock, settings)
        self.routes = ScheduleRoutes(self._book, self._loop, clock)

    def start(self) -> None:
        # Before anything fires or reports: what schedules name ended with the last endpoint, they themselves did not.
        self._moto.make_again("\n".join(json.dumps(schedule.document) for schedule in self._book.schedules()))
        self._loop.start()

    def close(self) -> None:
        self._loop.close()
        self._book.close()


def _make_clock(book: ScheduleBook, settings: Settings) -> Clock:
    """A simulated one goes on where it stood when the endpoint was last stopped."""
    if not settings.clock:
        return WallClock()
    return SimulatedClock(max(read_time(settings.clock), book.simulated_now() or 0.0))
