"""EventBridge Scheduler's operations, kept in the ScheduleBook and carried out by the loop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Protocol

from launcher.cron import Rate, check_expression, parse_expression
from launcher.errors import InputError
from launcher.local.clock import Clock
from launcher.local.jobs import Document
from launcher.local.json_protocol import (
    ApiError,
    Operation,
    Params,
    check_params,
    decode_token,
    encode_token,
    read_time,
    validation_error,
)
from launcher.local.schedule_book import Schedule, ScheduleBook, Taken, Unknown
from launcher.local.settings import Settings
from launcher.local.targets import Targets

DEFAULT_GROUP = "default"
RETRY_POLICY = {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
PAGE = 100
MAX_TAGS = 50
OLDEST_START_S = 300
SUMMARY_FIELDS = ("Arn", "Name", "GroupName", "State", "CreationDate", "LastModificationDate")


class Loop(Protocol):
    """What the operations ask of the loop."""

    def wake(self) -> None: ...


class Schedules:
    service = "scheduler"

    def __init__(self, book: ScheduleBook, targets: Targets, loop: Loop, clock: Clock, settings: Settings) -> None:
        self._book = book
        self._targets = targets
        self._loop = loop
        self._clock = clock
        self._prefix = f"arn:aws:scheduler:{settings.region}:{settings.account}"
        self._operations: dict[str, Operation] = {
            "CreateSchedule": self._create,
            "GetSchedule": self._get,
            "UpdateSchedule": self._update,
            "DeleteSchedule": self._delete,
            "ListSchedules": self._list,
            "CreateScheduleGroup": self._create_group,
            "GetScheduleGroup": self._get_group,
            "DeleteScheduleGroup": self._delete_group,
            "ListScheduleGroups": self._list_groups,
            "TagResource": self._tag,
            "UntagResource": self._untag,
            "ListTagsForResource": self._list_tags,
        }
        self._make_default_group()

    def call(self, operation: str, params: Params) -> dict[str, Any]:
        check_params(self.service, operation, params)
        with self._book.together():
            try:
                return self._call_once(params.pop("ClientToken", None), operation, params)
            except Unknown as error:
                raise ApiError(
                    "ResourceNotFoundException", f"{_kind(operation)} {error} does not exist.", 404
                ) from error
            except Taken as error:
                raise _conflict(f"{_kind(operation)} {error} already exists.") from error

    def _call_once(self, token: str | None, operation: str, params: Params) -> dict[str, Any]:
        """A request with the token of an earlier one is answered like that one, and does nothing."""
        request = json.dumps([operation, params], sort_keys=True)
        if token and (known := self._book.find_answer(token)):
            if known[0] != request:
                raise _conflict("This ClientToken came with another request before.")
            return known[1]
        answer = self._operations[operation](params)
        if token:
            self._book.keep_answer(token, request, answer)
        return answer

    # Schedules

    def _create(self, params: Params) -> dict[str, Any]:
        now = self._clock.now()
        document = self._make_document(params, created=now)
        self._check_times(document, {}, now)
        schedule = Schedule(0, document["GroupName"], document["Name"], document, float(int(now)), None)
        self._book.add(document, schedule.anchor, _find_first(schedule, now))
        self._loop.wake()
        return {"ScheduleArn": document["Arn"]}

    def _get(self, params: Params) -> dict[str, Any]:
        return self._find(params).document

    def _update(self, params: Params) -> dict[str, Any]:
        """What is not given gets its default again, as at AWS. A rate goes on counting unless it is another one."""
        old = self._find(params)
        now = self._clock.now()
        document = self._make_document(params, created=old.document["CreationDate"])
        self._check_times(document, old.document, now)
        if _has_other_times(document, old.document):
            schedule = Schedule(old.number, old.group, old.name, document, float(int(now)), None)
            next_at = _find_first(schedule, now)
        else:
            schedule = Schedule(old.number, old.group, old.name, document, old.anchor, None)
            # Not past a firing whose time has come a moment ago and which the loop has not seen yet.
            next_at = schedule.find_next(now if old.next_at is None else min(now, old.next_at - 1))
        self._book.replace(old, document, schedule.anchor, next_at)
        self._loop.wake()
        return {"ScheduleArn": document["Arn"]}

    def _delete(self, params: Params) -> dict[str, Any]:
        self._book.delete(self._find(params))
        self._loop.wake()
        return {}

    def _list(self, params: Params) -> dict[str, Any]:
        group, state = params.get("GroupName"), params.get("State")
        if group is not None:
            self._book.group(group)
        found = [
            schedule.document
            for schedule in self._book.schedules(group)
            if schedule.name.startswith(params.get("NamePrefix", "")) and state in (None, schedule.document["State"])
        ]
        page, token = _take_page(found, params, "GroupName", "Name")
        return {"Schedules": [_summarise(document) for document in page], **token}

    def _find(self, params: Params) -> Schedule:
        group = params.get("GroupName") or DEFAULT_GROUP
        self._book.group(group)
        return self._book.get(group, params["Name"])

    def _make_document(self, params: Params, created: float) -> Document:
        group, name = params.get("GroupName") or DEFAULT_GROUP, params["Name"]
        self._targets.check(params["Target"])
        _check_window(params["FlexibleTimeWindow"])
        given = {key: value for key, value in params.items() if value is not None}
        for key in ("StartDate", "EndDate"):
            if key in given:
                given[key] = read_time(given[key])
        policy = RETRY_POLICY | (params["Target"].get("RetryPolicy") or {})
        defaults = {"ScheduleExpressionTimezone": "UTC", "State": "ENABLED", "ActionAfterCompletion": "NONE"}
        return (
            defaults
            | given
            | {
                "Arn": f"{self._prefix}:schedule/{group}/{name}",
                "GroupName": group,
                "Target": params["Target"] | {"RetryPolicy": policy},
                "CreationDate": created,
                "LastModificationDate": self._clock.now(),
            }
        )

    def _check_times(self, document: Document, old: Document, now: float) -> None:
        """Only what is new is checked: a schedule that has come to its end can still be paused."""
        if _has_other_times(document, old):
            _check_expression(document, now)
        start, end = document.get("StartDate"), document.get("EndDate")
        if start is not None and start != old.get("StartDate") and start < now - OLDEST_START_S:
            raise validation_error("The StartDate you specify cannot be earlier than 5 minutes ago.")
        if end is not None and end != old.get("EndDate") and end <= max(now, start or now):
            raise validation_error("The EndDate you specify must come after the StartDate and after now.")

    # Groups and their tags

    def _make_default_group(self) -> None:
        try:
            self._book.group(DEFAULT_GROUP)
        except Unknown:
            self._book.add_group(self._make_group(DEFAULT_GROUP), {})

    def _make_group(self, name: str) -> Document:
        now = self._clock.now()
        arn = f"{self._prefix}:schedule-group/{name}"
        return {"Arn": arn, "Name": name, "State": "ACTIVE", "CreationDate": now, "LastModificationDate": now}

    def _create_group(self, params: Params) -> dict[str, Any]:
        document = self._make_group(params["Name"])
        self._book.add_group(document, _make_tags(params.get("Tags") or []))
        return {"ScheduleGroupArn": document["Arn"]}

    def _get_group(self, params: Params) -> dict[str, Any]:
        return self._book.group(params["Name"])

    def _delete_group(self, params: Params) -> dict[str, Any]:
        if params["Name"] == DEFAULT_GROUP:
            raise validation_error("The default schedule group cannot be deleted.")
        self._book.delete_group(params["Name"])
        self._loop.wake()
        return {}

    def _list_groups(self, params: Params) -> dict[str, Any]:
        prefix = params.get("NamePrefix", "")
        found = [document for document in self._book.groups() if document["Name"].startswith(prefix)]
        page, token = _take_page(found, params, "Name")
        return {"ScheduleGroups": page, **token}

    def _tag(self, params: Params) -> dict[str, Any]:
        group = _find_group(params)
        tags = self._book.tags(group) | _make_tags(params["Tags"])
        if len(tags) > MAX_TAGS:
            raise validation_error(f"A resource can have {MAX_TAGS} tags; this would make it {len(tags)}.")
        self._book.set_tags(group, tags)
        return {}

    def _untag(self, params: Params) -> dict[str, Any]:
        group = _find_group(params)
        tags = self._book.tags(group)
        self._book.set_tags(group, {key: tags[key] for key in tags if key not in params["TagKeys"]})
        return {}

    def _list_tags(self, params: Params) -> dict[str, Any]:
        tags = self._book.tags(_find_group(params))
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def _kind(operation: str) -> str:
    return "Schedule" if operation.endswith("Schedule") else "Schedule group"


def _conflict(message: str) -> ApiError:
    return ApiError("ConflictException", message, 409)


# Times


def _find_first(schedule: Schedule, now: float) -> float | None:
    """A rate without a start fires for the first time at once."""
    is_rate = isinstance(parse_expression(schedule.document["ScheduleExpression"]), Rate)
    return schedule.find_next(min(now, schedule.anchor - 1) if is_rate else now)


def _has_other_times(document: Document, old: Document) -> bool:
    keys = ("ScheduleExpression", "ScheduleExpressionTimezone", "StartDate")
    return any(document.get(key) != old.get(key) for key in keys)


def _check_expression(document: Document, now: float) -> None:
    text, zone = document["ScheduleExpression"], document["ScheduleExpressionTimezone"]
    try:
        check_expression(text, zone, now=datetime.fromtimestamp(now, UTC))
    except InputError as error:
        raise validation_error(f"Invalid Schedule Expression: {error.message} {error.hint}") from error


def _check_window(window: dict[str, Any]) -> None:
    """A flexible schedule fires at the beginning of its window, which is as good as any other time in it."""
    is_flexible = window["Mode"] == "FLEXIBLE"
    if is_flexible != (window.get("MaximumWindowInMinutes") is not None):
        raise validation_error("MaximumWindowInMinutes belongs to a FlexibleTimeWindow in Mode FLEXIBLE, only there.")


# Lists and tags


def _take_page(found: list[Document], params: Params, *key: str) -> tuple[list[Document], dict[str, str]]:
    """A page goes on behind the last one of the page before, whatever was created in between."""

    def place(document: Document) -> list[str]:
        return [str(document[name]) for name in key]

    if token := params.get("NextToken"):
        last = [str(part) for part in decode_token(token, len(key))]
        found = [document for document in found if place(document) > last]
    page = found[: params.get("MaxResults", PAGE)]
    return page, {"NextToken": encode_token(*place(page[-1]))} if len(page) < len(found) else {}


def _summarise(document: Document) -> Document:
    return {field: document[field] for field in SUMMARY_FIELDS} | {"Target": {"Arn": document["Target"]["Arn"]}}


def _find_group(params: Params) -> str:
    return str(params["ResourceArn"]).rpartition("/")[2]


def _make_tags(tags: list[dict[str, str]]) -> dict[str, str]:
    if reserved := [tag["Key"] for tag in tags if tag["Key"].lower().startswith("aws:")]:
        raise validation_error(f"Tag keys that begin with aws: are reserved: {reserved[0]}")
    return {tag["Key"]: tag["Value"] for tag in tags}
