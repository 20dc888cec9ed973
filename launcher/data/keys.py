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
    return count_quotes(content) != 2 * measure_strings(decoded)[0]


def count_quotes(content: bytes) -> int:
    """The quotation marks that begin or end a string."""
    if b"\\" not in content:
        return content.count(b'"')
    pairless = content.replace(b"\\\\", b"")
    return pairless.count(b'"') - pairless.count(b'\\"')


def measure_strings(values: Iterable[Any]) -> tuple[int, int]:
    """How many strings decoded values hold, keys included, and how deep they are nested."""
    count = depth = 0
    level = list(values)
    while level:
        depth += 1
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                count += 1
            elif isinstance(value, dict):
                count += len(value)
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        level = inner
    return count, depth
