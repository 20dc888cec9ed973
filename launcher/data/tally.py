"""What some lines of a file hold: rows, problems, remarks."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from container_src.sft.data import Shape
from launcher.data.findings import SHOWN

MAX_BLANK_LINES = 1_000_000  # and one more for each row
NO_ROW = -1  # in place of a row's identity; Python's hash() is never -1


@dataclass(frozen=True)
class Problem:
    """Why one line is refused."""

    line: int
    text: str
    field: str = ""


@dataclass
class Remark:
    """Something worth a warning: how many rows, and the first of them."""

    line: int
    count: int = 0
    words: set[str] = field(default_factory=set)


@dataclass
class Tally:
    """What some lines hold. `identities` has an entry for each line, so that a place in it is a line number."""

    identities: array[int] = field(default_factory=lambda: array("q"))
    rows: int = 0
    shapes: dict[Shape, int] = field(default_factory=dict)  # each with its first line
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    remarks: dict[str, Remark] = field(default_factory=dict)
    stopped: bool = False

    @property
    def next_line(self) -> int:
        return len(self.identities) + 1

    def refuse_line(self, problem: str, field: str = "") -> None:
        self.problem_count += 1
        if len(self.problems) < SHOWN:
            self.problems.append(Problem(self.next_line, problem, field))
        self.identities.append(NO_ROW)

    def pass_over(self, lines: int) -> None:
        """Empty ones."""
        self.identities.extend(array("q", [NO_ROW]) * lines)

    def stop_at_blanks(self) -> None:
        """An empty line takes as much memory as a row, and there may be as many as there are bytes."""
        blank = len(self.identities) - self.rows - self.problem_count
        if blank > MAX_BLANK_LINES + self.rows and not self.stopped:
            self.refuse_line(f"more than {MAX_BLANK_LINES:,} empty lines up to here; reading ended. Remove them.")
            self.stopped = True

    def remark(self, kind: str, count: int = 1, words: Sequence[str] = (), ahead: int = 0) -> None:
        """`ahead` lines further on than the next."""
        remark = self.remarks.setdefault(kind, Remark(self.next_line + ahead))
        remark.count += count
        remark.words.update(list(words)[: SHOWN - len(remark.words)])

    def append(self, later: Tally) -> None:
        """Take in what the lines after these hold, unless reading has ended before them."""
        if self.stopped:
            return
        before = len(self.identities)
        for shape, line in later.shapes.items():
            self.shapes.setdefault(shape, before + line)
        for problem in later.problems[: SHOWN - len(self.problems)]:
            self.problems.append(Problem(before + problem.line, problem.text, problem.field))
        for kind, remark in later.remarks.items():
            known = self.remarks.setdefault(kind, Remark(before + remark.line))
            known.count += remark.count
            known.words.update(remark.words)
        self.problem_count += later.problem_count
        self.rows += later.rows
        self.identities.extend(later.identities)
        self.stopped = later.stopped
        self.stop_at_blanks()
