"""The quick way for rows with further keys, as an id or a score is: nothing of them is trained, but all of it is read.

As in quick.py a block is accepted or declined. What a key holds may be anything that JSON has; the strings in it are
counted, so that a key given twice shows in the quotation marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from container_src.sft.data import Shape
from launcher.data import quick
from launcher.data.findings import SHOWN
from launcher.data.keys import measure_strings

MAX_KEYS = SHOWN  # as many as a remark has words
MAX_DEPTH = 50  # of what a key holds; far from where a decoder gives up, which is not the same for all
TRAINED: dict[Shape, list[tuple[str, Any]]] = {
    "text": [("text", str)],
    "completion": [("prompt", str), ("completion", str)],
    "messages": [("messages", tuple[quick.Message, ...])],
}
# A row that has one of these beside is of another shape.
OTHERS: dict[Shape, frozenset[str]] = {
    "text": frozenset({"messages", "prompt", "completion"}),
    "completion": frozenset({"messages"}),
    "messages": frozenset(),
}
ANY_SHAPE = frozenset({"text", "prompt", "completion", "messages"})
PLAIN = frozenset({int, float, bool, type(None)})

_any_row = msgspec.json.Decoder(dict[str, msgspec.Raw])
_last_keys: dict[Shape, frozenset[str]] = dict.fromkeys(quick.SHAPES, frozenset())


class Taken(NamedTuple):
    """Rows that were accepted: how many of them have further keys, the first that does, and those keys."""

    identities: list[int]
    with_keys: int = 0
    first: int = 0
    keys: Sequence[str] = ()


def accept(block: bytes, shape: Shape) -> Taken | None:
    block = quick.unify_line_ends(block)
    keys = _last_keys[shape]
    rows = quick.decode(_make_decoder(shape, keys), block) if keys else []
    if not rows:
        keys = _find_keys(block, shape)
        rows = quick.decode(_make_decoder(shape, keys), block) if keys else []
    if not rows:
        return None
    _last_keys[shape] = keys
    beside = [list(map(attrgetter(_name(number)), rows)) for number in range(len(keys))]
    strings = _count_beside(beside)
    if strings < 0 or not quick.is_sound(block, rows, shape, strings):
        return None
    return _describe(rows, shape, beside, sorted(keys))


def count_shapeless(block: bytes) -> int:
    """How many lines there are, where each is an object that has none of the keys of any shape; else 0."""
    rows = quick.decode(_any_row, block)
    if len(rows) != block.count(b"\n") + (not block.endswith(b"\n")):
        return 0
    return len(rows) if all(map(ANY_SHAPE.isdisjoint, rows)) else 0


def _find_keys(block: bytes, shape: Shape) -> frozenset[str]:
    """All further keys of a block; none where its rows are of another shape, or of too many kinds."""
    trained = {name for name, _ in TRAINED[shape]}
    rows = quick.decode(_any_row, block)
    if not rows or not trained <= rows[0].keys():
        return frozenset()
    keys = frozenset().union(*rows) - trained
    return keys if len(keys) <= MAX_KEYS and not keys & OTHERS[shape] and all(map(_is_plain, keys)) else frozenset()


def _is_plain(key: str) -> bool:
    """Spelt without an escape, as a field's name must be."""
    return key.isprintable() and key != "" and not {'"', "\\"} & set(key)


@lru_cache(maxsize=64)
def _make_decoder(shape: Shape, keys: frozenset[str]) -> msgspec.json.Decoder[Any]:
    beside = [
        (_name(number), Any, msgspec.field(default=msgspec.UNSET, name=key)) for number, key in enumerate(sorted(keys))
    ]
    row = msgspec.defstruct("Row", [*TRAINED[shape], *beside], frozen=True, gc=False, forbid_unknown_fields=True)
    return msgspec.json.Decoder(row)


def _name(number: int) -> str:
    return f"beside{number}"


def _count_beside(columns: Sequence[list[Any]]) -> int:
    """The strings of all further keys, with the keys themselves; below 0 where they are nested too deep to tell."""
    count = 0
    for values in columns:
        kinds = set(map(type, values))
        if msgspec.UnsetType in kinds:
            values = [value for value in values if value is not msgspec.UNSET]
            kinds.discard(msgspec.UnsetType)
        count += len(values)
        if kinds == {str}:
            count += len(values)
        elif not kinds <= PLAIN:
            strings, depth = measure_strings(values)
            if depth > MAX_DEPTH:
                return -1
            count += strings
    return count


def _describe(rows: Sequence[Any], shape: Shape, beside: Sequence[list[Any]], keys: Sequence[str]) -> Taken:
    identities = list(map(hash, map(_make_plain(shape), rows)))
    has_any = [False] * len(rows)
    present = []
    for key, values in zip(keys, beside, strict=True):
        has_key = [value is not msgspec.UNSET for value in values]
        if any(has_key):
            present.append(key)
        if all(has_key):
            has_any = has_key
        elif not all(has_any):
            has_any = [one or other for one, other in zip(has_any, has_key, strict=True)]
    if not present:
        return Taken(identities)
    return Taken(identities, has_any.count(True), has_any.index(True), present)


def _make_plain(shape: Shape) -> Any:
    """A row -> what stands for it in quick.py, so that equal rows meet whatever else they hold."""
    if shape == "text":
        return lambda row: quick.TextRow(row.text)
    if shape == "completion":
        return lambda row: quick.PairRow(row.prompt, row.completion)
    return lambda row: quick.ChatRow(row.messages)
