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
from launcher.aws.schedules import GROUP, Home, find_home
from launcher.aws.session import Session, find_now, open_session
from launcher.claims import claim_key, giving_back, take_claim
from launcher.data.settings import CHANNELS
from launcher.differences import find_differences
from launcher.errors import CredentialsError, InputError, RunError, SiteError, UnknownJob
from launcher.job import Job, instance_of, iter_sessions
from launcher.plan import Plan, data_digest, recipe_key
from launcher.progress import Say, Track, silent, untracked
from launcher.retraining.champion import Line, ensure_pointer, line_beside
from launcher.retraining.executions import Execution, Price, find_live_job, iter_executions, iter_jobs_of, iter_left
from launcher.retraining.gate_rights import say_rights
from launcher.retraining.mounts import check_mounts
from launcher.retraining.publication import Shelf, check_published, open_shelf
from launcher.retraining.scheduled import (
    NAME_LIMIT,
    check_champion,
    check_gate,
    check_name,
    check_rendered,
    make_scheduled_plan,
    render,
    substitute,
)
from launcher.submission import check_base_model, upload
from launcher.tables import html_table

RETRIES = 2
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
            ("recipe", self.settings.get("recipe", "")),
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
        return self._put(State="DISABLED")

    def resume(self) -> Schedule:
        cron.check_expression(self.expression, self.timezone, now=find_now(self.session.place))
        return self._put(State="ENABLED")

    def delete(self) -> None:
        """The schedule alone: its jobs, publications and champions stay."""
        schedules.delete(self.session, self.name, str(self.params["GroupName"]))

    def trigger(self, say: Say = silent, *, sleep: Callable[[float], None] = time.sleep) -> Job:
        """One job now, as a firing would make it; or a refusal, when one runs, is being started, or cannot succeed."""
        if self.is_paused:
            raise RunError(f"{self.name} is paused.", hint=f"`launcher schedule resume {self.name}`, then trigger it.")
        check_mounts(self.session, self.request, self.name)
        request, said = substitute(self.request, str(uuid.uuid4())), ""
        while busy := find_live_job(self.session, self.name) or self._start(request):
            if self.settings.get("when_busy") != "queue":
                raise self._busy(busy)
            if said != busy:
                say(f"waiting for {busy} to end; Ctrl-C gives up the place in the queue")
                said = busy
            sleep(BUSY_POLL_S if self.session.place == "aws" else LOCAL_BUSY_POLL_S)
        job = request["TrainingJobName"]
        ledger.record(ledger.Entry(job, self.session.place, self.session.region))
        return Job(job, self.session)

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

    def _put(self, **changed: Any) -> Schedule:
        schedules.update(self.session, self.with_changes(changed))
        return _deployed(self.session, self.name)

    def with_changes(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """With all of what is deployed: UpdateSchedule resets what it is not given."""
        return {key: value for key, value in self.params.items() if key in schedules.UPDATABLE} | dict(changed)


@dataclass(frozen=True)
class Prepared:
    """A plan that is ready to be deployed: checked and rendered, and nothing of it is sent."""

    plan: Plan
    shelf: Shelf
    line: Line
    home: Home
    request: dict[str, Any]

    def send(self, say: Say, track: Track) -> None:
        """What the request names beside the rows: the code, a model; and a pointer for the champion's channel."""
        upload(self.plan, self.shelf.site, self.shelf.session, say, track)
        ensure_pointer(self.line)


@dataclass(frozen=True)
class Change:
    """What an update would make of a schedule, to be looked at before it is applied."""

    schedule: Schedule
    changed: Mapping[str, Any]
    differences: tuple[tuple[str, str, str], ...]
    prepared: Prepared | None = None

    def apply(self, say: Say = silent, track: Track = untracked) -> Schedule:
        if self.prepared:  # also without a difference: what it names may have been lost
            self.prepared.send(say, track)
        return self.schedule._put(**self.changed) if self.differences else self.schedule


def create_schedule(
    plan: Plan,
    expression: str,
    timezone: str = "UTC",
    *,
    name: str = "",
    retries: int = RETRIES,
    role: str = "",
    queue: str = "",
    say: Say = silent,
    track: Track = untracked,
) -> Schedule:
    """Deploy the plan as a schedule. Its code travels now; its rows are those that are published when it fires."""
    name = check_name(name or plan.run[:NAME_LIMIT].rstrip("-"))
    check_retries(retries)
    cron.check_expression(expression, timezone, now=find_now(plan.recipe.compute.place))
    prepared = _prepare(plan, name, role, queue, say)
    session, home = prepared.shelf.session, prepared.home
    params = {
        "Name": name,
        "GroupName": home.group,
        "ScheduleExpression": expression,
        "ScheduleExpressionTimezone": timezone,
        "State": "ENABLED",
        "Description": _describe(plan),
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": schedules.make_target(home, prepared.request, retries),
    }
    schedules.check_params("CreateSchedule", params)
    schedules.check_free(session, name, home.group)
    prepared.send(say, track)
    schedules.create(session, params)
    ledger.record_place(session.place, session.region)
    if isinstance(cron.parse_expression(expression), cron.Rate):
        say(f"a rate fires when it is created: the first job starts now, and `launcher schedule history {name}` has it")
    return _deployed(session, name)


def _deployed(session: Session, name: str) -> Schedule:
    params = schedules.find(session, name)
    if params is None:
        raise _unknown(name, list(schedules.iter_names(session)))
    return Schedule(session, params)


def _prepare(plan: Plan, name: str, role: str, queue: str, say: Say) -> Prepared:
    """Everything that can be known before anything is sent."""
    check_base_model(plan, say)
    shelf = open_shelf(plan.recipe)
    line = line_beside(shelf)
    s3.check_bucket(shelf.session, shelf.site.bucket)
    rows = tuple(channel for channel in plan.channels if channel.name in CHANNELS)
    check_gate(plan.recipe, rows, say)
    if (current := check_published(shelf, rows)).data_digest != data_digest(rows):
        say(f"published is {current.id}, and the recipe's files differ from it: `launcher publish` publishes them")
    home = find_home(shelf.session, role=role, queue=queue)
    scheduled = make_scheduled_plan(plan, name, shelf, line, home)
    check_champion(line, scheduled)
    if shelf.session.place == "aws":
        say_rights(plan.recipe, shelf.site, line.pointer, home, lambda: shelf.session.client("iam"), say)
    return Prepared(scheduled, shelf, line, home, render(scheduled, shelf.site))


def _describe(plan: Plan) -> str:
    return f"launcher recipe={recipe_key(plan.recipe)} when_busy={plan.recipe.schedule.when_busy}"


def check_retries(retries: int) -> int:
    if not 1 <= retries <= 3:
        raise InputError(
            f"{retries} retries are not between 1 and 3.",
            hint="A firing that made no job by its last retry goes to the dead-letter queue, and its alarm tells you.",
        )
    return retries


def plan_update(
    name: str,
    plan: Plan | None = None,
    expression: str = "",
    timezone: str = "",
    *,
    retries: int | None = None,
    role: str = "",
    queue: str = "",
    place: str | None = None,
    say: Say = silent,
) -> Change:
    """What an update would change; whatever is not asked for stays as it is deployed."""
    deployed = _find_deployed(name, plan, place) if plan else attach_schedule(name, place)
    changed: dict[str, Any] = {}
    if expression or timezone:
        changed["ScheduleExpression"] = expression or deployed.expression
        changed["ScheduleExpressionTimezone"] = timezone or deployed.timezone
        now = find_now(deployed.session.place)
        cron.check_expression(changed["ScheduleExpression"], changed["ScheduleExpressionTimezone"], now=now)
    target = dict(deployed.params["Target"])
    prepared = None
    if plan:
        held = target.get("DeadLetterConfig", {}).get("Arn", "")
        prepared = _prepare(plan, name, role or target["RoleArn"], queue or held, say)
        target["Input"] = json.dumps(_with_topic(prepared.request, deployed.request), separators=(",", ":"))
        changed["Description"] = _describe(plan)
    if retries is not None:
        target["RetryPolicy"] = {**target.get("RetryPolicy", {}), "MaximumRetryAttempts": check_retries(retries)}
    if role:
        target["RoleArn"] = role
    if queue:
        target["DeadLetterConfig"] = {"Arn": queue}
    changed["Target"] = target
    schedules.check_params("UpdateSchedule", deployed.with_changes(changed))
    return Change(deployed, changed, find_differences(deployed.params, {**deployed.params, **changed}), prepared)


def _find_deployed(name: str, plan: Plan, place: str | None) -> Schedule:
    """The schedule that the plan may replace: the one where the recipe goes, and no other of its name."""
    try:
        session = _session_of(plan)
        if params := schedules.find(session, name):
            return Schedule(session, params)
    except (SiteError, CredentialsError) as error:
        raise (_find_elsewhere(name, plan, place) or error) from error
    raise _find_elsewhere(name, plan, place) or _unknown(name, list(schedules.iter_names(session)))


def _find_elsewhere(name: str, plan: Plan, place: str | None) -> InputError | None:
    """A schedule of this name where the recipe does not go, as a refusal; None when there is none."""
    try:
        elsewhere = attach_schedule(name, place)
    except UnknownJob:
        return None
    there, compute = elsewhere.session, plan.recipe.compute
    if there.place == compute.place:
        return InputError(
            f"{name} is deployed in {there.region}, and the recipe goes to another region.",
            hint=f"Add --set compute.region={there.region}.",
        )
    instance = "local" if there.place == "local" else instance_of(elsewhere.request["ResourceConfig"])
    return InputError(
        f"{name} is deployed {'on this machine' if instance == 'local' else 'on AWS'}, and the recipe goes elsewhere: "
        f"compute.instance is {compute.instance}.",
        hint=f"Add --instance {instance}; `launcher schedule create` makes another schedule.",
    )


def _with_topic(request: dict[str, Any], deployed: dict[str, Any]) -> dict[str, Any]:
    """Who is told stays, where neither the recipe nor the stack says otherwise."""
    told = deployed["HyperParameters"].get("notify_topic")
    if told and "notify_topic" not in request["HyperParameters"]:
        request = {**request, "HyperParameters": {**request["HyperParameters"], "notify_topic": told}}
        check_rendered(request)
    return request


def attach_schedule(name: str, place: str | None = None) -> Schedule:
    """The schedule of this name, wherever this machine has deployed one."""
    known: list[str] = []
    for session in iter_sessions(place):
        if found := schedules.find(session, name):
            return Schedule(session, found)
        known += schedules.iter_names(session)
    raise _unknown(name, known)


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


def _session_of(plan: Plan) -> Session:
    return open_session(plan.recipe.compute.place, plan.recipe.compute.region)


def _unknown(name: str, known: list[str]) -> UnknownJob:
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
        for name in schedules.iter_names(session, GROUP):
            if params := schedules.find(session, name):  # else it was deleted meanwhile
                found.append(Schedule(session, params))
    return found
