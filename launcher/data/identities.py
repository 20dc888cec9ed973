"""Rows that occur twice, found in the rows' 8-byte identities: numpy sorts millions of them in place."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.data.rows import NO_ROW, CheckedFile

if TYPE_CHECKING:
    import numpy as np

    Identities = np.ndarray[Any, np.dtype[np.int64]]


class Place(NamedTuple):
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Repeats:
    """How many rows repeat another one, and the first that does, with the one it repeats."""

    count: int
    place: Place
    of: Place


def find_repeats(files: Sequence[CheckedFile]) -> Repeats | None:
    """Rows of a channel that train the same as an earlier one."""
    import numpy as np

    identities = _identities(files)
    ranked = np.sort(identities)
    again = ranked[1:][(ranked[1:] == ranked[:-1]) & (ranked[1:] != NO_ROW)]
    if not len(again):
        return None
    places = np.flatnonzero(np.isin(identities, again))
    seen: set[int] = set()
    for place in places.tolist():  # ends at the first that was seen: no later than at the second half
        if (identity := int(identities[place])) in seen:
            break
        seen.add(identity)
    first = int(np.flatnonzero(identities == identity)[0])
    return Repeats(len(again), _place(files, place), _place(files, first))


def find_shared(files: Sequence[CheckedFile], others: Sequence[CheckedFile]) -> Repeats | None:
    """Rows of `files` that also stand in `others`."""
    import numpy as np

    identities, known = _identities(files), _identities(others)
    places = np.flatnonzero(np.isin(identities, known) & (identities != NO_ROW))
    if not len(places):
        return None
    place = int(places[0])
    first = int(np.flatnonzero(known == identities[place])[0])
    return Repeats(len(places), _place(files, place), _place(others, first))


def _identities(files: Sequence[CheckedFile]) -> Identities:
    import numpy as np

    parts: list[array[int]] = [file.tally.identities for file in files]
    views = [np.frombuffer(part, dtype=np.int64) for part in parts if part]
    return views[0] if len(views) == 1 else np.concatenate([np.empty(0, dtype=np.int64), *views])


def _place(files: Sequence[CheckedFile], index: int) -> Place:
    """An index over all lines of all files -> file and line."""
    for file in files:
        if index < len(file.tally.identities):
            return Place(file.path.name, index + 1)
        index -= len(file.tally.identities)
    raise IndexError(index)
