"""check_channels: all that can be known of a job's rows without a tokenizer, for check, plan and submit alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.data.channels import Channel, find_rows_files, make_rows_channel
from launcher.data.findings import Finding, errors_of, refuse, warnings_of
from launcher.data.identities import Repeats, find_repeats, find_shared
from launcher.data.rows import CheckedFile, CheckedFiles, Remark, check_file, digests_of, errors_in, shape_in
from launcher.progress import Track, untracked

EVALUATIONS = ("eval", "test")
MIN_EVAL_ROWS = 25  # with fewer, the mean of their losses is uncertain by more than a fifth of their spread
MAX_LEAKED = 0.5  # of an evaluation's rows; above that its loss shows what was learnt by heart and nothing else

REMARKS = {
    "crlf": "{count} ending in CR LF, as Windows writes them; they train the same. Nothing has to be done.",
    "bom": "{count} with a byte order mark in front, which is skipped. Save the file as UTF-8 without it.",
    "keys": "{count} with keys that are not trained: {words}. What must be trained has to stand in the row's text.",
    "nul": "{count} with a NUL character, which is seldom meant. Remove it from the text.",
    "long": "{count} with a text of more than a million characters, nearly all of which will be cut off. Split it.",
    "unanswered": "{count} with a last turn that no answer follows; only answers are trained. Answer it or drop it.",
}


@dataclass(frozen=True)
class Report:
    """The channels, all that was found, and how many errors were only counted."""

    channels: tuple[Channel, ...]
    findings: tuple[Finding, ...]
    unseen: int
    files: Mapping[str, Sequence[CheckedFile]]

    @property
    def errors(self) -> list[Finding]:
        return errors_of(self.findings)

    @property
    def warnings(self) -> list[Finding]:
        return warnings_of(self.findings)

    def refuse(self) -> None:
        """Raise DataError with all errors, if there is one."""
        refuse(self.findings, self.unseen)


def check_channels(paths: Mapping[str, Path], track: Track = untracked) -> Report:
    """Every row of every channel, alone and against the others."""
    files = {name: find_rows_files(name, path) for name, path in paths.items()}
    checked = {name: [_check_file(name, path, track) for path in found] for name, found in files.items()}
    findings: list[Finding] = []
    unseen = 0
    for name, channel in checked.items():
        errors, more = errors_in(name, channel)
        findings += [*errors, *_iter_remarks(name, channel), *_iter_repeats(name, channel), *_iter_small(name, channel)]
        unseen += more
    for name in checked:
        if "train" in checked and name in EVALUATIONS:
            findings += [*_iter_leaks(name, checked), *_iter_other_shape(name, checked)]
    channels = tuple(make_rows_channel(name, _as_files(channel)) for name, channel in checked.items())
    return Report(channels, tuple(findings), unseen, checked)


def _check_file(name: str, path: Path, track: Track) -> CheckedFile:
    with track(f"checking {path.name}", path.stat().st_size) as advance:
        return check_file(name, path, advance)


def _as_files(files: Sequence[CheckedFile]) -> CheckedFiles:
    return CheckedFiles(_rows(files), shape_in(files), digests_of(files), tuple(files))


def _rows(files: Sequence[CheckedFile]) -> int:
    return sum(file.tally.rows for file in files)


def _iter_remarks(name: str, files: Sequence[CheckedFile]) -> Iterator[Finding]:
    for kind, words in REMARKS.items():
        found = [(file, file.tally.remarks[kind]) for file in files if kind in file.tally.remarks]
        if not found:
            continue
        total = sum(remark.count for _, remark in found)
        file, remark = found[0]
        problem = words.format(count=_here(total), words=_words([remark for _, remark in found]))
        yield Finding("warning", name, problem, file.path.name, remark.line, count=total)


def _count(rows: int) -> str:
    return f"{rows:,} row" + ("" if rows == 1 else "s")


def _here(rows: int) -> str:
    return "a row" if rows == 1 else f"the first of {rows:,} rows"


def _words(remarks: Sequence[Remark]) -> str:
    words = sorted(set().union(*(remark.words for remark in remarks)))
    return ", ".join(words[:8]) + (", ..." if len(words) > 8 else "")


def _iter_repeats(name: str, files: Sequence[CheckedFile]) -> Iterator[Finding]:
    found = find_repeats(files)
    if found:
        yield Finding(
            "warning",
            name,
            f"{_here(found.count)} that repeats an earlier one, here {found.of}. It weighs twice in the loss; "
            "`launcher prepare` drops repeats.",
            found.place.file,
            found.place.line,
            count=found.count,
        )


def _iter_small(name: str, files: Sequence[CheckedFile]) -> Iterator[Finding]:
    rows = _rows(files)
    if name in EVALUATIONS and 0 < rows < MIN_EVAL_ROWS:
        yield Finding(
            "warning",
            name,
            f"{_count(rows)} only, too few for a loss that means anything. Use {MIN_EVAL_ROWS} or more.",
            count=rows,
        )


def _iter_leaks(name: str, checked: Mapping[str, Sequence[CheckedFile]]) -> Iterator[Finding]:
    found = find_shared(checked[name], checked["train"])
    if found:
        yield _leak(name, found, _rows(checked[name]))


def _leak(name: str, found: Repeats, rows: int) -> Finding:
    """A few shared rows bend a score, and are for the user to judge; when most are shared there is no score."""
    most = found.count > MAX_LEAKED * rows
    return Finding(
        "error" if most else "warning",
        name,
        f"{found.count:,} of {_count(rows)} also trained on, the first here and at {found.of}. "
        + (
            "The score would show what was learnt by heart. "
            if most
            else "They make the score look better than it is. "
        )
        + "Remove them from one of the two, or split again with `launcher prepare`.",
        found.place.file,
        found.place.line,
        count=found.count,
    )


def _iter_other_shape(name: str, checked: Mapping[str, Sequence[CheckedFile]]) -> Iterator[Finding]:
    shape, trained = shape_in(checked[name]), shape_in(checked["train"])
    if shape and trained and shape != trained:
        yield Finding(
            "warning",
            name,
            f"its rows are {shape} and those of train are {trained}, so their losses cannot be compared. "
            "Use one shape for both.",
        )
