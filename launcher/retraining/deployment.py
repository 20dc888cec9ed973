"""Making a plan a schedule, and changing one that is deployed: checked first, then sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher import cron, ledger
from launcher.aws import s3, schedules
from launcher.aws.schedules import Home, find_home
from launcher.aws.session import Session, find_now, open_session
from launcher.data.settings import CHANNELS
from launcher.differences import find_differences
from launcher.errors import CredentialsError, InputError, SiteError, UnknownJob
from launcher.job import instance_of
from launcher.plan import Plan, data_digest, recipe_key
from launcher.progress import Say, Track, silent, untracked
from launcher.retraining.champion import Line, ensure_pointer, line_beside
from launcher.retraining.gate_rights import say_rights
from launcher.retraining.publication import Shelf, check_published, open_shelf
from launcher.retraining.schedule import Schedule, attach_schedule, read_deployed, unknown_schedule
from launcher.retraining.scheduled import (
    NAME_LIMIT,
    check_champion,
    check_gate,
    check_name,
    make_scheduled_plan,
    render,
    say_reach,
)
from launcher.submission import check_base_model, upload

RETRIES = 2


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
        return self.schedule.put(**self.changed) if self.differences else self.schedule


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
        "GroupName": schedules.GROUP,
        "ScheduleExpression": expression,
        "ScheduleExpressionTimezone": timezone,
        "State": "ENABLED",
        "Description": _describe(plan),
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": schedules.make_target(home, prepared.request, retries),
    }
    schedules.check_params("CreateSchedule", params)
    schedules.check_free(session, name)
    prepared.send(say, track)
    schedules.create(session, params)
    ledger.record_place(session.place, session.region)
    if isinstance(cron.parse_expression(expression), cron.Rate):
        say(f"a rate fires when it is created: the first job starts now, and `launcher schedule history {name}` has it")
    return read_deployed(session, name)


def _prepare(plan: Plan, name: str, role: str, queue: str, say: Say, told: str = "") -> Prepared:
    """Everything that can be known before anything is sent. `told` is the topic of what is deployed."""
    check_base_model(plan, say)
    shelf = open_shelf(plan.recipe)
    line = line_beside(shelf)
    s3.check_bucket(shelf.session, shelf.site.bucket)
    rows = tuple(channel for channel in plan.channels if channel.name in CHANNELS)
    current = check_published(shelf, rows)
    check_gate(plan.recipe, current.row_counts(), say)
    if current.data_digest != data_digest(rows):
        say(f"published is {current.id}, and the recipe's files differ from it: `launcher publish` publishes them")
    home = find_home(shelf.session, role=role, queue=queue, told=told)
    scheduled = make_scheduled_plan(plan, name, shelf, line, home)
    say_reach(scheduled, say)
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
            hint=f"Leave --retries out ({RETRIES}), or give 1, 2 or 3; a firing without a job after them is told of.",
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
        told = json.loads(deployed.request["HyperParameters"].get("notify_topic", '""'))
        prepared = _prepare(plan, name, role or target["RoleArn"], queue or held, say, told)
        target["Input"] = json.dumps(prepared.request, separators=(",", ":"))
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
    raise _find_elsewhere(name, plan, place) or unknown_schedule(name, list(schedules.iter_names(session)))


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


def _session_of(plan: Plan) -> Session:
    return open_session(plan.recipe.compute.place, plan.recipe.compute.region)
