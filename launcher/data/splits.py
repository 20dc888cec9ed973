"""Which channel a row goes to: decided by what it holds and the seed, never by its place or by chance.

A row's hash is keyed with the seed. Equal rows have equal hashes, so duplicates stay on one side; the ranks of the
hashes give each channel its exact share; and a row that is added moves no others but those at the border. 64 bits meet
by accident once in a hundred thousand runs over ten million rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

UNDECIDED, DUPLICATE, BEYOND_LIMIT, FIRST_CHANNEL = 0, 1, 2, 3
HASH_TYPE = "u8"


def hash_rows(contents: Iterable[bytes], seed: int) -> bytes:
    """One number each, keyed with the seed, the same on every machine. xxh3 takes a tenth of a cryptographic hash's
    time; nobody gains by making rows meet."""
    import xxhash

    return array("Q", map(xxhash.xxh3_64_intdigest, contents, repeat(seed % 2**64))).tobytes()


@dataclass(frozen=True)
class Division:
    """How rows are dealt out. `fixed` has for each row the number of a channel that its source sets, or -1."""

    deduplicate: bool
    limit: int
    split: tuple[int, ...]
    seed: int


def divide(rows: bytes | bytearray, groups: bytes | bytearray, fixed: Any, division: Division) -> Any:
    """For each row FIRST_CHANNEL + its channel's number, or why it is left out.

    `rows` holds the rows' hashes, `groups` those of what must stay together (empty: the row itself).
    """
    import numpy as np

    hashes = np.frombuffer(rows, HASH_TYPE)
    codes = np.zeros(len(hashes), np.uint8)
    if division.deduplicate:
        codes[_find_repeats(hashes)] = DUPLICATE
    if division.limit:
        kept = np.flatnonzero(codes == UNDECIDED)
        codes[kept[np.argsort(hashes[kept], kind="stable")[division.limit :]]] = BEYOND_LIMIT
    kept = codes == UNDECIDED
    own = kept & (fixed >= 0)
    codes[own] = FIRST_CHANNEL + fixed[own]
    shared = np.flatnonzero(kept & (fixed < 0))
    keys = _mix(np.frombuffer(groups, HASH_TYPE)[shared] if groups else hashes[shared], division.seed)
    codes[shared] = FIRST_CHANNEL + _split(keys, division.split)
    return codes


def _find_repeats(hashes: Any) -> Any:
    """The places of all rows that stood before; the first of each stays."""
    import numpy as np

    order = np.argsort(hashes, kind="stable")
    ranked = hashes[order]
    return order[1:][ranked[1:] == ranked[:-1]]


def _mix(hashes: Any, seed: int) -> Any:
    """Other numbers from the same hashes (splitmix64), so that the limit and the split do not choose alike."""
    import numpy as np

    mixed = hashes + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _split(keys: Any, split: Sequence[int]) -> Any:
    """The number of each key's channel. Borders lie between values, so equal keys are never parted."""
    import numpy as np

    ranked = np.sort(keys)
    places = [_share(len(keys), sum(split[: number + 1]), sum(split)) for number in range(len(split) - 1)]
    borders = [ranked[place] if place < len(ranked) else np.uint64(2**64 - 1) for place in places]
    channels = np.zeros(len(keys), np.uint8)
    for place, border in zip(places, borders, strict=True):
        if place < len(ranked):
            channels += keys >= border
    return channels


def _share(rows: int, part: int, whole: int) -> int:
    """Rounded half up, in integers."""
    return (2 * rows * part + whole) // (2 * whole)
