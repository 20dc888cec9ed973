"""What is said of channels as a whole: shapes that would be mixed, and shares that the split could not give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.data.settings import CHANNELS, Prepare
from launcher.errors import DataError

FAR_OFF = 0.05  # of all rows that are split


class ShapesSeen:
    """The first row of each shape, for every channel that it may go to."""

    def __init__(self, split: Sequence[int]) -> None:
        self._shared = [name for name, share in zip(CHANNELS, split, strict=False) if share]
        self._first: dict[str, tuple[str, str]] = {}

    def add(self, fixed: int, shapes: Mapping[str, str]) -> None:
        """`fixed` is the number of the rows' own channel, or -1."""
        for shape, place in shapes.items():
            for channel in self._shared if fixed < 0 else [CHANNELS[fixed]]:
                known, first = self._first.setdefault(channel, (shape, place))
                if known != shape:
                    raise DataError(
                        f"The {channel} channel would mix shapes: {known} (first at {first}) and {shape} (first at "
                        f"{place}).",
                        hint="Give all rows of a channel one shape: with a template, columns, or channel on a source.",
                    )


def find_missed_shares(rows: Sequence[int], prepare: Prepare) -> list[str]:
    """`rows` is how many of the rows that are split each channel got."""
    total, parts = sum(rows), sum(prepare.split)
    notes = []
    for name, got, part in zip(CHANNELS, rows, prepare.split, strict=False):
        wanted = total * part / parts
        if total and part and (not got or abs(got - wanted) > max(1, FAR_OFF * total)):
            notes.append(f"{name} got {got:,} of {total:,} rows, not its {part / parts:.0%}: {_why_missed(prepare)}")
    return notes


def _why_missed(prepare: Prepare) -> str:
    if prepare.split_by:
        columns = " and ".join(prepare.split_by)
        return f"rows of the same {columns} stay together, and there are too few groups. Split by something finer"
    if not prepare.deduplicate:
        return "equal rows stay together, and there are too few others. Set deduplicate = true"
    return "there are too few rows to share out. Set split to fewer channels, or add rows"
