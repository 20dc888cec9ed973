"""A schedule: a plan's request that EventBridge Scheduler sends again and again, on a cron, at a rate, or once."""

from __future__ import annotations

import difflib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from launcher import cron, ledger
from launcher.aws import jobs, s3, schedules
from launcher.aws.session import Session, find_now
from launcher.claims import claim_key, giving_back, take_claim
from launcher.errors import InputError, RunError, UnknownJob
from launcher.job import Job, instance_of, iter_sessions
from launcher.progress import Say, silent
from launcher.retraining.executions import Execution, Price, find_live_job, iter_executions, iter_jobs_of, iter_left
from launcher.retraining.mounts import check_mounts
from launcher.retraining.scheduled import substitute
from launcher.tables import html_table

BUSY_POLL_S = 30.0
LOCAL_BUSY_POLL_S = 0.5
SETTING = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True)
class Schedule:
    """As it is deployed; each method asks or changes what is deployed."""

    session: Session
    params: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.params["Name"])

    @property
    def expression(self) -> str:
        return str(self.params["ScheduleExpression"])

    @property
    def timezone(self) -> str:
        return str(self.params.get("ScheduleExpressionTimezone", "UTC"))

    @property
    def is_paused(self) -> bool:
        return self.params.get("State") == "DISABLED"

    @property
    def request(self) -> dict[str, Any]:
        """What it sends, with the execution's id left open."""
        return dict(json.loads(self.params["Target"]["Input"]))

    @property
    def settings(self) -> dict[str, str]:
        """What the launcher keeps of the recipe, in the description."""
        return dict(SETTING.findall(str(self.params.get("Description", ""))))

    def next_firings(self, count: int = 3) -> list[datetime]:
        """In the schedule's own zone; none while it is paused."""
        if self.is_paused:
            return []
        zone, created = cron.find_zone(self.timezone), self.params.get("CreationDate")
        start = self.params.get("StartDate") or created
        firings = cron.iter_firings(
            cron.parse_expression(self.expression),
            zone,
            find_now(self.session.place),
            start=start.astimezone(UTC) if start else None,
            end=self.params.get("EndDate"),
        )
        return [firing.astimezone(zone) for firing in islice(firings, count)]

    def rows(self) -> list[tuple[str, str]]:
        """As people read it."""
        target, request = self.params["Target"], self.request
        is_local = self.session.place == "local"  # where the request names a type only because AWS's has to
        firings = ", ".join(f"{firing:%Y-%m-%d %H:%M %Z}" for firing in self.next_firings())
        return [
            ("schedule", self.name),
            ("state", "paused" if self.is_paused else "enabled"),
            ("when", f"{self.expression} in {self.timezone}"),
            ("next", firings or "never"),
            ("recipe", json.loads(request["HyperParameters"].get("recipe_name", '""'))),
            ("instance", "local" if is_local else instance_of(request["ResourceConfig"])),
            ("promote", json.loads(request["HyperParameters"].get("promote", '"by-hand"'))),
            ("when busy", self.settings.get("when_busy", "refuse")),
            ("retries", str(target.get("RetryPolicy", {}).get("MaximumRetryAttempts", ""))),
            ("role", target["RoleArn"]),
            ("dead letters", target.get("DeadLetterConfig", {}).get("Arn", "nowhere")),
            ("place", self.session.place),
        ]

    def _repr_html_(self) -> str:
        return html_table(["schedule", self.name], self.rows()[1:])

    def describe(self) -> dict[str, Any]:
        """For --json: AWS's own words, with the request as an object."""
        target = {**self.params["Target"], "Input": self.request}
        return {**self.params, "Target": target, "next": [firing.isoformat() for firing in self.next_firings()]}

    def executions(self, price: Price | None = None, say: Say = silent) -> Iterator[Execution]:
        """What came of each firing and trigger, the newest first; at AWS's prices, or those given."""
        dead = self.params["Target"].get("DeadLetterConfig", {}).get("Arn", "")
        return iter_executions(self.session, self.name, price, arn=str(self.params["Arn"]), queue=dead, say=say)

    def pause(self) -> Schedule:
        return self.put(State="DISABLED")

    def resume(self) -> Schedule:
        try:
            cron.check_expression(self.expression, self.timezone, now=find_now(self.session.place))
        except InputError as error:
            flag = "--at TIME" if self.expression.startswith("at(") else '--cron "..."'
            hint = f"`launcher schedule update {self.name} {flag}` gives it a time to come; then resume it."
            raise InputError(error.message, hint=hint) from error
        return self.put(State="ENABLED")

    def delete(self) -> None:
        """The schedule alone: its jobs, publications and champions stay."""
        schedules.delete(self.session, self.name)

    def trigger(self, say: Say = silent, *, sleep: Callable[[float], None] = time.sleep) -> Job:
        """One job now, as a firing would make it; or a refusal, when one runs, is being started, or cannot succeed."""
        schedule, request, said = self, self._make_request(), ""
        while busy := find_live_job(self.session, self.name) or schedule._start(request):
            if schedule.settings.get("when_busy") != "queue":
                raise self._busy(busy)
            if said != busy:
                say(f"waiting for {busy} to end; Ctrl-C gives up the place in the queue")
                said = busy
            sleep(BUSY_POLL_S if self.session.place == "aws" else LOCAL_BUSY_POLL_S)
            if find_live_job(self.session, self.name) != busy:
                # meanwhile it may have been deleted, paused or updated, and what it mounts lost
                schedule = read_deployed(self.session, self.name)
                request = schedule._make_request()
        job = request["TrainingJobName"]
        ledger.record(ledger.Entry(job, self.session.place, self.session.region))
        return Job(job, self.session)

    def _make_request(self) -> dict[str, Any]:
        """What a firing at this moment would send, if its job could do anything with it."""
        if self.is_paused:
            raise RunError(f"{self.name} is paused.", hint=f"`launcher schedule resume {self.name}`, then trigger it.")
        check_mounts(self.session, self.request, self.name)
        return substitute(self.request, str(uuid.uuid4()))

    def _start(self, request: dict[str, Any]) -> str:
        """Empty when the job is made, else the job of whoever was faster."""
        newest = next(iter_jobs_of(self.session, self.name), None)
        before = newest["TrainingJobName"] if newest else "nothing"
        root = self.request["CheckpointConfig"]["S3Uri"].partition("/checkpoints/")[0]
        bucket, key = s3.split_uri(f"{root}/{claim_key(self.name, before)}")
        if holder := take_claim(self.session, bucket, key, request["TrainingJobName"]):
            return holder
        with giving_back(self.session, bucket, key):
            if not (busy := find_live_job(self.session, self.name)):
                jobs.create_job(self.session, request)
                return ""
        s3.delete_object(self.session, bucket, key)  # given back: our job is not made now
        return busy

    def _busy(self, job: str) -> RunError:
        return RunError(
            f"{self.name} has a live job: {job}.",
            hint=f'`launcher wait {job}` waits for it; schedule.when_busy = "queue" in the recipe has trigger wait.',
        )

    def put(self, **changed: Any) -> Schedule:
        schedules.update(self.session, self.with_changes(changed))
        return read_deployed(self.session, self.name)

    def with_changes(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """With all of what is deployed: UpdateSchedule resets what it is not given."""
        return {key: value for key, value in self.params.items() if key in schedules.UPDATABLE} | dict(changed)


def read_deployed(session: Session, name: str) -> Schedule:
    params = schedules.find(session, name)
    if params is None:
        raise unknown_schedule(name, list(schedules.iter_names(session)))
    return Schedule(session, params)


def attach_schedule(name: str, place: str | None = None) -> Schedule:
    """The schedule of this name, wherever this machine has deployed one."""
    known: list[str] = []
    for session in iter_sessions(place):
        if found := schedules.find(session, name):
            return Schedule(session, found)
        known += schedules.iter_names(session)
    raise unknown_schedule(name, known)


def iter_history(
    name: str, place: str | None = None, price: Price | None = None, say: Say = silent
) -> Iterator[Execution]:
    """What came of a schedule's firings and triggers, the newest first; of a deleted one, what it left."""
    try:
        schedule = attach_schedule(name, place)
    except UnknownJob:
        left = iter_left(name, place, price)
        if (newest := next(left, None)) is None:
            raise
        say(f"{name} is deleted; this is what it left")
        yield newest
        yield from left
    else:
        yield from schedule.executions(price, say)


def unknown_schedule(name: str, known: list[str]) -> UnknownJob:
    close = difflib.get_close_matches(name, known, n=1)
    return UnknownJob(
        f"There is no schedule {name!r}.",
        hint=f"Did you mean {close[0]}?"
        if close
        else "`launcher schedule list` shows those that can be seen from here.",
    )


def list_schedules(place: str | None = None) -> list[Schedule]:
    found = []
    for session in iter_sessions(place):
        for name in schedules.iter_names(session):
            if params := schedules.find(session, name):  # else it was deleted meanwhile
                found.append(Schedule(session, params))
    return found
