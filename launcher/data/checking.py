"""check(subject) -> Checked: the rows by themselves, then as tokens where a tokenizer is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from container_src.sft.config import TrainConfig
from launcher.data.checks import Report, check_channels
from launcher.data.findings import Finding, errors_of, refuse, warnings_of
from launcher.data.tokens import NoTokenizer, TokenReport, count_tokens, find_tokenizer
from launcher.errors import RecipeError
from launcher.progress import Track, untracked

UNCHECKED = "how long rows are in tokens, what max_length cuts, and whether an end token is trained"


@dataclass(frozen=True)
class Subject:
    """What is checked: files by channel, where rows are cut, and the model or folder whose tokenizer counts.

    `network`: the Hub may be asked for it. `insists`: it was asked for by name, so it must be had.
    """

    files: Mapping[str, Path]
    model: str = ""
    config: TrainConfig = field(default_factory=TrainConfig)
    why_none: str = "no tokenizer was named. Give --tokenizer FOLDER"
    network: bool = True
    insists: bool = False

    def counted_with(self, model: str) -> Subject:
        """With a tokenizer that was asked for; a revision is one of the recipe's own model."""
        config = self.config if model == self.model else replace(self.config, model_revision="")
        return replace(self, model=model, config=config, insists=True)

    def cut_at(self, max_length: int | None) -> Subject:
        return replace(self, config=replace(self.config, max_length=max_length)) if max_length else self


@dataclass(frozen=True)
class Checked:
    """`unchecked` says what could not be checked, and why."""

    report: Report
    tokens: tuple[TokenReport, ...] = ()
    unchecked: str = ""

    @property
    def findings(self) -> list[Finding]:
        return [*self.report.findings, *(finding for part in self.tokens for finding in part.findings())]

    @property
    def errors(self) -> list[Finding]:
        return errors_of(self.findings)

    @property
    def warnings(self) -> list[Finding]:
        return warnings_of(self.findings)

    @property
    def unseen(self) -> int:
        return self.report.unseen + sum(part.unseen for part in self.tokens)

    def refuse(self) -> None:
        """Raise DataError when there is an error, in the words of plan and submit."""
        refuse(self.findings, self.unseen)

    def as_json(self) -> dict[str, Any]:
        return {
            "refused": bool(self.errors),
            "channels": [
                {
                    "name": channel.name,
                    "rows": channel.rows,
                    "shape": channel.shape,
                    "bytes": channel.bytes,
                    "digest": channel.digest,
                    "files": [str(upload.path) for upload in channel.uploads],
                }
                for channel in self.report.channels
            ],
            "findings": [finding.as_json() for finding in self.findings],
            "more_errors": self.unseen,
            "tokens": [part.as_json() for part in self.tokens],
            "unchecked": self.unchecked,
        }


def check(subject: Subject, *, tokens: bool = True, track: Track = untracked) -> Checked:
    """Rows first; tokens only of rows that can be trained on."""
    report = check_channels(subject.files, track)
    if not tokens:
        return Checked(report, unchecked=f"{UNCHECKED}: left out")
    if report.errors:
        return Checked(report, unchecked=f"{UNCHECKED}: the rows must be mended first")
    try:
        if not subject.model:
            raise NoTokenizer(subject.why_none)
        tokenizer = find_tokenizer(subject.model, subject.config, network=subject.network)
    except NoTokenizer as reason:
        if subject.insists:
            raise RecipeError(
                f"The rows cannot be counted in tokens: {reason}.", hint="Or leave --tokenizer out."
            ) from reason
        return Checked(report, unchecked=f"{UNCHECKED}: {reason}")
    counted = [count_tokens(name, files, tokenizer, subject.config, track) for name, files in report.files.items()]
    return Checked(report, tuple(counted))
