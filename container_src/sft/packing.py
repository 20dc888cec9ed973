"""Whole optimizer steps as packed rows: examples end to end, no padding between them.

What a packed row's attention needs (where each example begins) travels inside the row, since loaders fetch ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .data import IGNORED, Encoded
from .memory_plan import TILE


@dataclass(frozen=True)
class Layout:
    """The size of a packed row: tokens, and places for the examples' ends."""

    tokens: int
    ends: int

    @property
    def size(self) -> int:
        """Integers of a packed row: ids, positions and targets, ends, and two numbers for the whole step."""
        return 3 * self.tokens + self.ends + 3

    def split(self, numbers: Any) -> Row:
        ids, positions, targets, ends, rest = numbers.split([self.tokens] * 3 + [self.ends + 1, 2])
        return Row(ids, positions, targets, ends.int(), rest[0], rest[1:])


@dataclass(frozen=True)
class Row:
    """A packed row as tensors. `ends` begins with 0; `trained` counts the whole step's trained tokens."""

    ids: Any
    positions: Any
    targets: Any
    ends: Any
    trained: Any
    seed: Any


def pack(rows: Sequence[Encoded], layout: Layout, longest: int, trained: int, seed: int) -> list[int]:
    """Rows as the integers of one packed row. The rest is padding, cut into examples of at most `longest` tokens."""
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    ends = [0]
    for row in rows:
        ids += row.input_ids
        positions += range(len(row.input_ids))
        targets += make_targets(row.labels)
        ends.append(len(ids))
    while len(ids) < layout.tokens:
        missing = min(longest, layout.tokens - len(ids))
        ids += [0] * missing
        positions += range(missing)
        targets += [IGNORED] * missing
        ends.append(len(ids))
    if len(ids) > layout.tokens or len(ends) > layout.ends + 1:
        raise ValueError(f"{len(rows)} rows of {len(ids)} tokens do not fit a packed row of {layout}")
    ends += [layout.tokens] * (layout.ends + 1 - len(ends))
    return [*ids, *positions, *targets, *ends, trained, seed]


def make_targets(labels: list[int]) -> list[int]:
    """What each token must predict: the next label of its own example, so that no example's first token is one."""
    return [*labels[1:], IGNORED]


def split_by_tokens(rows: Sequence[Encoded], limit: int) -> list[list[Encoded]]:
    """Consecutive rows in parts of at most `limit` tokens; a longer row is a part of its own."""
    parts: list[list[Encoded]] = []
    room = 0
    for row in rows:
        if not parts or len(row.input_ids) > room:
            parts.append([])
            room = limit
        parts[-1].append(row)
        room -= len(row.input_ids)
    return parts


def choose_buckets(lengths: Sequence[int], count: int, tile: int = TILE) -> list[int]:
    """At most `count` bucket lengths, with the least padding that these lengths can have, longest first."""
    rounded: dict[int, int] = {}
    for length in lengths:
        key = _round_up(length, tile)
        rounded[key] = rounded.get(key, 0) + 1
    if len(rounded) > 256:
        return choose_buckets(lengths, count, 2 * tile)
    return sorted(_least_padding(sorted(rounded), rounded, count), reverse=True)


def _least_padding(sizes: list[int], counts: dict[int, int], buckets: int) -> list[int]:
    """Dynamic programming over the sorted lengths: best[j] is the least cost of covering the first j of them."""
    best: list[tuple[int, list[int]]] = [(0, [])] + [(sum(counts.values()) * sizes[-1] + 1, [])] * len(sizes)
    for _ in range(buckets):
        renewed = list(best)
        for last in range(1, len(sizes) + 1):
            cost = 0
            for first in range(last, 0, -1):
                cost += counts[sizes[first - 1]] * sizes[last - 1]
                known, chosen = best[first - 1]
                if known + cost < renewed[last][0]:
                    renewed[last] = (known + cost, [*chosen, sizes[last - 1]])
        best = renewed
    return best[-1][1]


def find_bucket(buckets: Sequence[int], length: int) -> int:
    """The shortest bucket that holds so many tokens, or the length itself in tiles where none does."""
    return min((bucket for bucket in buckets if bucket >= length), default=_round_up(length, TILE))


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
