"""What a check has found: errors, which refuse a channel, and warnings, which are only said.

An error is what the trainer cannot train on, or what would ruin the result without a word. All else is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launcher.errors import DataError

SHOWN = 20  # of each channel's errors; a broken export has the same one in every row

# how errors begin that a file of another form has in every line
OTHER_FORMS = ("unknown shape", "not JSON", "a list, not an object")
MAKE_ROWS = "`launcher prepare` makes rows of CSV, JSON and other columns that a recipe names as [[data.sources]]."

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing found: where, in which field, and in `problem` what it is and how to mend it.

    `line` 0 means the whole file, and no `file` the whole channel. `count` is how many rows it speaks for.
    """

    level: Level
    channel: str
    problem: str
    file: str = ""
    line: int = 0
    field: str = ""
    count: int = 1

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file or f"the {self.channel} channel"
        return f"{place}: {self.problem}"

    def as_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "channel": self.channel,
            "file": self.file,
            "line": self.line or None,
            "field": self.field,
            "count": self.count,
            "problem": self.problem,
        }


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


def warnings_of(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "warning"]


def refuse(findings: Sequence[Finding], unseen: int = 0, hint: str = "") -> None:
    """Raise DataError when there is an error; `unseen` more were counted and not kept."""
    errors = errors_of(findings)
    if not errors:
        return
    if any(error.problem.startswith(OTHER_FORMS) for error in errors):
        hint = hint or f"Fix or drop what is named. {MAKE_ROWS} Nothing was uploaded."
    lines = [str(error) for error in errors] + ([f"and {unseen:,} more"] if unseen else [])
    channels = dict.fromkeys(error.channel for error in errors)
    what = "The " + " and the ".join(channels) + (" channel" if len(channels) == 1 else " channels")
    raise DataError(
        f"{what} cannot be trained on:\n  " + "\n  ".join(lines),
        hint=hint or "Fix or drop what is named. Nothing was uploaded.",
    )
