"""CloudWatch Logs for the training jobs' group, read from the files that the runners write."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from launcher.local.json_protocol import (
    ApiError,
    Operation,
    Params,
    check_params,
    decode_token,
    encode_token,
)
from launcher.local.settings import Settings

GROUP = "/aws/sagemaker/TrainingJobs"
SUFFIX = ".jsonl"
INVALID = "InvalidParameterException"
MAX_EVENTS = 10_000
MAX_PAGE_BYTES = 1 << 20  # of messages; CloudWatch's own limit for a page
EVENT_OVERHEAD_BYTES = 26  # what CloudWatch counts for each event beside its message
BLOCK_BYTES = 1 << 16
FOREVER_MS = 1 << 62


@dataclass(frozen=True)
class Event:
    timestamp: int
    message: str
    start: int
    end: int  # where the next line begins


@dataclass(frozen=True)
class Window:
    """From `start_ms` on, and before `end_ms`."""

    start_ms: int
    end_ms: int

    def holds(self, event: Event) -> bool:
        return self.start_ms <= event.timestamp < self.end_ms


class TrainingLogs:
    service = "logs"

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._arn = f"arn:aws:logs:{settings.region}:{settings.account}:log-group:{GROUP}"
        self._operations: dict[str, Operation] = {
            "DescribeLogGroups": self._describe_groups,
            "DescribeLogStreams": self._describe_streams,
            "GetLogEvents": self._get_events,
            "FilterLogEvents": self._filter_events,
        }

    def offers(self, operation: str, params: Params) -> bool:
        """Whether a request is about the training jobs' group, when it is about log groups at all."""
        if operation == "DescribeLogGroups":
            return GROUP.startswith(str(params.get("logGroupNamePrefix", "")))
        group = params.get("logGroupName") or params.get("logGroupIdentifier", "")
        return operation in self._operations and str(group).removesuffix(":*").endswith(GROUP)

    def call(self, operation: str, params: Params) -> dict[str, Any]:
        check_params(self.service, operation, params, code=INVALID)
        if operation != "DescribeLogGroups" and not self._folder.is_dir():
            # SageMaker makes the group with the first job's first line.
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        return self._operations[operation](params)

    # Operations

    def _describe_groups(self, params: Params) -> dict[str, Any]:
        if not self._folder.is_dir():
            return {"logGroups": []}
        group = {
            "logGroupName": GROUP,
            "creationTime": int(self._folder.stat().st_ctime * 1000),
            "metricFilterCount": 0,
            "arn": f"{self._arn}:*",
            "logGroupArn": self._arn,
            "logGroupClass": "STANDARD",
            "storedBytes": sum(path.stat().st_size for path in self._iter_paths()),
        }
        return {"logGroups": [group]}

    def _describe_streams(self, params: Params) -> dict[str, Any]:
        if params.get("orderBy") == "LastEventTime" and params.get("logStreamNamePrefix"):
            raise ApiError(INVALID, "Cannot order by LastEventTime with a logStreamNamePrefix.")
        names = self._find_names(params.get("logStreamNamePrefix", ""))
        streams = [self._describe_stream(name) for name in names]
        if params.get("orderBy") == "LastEventTime":
            streams.sort(key=lambda stream: stream.get("lastEventTimestamp", 0))
        if params.get("descending"):
            streams.reverse()
        limit = params.get("limit", 50)
        (start,) = decode_token(params["nextToken"], 1, code=INVALID) if "nextToken" in params else (0,)
        answer: dict[str, Any] = {"logStreams": streams[start : start + limit]}
        if start + limit < len(streams):
            answer["nextToken"] = encode_token(start + limit)
        return answer

    def _get_events(self, params: Params) -> dict[str, Any]:
        """One page. The token at either end comes back unchanged where nothing more is there."""
        path = self._path(params["logStreamName"])
        if not path.is_file():
            raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
        direction, offset = _read_place(params)
        limit = params.get("limit", MAX_EVENTS)
        with path.open("rb") as file:
            if direction == "f":
                events = _take(_iter_events(file, offset), _window(params), limit)
            else:
                events = _take(_iter_events_back(file, offset), _window(params), limit)[::-1]
        if events:
            first, last = events[0].start, events[-1].end
        else:
            first = last = min(offset, path.stat().st_size) if offset is not None else 0
        return {
            "events": [_wire_event(event) for event in events],
            "nextForwardToken": f"f/{encode_token(last)}",
            "nextBackwardToken": f"b/{encode_token(first)}",
        }

    def _filter_events(self, params: Params) -> dict[str, Any]:
        if "logStreamNames" in params and "logStreamNamePrefix" in params:
            raise ApiError(INVALID, "Give logStreamNames or logStreamNamePrefix, not both.")
        names = params.get("logStreamNames") or self._find_names(params.get("logStreamNamePrefix", ""))
        matches = compile_filter(params.get("filterPattern", ""))
        (seen,) = decode_token(params["nextToken"], 1, code=INVALID) if "nextToken" in params else (0,)
        limit = params.get("limit", MAX_EVENTS)
        found = (event for event in self._merge(names, _window(params)) if matches(event["message"]))
        page = list(islice(found, seen, seen + limit + 1))
        answer: dict[str, Any] = {"events": page[:limit], "searchedLogStreams": []}
        if len(page) > limit:
            answer["nextToken"] = encode_token(seen + limit)
        return answer

    def _merge(self, names: list[str], window: Window) -> Iterator[dict[str, Any]]:
        """The events of several streams in order of time."""

        def read(name: str) -> Iterator[dict[str, Any]]:
            path = self._path(name)
            if not path.is_file():
                raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
            with path.open("rb") as file:
                for event in filter(window.holds, _iter_events(file, 0)):
                    yield _wire_event(event) | {"logStreamName": name, "eventId": f"{event.start:056d}"}

        return heapq.merge(*map(read, names), key=lambda event: event["timestamp"])

    # Streams on disk

    def _path(self, stream: str) -> Path:
        job, _, file = stream.partition("/")
        if not file or "/" in file or {job, file} & {"", ".", ".."}:
            raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
        return self._folder / job / f"{file}{SUFFIX}"

    def _iter_paths(self) -> Iterator[Path]:
        return self._folder.glob(f"*/*{SUFFIX}")

    def _find_names(self, prefix: str) -> list[str]:
        names = (f"{path.parent.name}/{path.name.removesuffix(SUFFIX)}" for path in self._iter_paths())
        return sorted(name for name in names if name.startswith(prefix))

    def _describe_stream(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        stream = {
            "logStreamName": name,
            "creationTime": _find_creation_ms(path),
            "arn": f"{self._arn}:log-stream:{name}",
            "storedBytes": path.stat().st_size,
        }
        with path.open("rb") as file:
            first = next(_iter_events(file, 0), None)
            last = next(_iter_events_back(file, None), None)
        if first and last:
            stream |= {
                "firstEventTimestamp": first.timestamp,
                "lastEventTimestamp": last.timestamp,
                "lastIngestionTime": last.timestamp,
            }
        return stream


def _find_creation_ms(path: Path) -> int:
    """SageMaker puts the second in which a stream was made at the end of its name."""
    seconds = path.name.removesuffix(SUFFIX).rpartition("-")[2]
    return int(seconds) * 1000 if seconds.isdecimal() else int(path.stat().st_ctime * 1000)


def _window(params: Params) -> Window:
    return Window(params.get("startTime", 0), params.get("endTime", FOREVER_MS))


def _read_place(params: Params) -> tuple[str, int | None]:
    """The direction to read in, and the byte to start from; None is the end of the stream."""
    if token := params.get("nextToken"):
        direction, _, place = token.partition("/")
        if direction not in ("f", "b"):
            raise ApiError(INVALID, "The specified nextToken is invalid.")
        (offset,) = decode_token(place, 1, code=INVALID)
        return direction, offset
    return ("f", 0) if params.get("startFromHead") else ("b", None)


def _take(events: Iterator[Event], window: Window, limit: int) -> list[Event]:
    """As many events of the window as fit into one page."""
    page: list[Event] = []
    size = 0
    for event in filter(window.holds, events):
        size += len(event.message.encode()) + EVENT_OVERHEAD_BYTES
        if len(page) == limit or (page and size > MAX_PAGE_BYTES):
            break
        page.append(event)
    return page


def _iter_events(file: BinaryIO, offset: int | None) -> Iterator[Event]:
    """The whole lines from a byte on."""
    start = offset or 0
    file.seek(start)
    return _parse_lines(file, start)


def _iter_events_back(file: BinaryIO, offset: int | None) -> Iterator[Event]:
    """The whole lines before a byte, the last one first, read block by block from the end."""
    end = file.seek(0, SEEK_END)
    position = end if offset is None else min(offset, end)
    beginning = b""  # of a line whose start lies in a block not read yet
    while position:
        size = min(BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size) + beginning
        first_whole = block.find(b"\n") + 1 if position else 0
        if position and not first_whole:
            beginning = block
            continue
        beginning = block[:first_whole]
        yield from reversed(list(_parse_lines(BytesIO(block[first_whole:]), position + first_whole)))


def _parse_lines(lines: BinaryIO, start: int) -> Iterator[Event]:
    for line in lines:
        if not line.endswith(b"\n"):
            return  # a runner is just writing it
        end = start + len(line)
        if (event := _parse_line(line, start, end)) is not None:
            yield event
        start = end


def _parse_line(line: bytes, start: int, end: int) -> Event | None:
    try:
        fields = json.loads(line)
        return Event(int(fields["timestamp"]), fields["message"], start, end)
    except (ValueError, KeyError, TypeError):
        return None  # torn by the kill of a runner in the middle of a write


def _wire_event(event: Event) -> dict[str, Any]:
    return {"timestamp": event.timestamp, "message": event.message, "ingestionTime": event.timestamp}


def compile_filter(pattern: str) -> Callable[[str], bool]:
    """The plain part of CloudWatch's filter patterns: word, "a phrase", -without, ?either ?or."""
    if pattern.lstrip()[:1] in ("{", "[", "%"):
        message = 'The local endpoint knows only terms in a filterPattern: word, "a phrase", -without, ?or.'
        raise ApiError(INVALID, message)
    terms = [(sign, text.strip('"')) for sign, text in re.findall(r'([?-]?)("[^"]*"|\S+)', pattern)]
    needed = [text for sign, text in terms if not sign]
    barred = [text for sign, text in terms if sign == "-"]
    # As in CloudWatch, ?terms count only where no term is required.
    either = [] if needed else [text for sign, text in terms if sign == "?"]

    def matches(message: str) -> bool:
        return (
            all(text in message for text in needed)
            and not any(text in message for text in barred)
            and (not either or any(text in message for text in either))
        )

    return matches
