"""What came of a schedule: its jobs, their ends, their verdicts and cost, and the firings that made no job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any

from launcher.aws import jobs, schedules
from launcher.aws.schedules import GROUP
from launcher.aws.session import Session, list_local_firings
from launcher.job import Job, iter_sessions, make_status
from launcher.job_names import EXECUTION
from launcher.progress import Say, silent

# what the local endpoint calls a firing without a job -> what people read
WITHOUT_JOB = {"failed": "not created", "missed": "missed"}
RECENT = 20  # jobs of a schedule that may still run
# Dollars an hour of an instance type in a region; None where no price is known.
Price = Callable[[str, str], float | None]


@cache
def look_up(instance: str, region: str) -> float | None:
    """From AWS's price list where it answers soon, else from the launcher's table."""
    from launcher.aws.prices import start_pricing

    found = start_pricing(instance, region)()
    return found.usd_per_hour if found else None


def cost_nothing(instance: str, region: str) -> None:
    """This machine sends no bill."""


@dataclass(frozen=True)
class Execution:
    """One firing or trigger. `job` is empty where none was created; `cost` is None where no price is known."""

    time: datetime
    job: str
    status: str
    outcome: str
    billed_s: int | None = None
    cost: float | None = None

    def describe(self) -> dict[str, Any]:
        return {**vars(self), "time": self.time.isoformat()}

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """As a line of a table."""
        billed = "" if self.billed_s is None else f"{self.billed_s:,} s"
        cost = "" if self.cost is None else f"${self.cost:.2f}"
        return f"{self.time:%Y-%m-%d %H:%M:%S}", self.job or "-", self.status, billed, cost, self.outcome


def iter_executions(
    session: Session, name: str, price: Price | None = None, *, arn: str = "", queue: str = "", say: Say = silent
) -> Iterator[Execution]:
    """The newest first. The scheduler keeps no list of what it did: the jobs and the dead letters are that list."""
    price = price or (look_up if session.place == "aws" else cost_nothing)
    dead = sorted(_list_dead(session, name, arn, queue, say), key=lambda execution: execution.time)
    for summary in iter_jobs_of(session, name):
        while dead and dead[-1].time > summary["CreationTime"]:
            yield dead.pop()
        yield _from_job(Job(summary["TrainingJobName"], session), price)
    yield from reversed(dead)


def iter_left(name: str, place: str | None, price: Price | None = None) -> Iterator[Execution]:
    """What a schedule that is deleted left. On AWS the dead letters are known by the schedule alone."""
    for session in iter_sessions(place):
        yield from iter_executions(session, name, price)


def _list_dead(session: Session, name: str, arn: str, queue: str, say: Say) -> list[Execution]:
    """The firings that made no job."""
    if session.place == "local":  # whose queues end with the endpoint, and whose book is kept
        return [_from_firing(row) for row in list_local_firings(GROUP, name) if row["outcome"] in WITHOUT_JOB]
    return [_from_letter(letter) for letter in (schedules.list_dead(session, queue, arn, say) if queue else [])]


def _from_firing(row: dict[str, Any]) -> Execution:
    return Execution(datetime.fromisoformat(row["scheduled_time"]), "", WITHOUT_JOB[row["outcome"]], row["error"])


def _from_job(job: Job, price: Price) -> Execution:
    state, cost = job.state(), None
    if state.billed_s is not None and (hourly := price(state.instance, job.session.region)) is not None:
        count = job.description()["ResourceConfig"].get("InstanceCount", 1)
        # AWS bills the billable seconds at the on-demand price: they hold a spot job's saving already
        cost = hourly * count * state.billed_s / 3600
    return Execution(state.created, state.name, state.status.value, state.outcome or state.reason, state.billed_s, cost)


def _from_letter(letter: dict[str, str]) -> Execution:
    when = datetime.fromisoformat(letter["SCHEDULED_TIME"].replace("Z", "+00:00"))
    why = f"{letter.get('ERROR_CODE', 'unknown error')}: {letter.get('ERROR_MESSAGE', '')}"
    return Execution(when, "", "not created", why)


def iter_jobs_of(session: Session, name: str) -> Iterator[dict[str, Any]]:
    """Summaries of a schedule's jobs, the newest first."""
    pattern = re.compile(re.escape(name) + EXECUTION.pattern)
    for summary in jobs.iter_jobs(session, f"{name}-"):
        if pattern.fullmatch(summary["TrainingJobName"]):
            yield summary


def find_live_job(session: Session, name: str) -> str:
    """The schedule's newest job that is not over; empty when none is."""
    for summary in islice(iter_jobs_of(session, name), RECENT):
        if not make_status(summary).is_over:
            return str(summary["TrainingJobName"])
    return ""
