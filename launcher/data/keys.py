"""A key that an object gives twice: every decoder takes the last value and drops the other without a word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class KeyTwice(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For a decoder's object_pairs_hook."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyTwice(next(key for key in keys if keys.count(key) > 1))
    return fields


def has_key_twice(content: bytes, decoded: Iterable[Any]) -> bool:
    """Whether JSON holds more strings, keys included, than what was decoded from it. Counting takes a tenth of the
    time that a decoder takes which looks at every pair."""
    return count_quotes(content) != 2 * count_strings(decoded)


def count_quotes(content: bytes) -> int:
    """The quotation marks that begin or end a string."""
    if b"\\" not in content:
        return content.count(b'"')
    pairless = content.replace(b"\\\\", b"")
    return pairless.count(b'"') - pairless.count(b'\\"')


def count_strings(values: Iterable[Any]) -> int:
    """All strings in decoded values, keys included."""
    count = 0
    waiting = [values]
    while waiting:
        for value in waiting.pop():
            if isinstance(value, str):
                count += 1
            elif isinstance(value, dict):
                count += len(value)
                waiting.append(value.values())
            elif isinstance(value, list):
                waiting.append(value)
    return count
