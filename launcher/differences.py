"""What differs between two deployed schedules, leaf by leaf."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

SHOWN = 120  # characters of a value in a table
SHOWN_BEFORE = 40  # of them what both values begin with


def find_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Path, old and new value of every leaf that is not the same in both."""
    before, after = _flat(old), _flat(new)
    keys = sorted(before.keys() | after.keys())
    return tuple((key, before.get(key, ""), after.get(key, "")) for key in keys if before.get(key) != after.get(key))


def shorten(before: str, after: str) -> tuple[str, str]:
    """Both as a table can show them, around the place from where on they differ."""
    if max(len(before), len(after)) <= SHOWN:
        return before, after
    start = max(0, len(os.path.commonprefix([before, after])) - SHOWN_BEFORE)
    return _cut(before, start), _cut(after, start)


def _cut(text: str, start: int) -> str:
    end = start + SHOWN
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def _flat(value: Any, where: str = "") -> dict[str, str]:
    """A tree as its leaves by their paths; the request inside the target is a tree too."""
    if where == "Target.Input":
        value = json.loads(value)
    if isinstance(value, Mapping):
        parts = [(f"{where}.{key}" if where else str(key), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{where}[{_label(part, number)}]", part) for number, part in enumerate(value)]
    else:
        return {where.replace("Target.Input.", "request."): str(value)}
    return {path: leaf for part, content in parts for path, leaf in _flat(content, part).items()}


def _label(part: Any, number: int) -> str:
    if not isinstance(part, Mapping):
        return str(number)
    return str(part.get("ChannelName") or part.get("Key") or part.get("Name") or number)
