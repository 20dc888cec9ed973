"""What a job prints: cut into lines, written where CloudWatch is read from, searched for metrics."""

from __future__ import annotations

import json
import math
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 64 * 1024
TAIL_LINES = 200
OWN_PREFIX = "[launcher] "
ERROR_LINE = re.compile(r"\b\w*(?:Error|Exception|Interrupt|error:|fatal:)")


class LineSplitter:
    """Bytes as they come from a pipe, to whole lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from _show(line)
        if len(self._rest) > MAX_LINE_BYTES:
            # A progress bar may never end its line; what it has written over is of no use.
            self._rest = _last_segment(self._rest)
        while len(self._rest) > MAX_LINE_BYTES:
            piece, self._rest = _cut(self._rest)
            yield _decode(piece)

    def finish(self) -> Iterator[str]:
        rest, self._rest = self._rest, b""
        if rest:
            yield from _show(rest)


def _show(line: bytes) -> Iterator[str]:
    piece, rest = _cut(_last_segment(line))
    yield _decode(piece)
    while rest:
        piece, rest = _cut(rest)
        yield _decode(piece)


def _last_segment(line: bytes) -> bytes:
    """A terminal shows what follows the last carriage return."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _cut(line: bytes) -> tuple[bytes, bytes]:
    end = MAX_LINE_BYTES
    # Not inside a character: its later bytes begin with the bits 10.
    while MAX_LINE_BYTES - 4 < end < len(line) and line[end] & 0xC0 == 0x80:
        end -= 1
    return line[:end], line[end:]


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "replace")


class JobLog:
    """One log stream: a file with a JSON object for each line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"algo-1-{int(time.time())}.jsonl").open("a", encoding="utf-8")
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def write(self, line: str) -> None:
        self._append(line)
        self._tail.append(line)

    def say(self, text: str) -> None:
        """A line of the runner's own, among those of the job."""
        self._append(OWN_PREFIX + text)
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def find_last_error(self) -> str:
        """The last line that looks like an error, else the last line at all."""
        lines = [line.strip() for line in self._tail if line.strip()]
        errors = [line for line in lines if ERROR_LINE.search(line)]
        return (errors or lines or ["the job printed nothing"])[-1]

    def _append(self, message: str) -> None:
        # CloudWatch refuses an empty message.
        event = {"timestamp": int(time.time() * 1000), "message": message or " "}
        self._file.write(json.dumps(event, ensure_ascii=False) + "\n")


class MetricWatch:
    """The last value of each metric that a request defines."""

    def __init__(self, definitions: list[dict[str, str]]) -> None:
        self._patterns: list[tuple[str, re.Pattern[str]]] = []
        self.refused: list[str] = []
        self._last: dict[str, dict[str, Any]] = {}
        for definition in definitions:
            try:
                self._patterns.append((definition["Name"], re.compile(definition["Regex"])))
            except re.error as error:
                self.refused.append(f"the regex of the metric {definition['Name']} is not valid: {error}")

    def read(self, line: str) -> None:
        for name, pattern in self._patterns:
            match = pattern.search(line)
            value = _to_number(match[1]) if match and pattern.groups else None
            if value is not None:
                self._last[name] = {"MetricName": name, "Value": value, "Timestamp": time.time()}

    def list_final(self) -> list[dict[str, Any]]:
        return list(self._last.values())


def _to_number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
