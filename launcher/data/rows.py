"""Every row of a channel, before anything is uploaded. What a row may be is the container's own code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from container_src.sft.data import RowError, check_row, parse_row, shape_of
from launcher.errors import DataError

MAX_PROBLEMS = 20


@dataclass(frozen=True)
class CheckedFiles:
    """One digest a file, taken from the very bytes that were checked."""

    rows: int
    shape: str
    digests: tuple[str, ...]


@dataclass
class _Findings:
    """What reading has found so far; `shapes` maps each shape to the first place it was seen."""

    rows: int = 0
    problems: list[str] = field(default_factory=list)
    shapes: dict[str, str] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return len(self.problems) >= MAX_PROBLEMS


def check_files(channel: str, files: Sequence[Path]) -> CheckedFiles:
    """Read every row of every file; raises DataError with all problems up to a limit."""
    findings = _Findings()
    digests = tuple(_check_file(path, findings) for path in files)
    _refuse(channel, files, findings)
    return CheckedFiles(findings.rows, next(iter(findings.shapes)), digests)


def _check_file(path: Path, findings: _Findings) -> str:
    digest = hashlib.sha256()
    for number, line in _iter_lines(path):
        digest.update(line)
        if line.strip() and not findings.is_full:
            _check_line(line, path.name, number, findings)
    return digest.hexdigest()


def _iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror}.") from error


def _check_line(line: bytes, name: str, number: int, findings: _Findings) -> None:
    try:
        row = parse_row(line, name, number)
        check_row(row)
    except RowError as error:
        findings.problems.append(str(error))
        return
    findings.rows += 1
    findings.shapes.setdefault(shape_of(row), f"{name}:{number}")


def _refuse(channel: str, files: Sequence[Path], findings: _Findings) -> None:
    if findings.problems:
        more = " or more" if findings.is_full else ""
        rows = f"{len(findings.problems)}{more} " + ("row" if len(findings.problems) == 1 else "rows")
        raise DataError(
            f"The {channel} channel has {rows} that cannot be trained on:\n  " + "\n  ".join(findings.problems),
            hint="Fix or drop what is named. Nothing was uploaded.",
        )
    if not findings.rows:
        raise DataError(f"The {channel} channel is empty: {files[0]} has no row.", hint="Write one JSON object a line.")
    if len(findings.shapes) > 1:
        first = ", ".join(f"{shape} (first at {where})" for shape, where in findings.shapes.items())
        raise DataError(
            f"The {channel} channel mixes shapes: {first}.", hint="Use one shape for all rows of a channel."
        )
