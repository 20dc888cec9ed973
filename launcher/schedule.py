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
from launcher.aws.session import Session, open_session
from launcher.champion import Line, ensure_pointer, line_beside, read_champion
from launcher.claims import claim_key, giving_back, take_claim
from launcher.data.settings import CHANNELS
from launcher.errors import InputError, RunError, UnknownJob
from launcher.executions import Execution, Price, cost_nothing, find_live_job, iter_executions, iter_jobs_of, look_up
from launcher.job import Job, iter_sessions
from launcher.plan import Plan, data_digest, recipe_key
from launcher.progress import Say, Track, silent, untracked
from launcher.publication import Shelf, check_published, open_shelf
from launcher.scheduled import (
    NAME_LIMIT,
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
SHOWN_VALUE = 120


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
            datetime.now(UTC),
            start=start.astimezone(UTC) if start else None,
            end=self.params.get("EndDate"),
        )
        return [firing.astimezone(zone) for firing in islice(firings, count)]

    def rows(self) -> list[tuple[str, str]]:
        """As people read it."""
        target, request = self.params["Target"], self.request
        firings = ", ".join(f"{firing:%Y-%m-%d %H:%M %Z}" for firing in self.next_firings())
        return [
            ("schedule", self.name),
            ("state", "paused" if self.is_paused else "enabled"),
            ("when", f"{self.expression} in {self.timezone}"),
            ("next", firings or "never"),
            ("recipe", self.settings.get("recipe", "")),
            ("instance", str(request["ResourceConfig"].get("InstanceType", ""))),
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

    def executions(self, price: Price | None = None) -> Iterator[Execution]:
        """What came of each firing and trigger, the newest first; at AWS's prices, or those given."""
        dead = self.params["Target"].get("DeadLetterConfig", {}).get("Arn", "")
        known = look_up if self.session.place == "aws" else cost_nothing
        return iter_executions(self.session, self.name, str(self.params["Arn"]), dead, price or known)

    def pause(self) -> Schedule:
        return self._put(State="DISABLED")

    def resume(self) -> Schedule:
        cron.check_expression(self.expression, self.timezone)
        return self._put(State="ENABLED")

    def delete(self) -> None:
        """The schedule alone: its jobs, publications and champions stay."""
        schedules.delete(self.session, self.name, str(self.params["GroupName"]))

    def trigger(self, say: Say = silent, *, sleep: Callable[[float], None] = time.sleep) -> Job:
        """One job now, as a firing would make it; or a refusal, when one runs, is being started, or cannot succeed."""
        if self.is_paused:
            raise RunError(f"{self.name} is paused.", hint=f"`launcher schedule resume {self.name}`, then trigger it.")
        self._check_mounts()
        self._wait_for_turn(say, sleep)
        newest = next(iter_jobs_of(self.session, self.name), None)
        request = substitute(self.request, str(uuid.uuid4()))
        job, root = request["TrainingJobName"], self.request["CheckpointConfig"]["S3Uri"].partition("/checkpoints/")[0]
        before = newest["TrainingJobName"] if newest else "nothing"
        bucket, key = s3.split_uri(f"{root}/{claim_key(self.name, before)}")
        if holder := take_claim(self.session, bucket, key, job):
            raise self._busy(holder)
        with giving_back(self.session, bucket, key):
            if busy := find_live_job(self.session, self.name):
                raise self._busy(busy)
            jobs.create_job(self.session, request)
        ledger.record(ledger.Entry(job, self.session.place, self.session.region))
        return Job(job, self.session)

    def _wait_for_turn(self, say: Say, sleep: Callable[[float], None]) -> None:
        said = ""
        while busy := find_live_job(self.session, self.name):
            if self.settings.get("when_busy") != "queue":
                raise self._busy(busy)
            if said != busy:
                say(f"waiting for {busy} to end; Ctrl-C gives up the place in the queue")
                said = busy
            sleep(BUSY_POLL_S if self.session.place == "aws" else LOCAL_BUSY_POLL_S)

    def _busy(self, job: str) -> RunError:
        return RunError(
            f"{self.name} has a live job: {job}.",
            hint=f'`launcher wait {job}` waits for it; schedule.when_busy = "queue" in the recipe has trigger wait.',
        )

    def _check_mounts(self) -> None:
        """What the job is to read must be there: AWS would say so only after minutes, and in other words."""
        for channel in self.request["InputDataConfig"]:
            source = channel["DataSource"]["S3DataSource"]
            bucket, key = s3.split_uri(source["S3Uri"])
            s3.check_bucket(self.session, bucket)
            if channel["ChannelName"] == "champion":
                folder = source["S3Uri"].rpartition("/")[0] + "/"
                read_champion(Line(self.session, folder.rstrip("/").rpartition("/")[2], folder)).check()
            elif source["S3DataType"] == "ManifestFile" and s3.find_object(self.session, bucket, key) is None:
                raise RunError(
                    f"{source['S3Uri']} is gone, so {self.name} has no {channel['ChannelName']} rows.",
                    hint="`launcher publish RECIPE` publishes them again.",
                )

    def _put(self, **changed: Any) -> Schedule:
        # all of what is deployed: UpdateSchedule resets what it is not given
        params = {key: value for key, value in self.params.items() if key in schedules.UPDATABLE} | changed
        schedules.update(self.session, params)
        return _deployed(self.session, self.name)


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
        if not self.differences:
            return self.schedule
        if self.prepared:
            self.prepared.send(say, track)
        return self.schedule._put(**self.changed)


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
    cron.check_expression(expression, timezone)
    prepared = _prepare(plan, name, role, queue, say)
    prepared.send(say, track)
    session, home = prepared.shelf.session, prepared.home
    params = {
        "Name": name,
        "GroupName": home.group,
        "ScheduleExpression": expression,
        "ScheduleExpressionTimezone": timezone,
        "State": "ENABLED",
        "Description": _describe(plan),
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": schedules.make_target(home, prepared.request, check_retries(retries)),
    }
    schedules.create(session, params)
    ledger.record_place(session.place, session.region)
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
    check_gate(plan.recipe, rows)
    if (current := check_published(shelf, rows)).data_digest != data_digest(rows):
        say(f"published is {current.id}, and the recipe's files differ from it: `launcher publish` publishes them")
    home = find_home(shelf.session, role=role, queue=queue)
    scheduled = make_scheduled_plan(plan, name, shelf, line, home)
    return Prepared(scheduled, shelf, line, home, render(scheduled, shelf.site))


def _describe(plan: Plan) -> str:
    return f"launcher recipe={recipe_key(plan.recipe)} when_busy={plan.recipe.schedule.when_busy}"


def check_retries(retries: int) -> int:
    if not 1 <= retries <= 3:
        raise InputError(
            f"{retries} retries are not between 1 and 3.",
            hint="A firing that fails three times goes to the dead-letter queue, where its alarm tells you.",
        )
    return retries


def plan_update(
    name: str,
    plan: Plan | None = None,
    expression: str = "",
    timezone: str = "",
    *,
    retries: int = 0,
    role: str = "",
    queue: str = "",
    place: str | None = None,
    say: Say = silent,
) -> Change:
    """What an update would change; whatever is not asked for stays as it is deployed."""
    deployed = _deployed(_session_of(plan), name) if plan else attach_schedule(name, place)
    changed: dict[str, Any] = {}
    if expression or timezone:
        changed["ScheduleExpression"] = expression or deployed.expression
        changed["ScheduleExpressionTimezone"] = timezone or deployed.timezone
        cron.check_expression(changed["ScheduleExpression"], changed["ScheduleExpressionTimezone"])
    target = dict(deployed.params["Target"])
    prepared = None
    if plan:
        held = target.get("DeadLetterConfig", {}).get("Arn", "")
        prepared = _prepare(plan, name, role or target["RoleArn"], queue or held, say)
        target["Input"] = json.dumps(_with_topic(prepared.request, deployed.request), separators=(",", ":"))
        changed["Description"] = _describe(plan)
    if retries:
        target["RetryPolicy"] = {**target.get("RetryPolicy", {}), "MaximumRetryAttempts": check_retries(retries)}
    if role:
        target["RoleArn"] = role
    if queue:
        target["DeadLetterConfig"] = {"Arn": queue}
    changed["Target"] = target
    before, after = _flat(deployed.params), _flat({**deployed.params, **changed})
    keys = sorted(before.keys() | after.keys())
    differences = [(key, before.get(key, ""), after.get(key, "")) for key in keys if before.get(key) != after.get(key)]
    return Change(deployed, changed, tuple(differences), prepared)


def _with_topic(request: dict[str, Any], deployed: dict[str, Any]) -> dict[str, Any]:
    """Who is told stays, where neither the recipe nor the stack says otherwise."""
    told = deployed["HyperParameters"].get("notify_topic")
    if told and "notify_topic" not in request["HyperParameters"]:
        request = {**request, "HyperParameters": {**request["HyperParameters"], "notify_topic": told}}
        check_rendered(request)
    return request


def _flat(value: Any, where: str = "") -> dict[str, str]:
    """A tree as its leaves by their paths; the request inside the target is a tree too."""
    if where == "Target.Input":
        value = json.loads(value)
    if isinstance(value, Mapping):
        parts = [(f"{where}.{key}" if where else str(key), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{where}[{_label(part, number)}]", part) for number, part in enumerate(value)]
    else:
        return {where.replace("Target.Input.", "request."): str(value)[:SHOWN_VALUE]}
    return {path: leaf for part, content in parts for path, leaf in _flat(content, part).items()}


def _label(part: Any, number: int) -> str:
    return (
        str(part.get("ChannelName") or part.get("Key") or part.get("Name") or number)
        if isinstance(part, Mapping)
        else str(number)
    )


def attach_schedule(name: str, place: str | None = None) -> Schedule:
    """The schedule of this name, wherever this machine has deployed one."""
    known: list[str] = []
    for session in iter_sessions(place):
        if found := schedules.find(session, name):
            return Schedule(session, found)
        known += schedules.iter_names(session)
    raise _unknown(name, known)


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
