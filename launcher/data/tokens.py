"""What the rows are as tokens: how long, what max_length cuts, what is left to train; by the trainer's own code."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from container_src.sft.architectures import holds_tokenizer
from container_src.sft.config import TrainConfig
from container_src.sft.data import Encoded, RowError, encode, parse_row
from container_src.sft.model import Base, load_tokenizer
from launcher import hub
from launcher.data.findings import SHOWN, Finding
from launcher.data.rows import CheckedFile, count_processors, iter_blocks, opened, split_file, split_lines
from launcher.progress import Track, untracked

PART_BYTES = 1024 * 1024  # some 250,000 tokens: a quarter of a second, so that the bar moves
BARS = 12
SAID = 240  # characters of an error of transformers


class NoTokenizer(Exception):
    """Why the tokens could not be counted; said, since the rows themselves are checked."""


@dataclass
class TokenTally:
    """`lengths` are those before the cut. `endless`: rows whose end token is cut off; `ended`: rows that train one."""

    lengths: array[int] = field(default_factory=lambda: array("I"))
    trained: int = 0
    truncated: int = 0
    endless: int = 0
    ended: int = 0
    refused: list[RowError] = field(default_factory=list)
    refused_count: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def add(self, row: Encoded, ends: frozenset[int]) -> None:
        self.lengths.append(row.length)
        self.trained += row.trained
        self.truncated += row.truncated
        self.endless += not row.ends
        self.ended += not ends.isdisjoint(row.labels)

    def refuse(self, error: RowError) -> None:
        self.refused_count += 1
        if len(self.refused) < SHOWN:
            self.refused.append(error)

    def append(self, later: TokenTally, file: str, before: int) -> None:
        """Take in what the lines after the first `before` of a file hold."""
        self.lengths.extend(later.lengths)
        self.trained += later.trained
        self.truncated += later.truncated
        self.endless += later.endless
        self.ended += later.ended
        for error in later.refused[: SHOWN - len(self.refused)]:
            self.refused.append(RowError(file, before + error.line, error.problem, error.field))
        self.refused_count += later.refused_count


@dataclass(frozen=True)
class TokenReport:
    """One channel as tokens."""

    channel: str
    max_length: int
    tally: TokenTally

    @property
    def unseen(self) -> int:
        return self.tally.refused_count - len(self.tally.refused)

    def findings(self) -> Iterator[Finding]:
        tally, rows = self.tally, len(self.tally.lengths)
        for error in tally.refused:
            yield Finding("error", self.channel, error.problem, error.file, error.line, error.field)
        if rows and not tally.ended and self.channel == "train":
            yield Finding("error", self.channel, self._never_ends())
        elif tally.endless:
            yield Finding(
                "warning",
                self.channel,
                f"{tally.endless:,} of {rows:,} rows lose their end token to the cut at max_length = "
                f"{self.max_length}: they teach the model not to stop. Raise max_length or shorten them.",
                count=tally.endless,
            )

    def _never_ends(self) -> str:
        if self.tally.endless:
            return (
                f"no row keeps its end token after the cut at max_length = {self.max_length}, so the model would never "
                "stop. Raise max_length or shorten the rows."
            )
        return (
            "no row trains an end token, so the model would never stop: the tokenizer's chat template writes none "
            "after the assistant's turns. Use a model made for chat, or prompt and completion."
        )

    def words(self) -> str:
        """In one line, for a plan."""
        tally, rows = self.tally, len(self.tally.lengths)
        cut = f"{tally.truncated:,} of {rows:,} rows cut at max_length = {self.max_length:,}"
        return f"{tally.tokens:,} tokens in {self.channel}, the longest row {max(tally.lengths, default=0):,}, {cut}"

    def rows(self) -> list[tuple[str, str]]:
        """What people decide on."""
        tally, rows = self.tally, len(self.tally.lengths)
        if not rows:
            return []
        ranked = sorted(tally.lengths)
        total = tally.tokens
        return [
            ("tokens", f"{total:,}, {total / rows:,.0f} a row, the longest row {ranked[-1]:,}"),
            ("half, 95%, 99%", ", ".join(f"{ranked[_rank(rows, share)]:,}" for share in (0.5, 0.95, 0.99))),
            ("trained", f"{tally.trained:,} ({tally.trained / total:.0%})"),
            (
                "truncated",
                f"{tally.truncated:,} of {rows:,} rows ({tally.truncated / rows:.1%}) at {self.max_length:,}",
            ),
            ("end token lost", f"{tally.endless:,} rows"),
        ]

    def histogram(self) -> list[tuple[int, int, int]]:
        """Rows by length: from, below, how many."""
        edges = _edges(max(self.tally.lengths, default=1))
        counts = [0] * (len(edges) - 1)
        width = edges[1]
        for length in self.tally.lengths:
            counts[length // width] += 1
        return [(low, high, count) for (low, high), count in zip(pairwise(edges), counts, strict=True)]

    def as_json(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "channel": self.channel,
            "rows": len(tally.lengths),
            "tokens": tally.tokens,
            "trained": tally.trained,
            "max_length": self.max_length,
            "longest": max(tally.lengths, default=0),
            "truncated": tally.truncated,
            "end_token_lost": tally.endless,
            "end_token_trained": tally.ended,
            "refused": tally.refused_count,
            "histogram": [{"from": low, "below": high, "rows": count} for low, high, count in self.histogram()],
        }


def _rank(rows: int, share: float) -> int:
    return min(int(rows * share), rows - 1)


def _edges(longest: int) -> list[int]:
    """Equal steps of a round width that cover all lengths."""
    width = 1
    while width * BARS <= longest:
        width *= 2
    return list(range(0, longest + width + 1, width))


# counting


def find_tokenizer(model: str, config: TrainConfig, *, network: bool = True) -> Any:
    """The tokenizer that the job will use; raises NoTokenizer with the reason when it is not at hand."""
    folder = Path(model) if Path(model).is_dir() else hub.find_snapshot(model, config.model_revision)
    if folder is None:
        _check_may_fetch(model, config.model_revision, network)
    elif not holds_tokenizer(folder):  # looking is free, and importing transformers takes seconds
        raise NoTokenizer(f"{folder} holds no tokenizer. Give --tokenizer FOLDER")
    try:
        return load_tokenizer(Base(str(folder or model), model, None if folder else config.model_revision), config)
    except ImportError as error:
        raise NoTokenizer(
            "transformers is not installed. Install it with pip install 'qlora-launcher[data]'"
        ) from error
    except RuntimeError as error:  # ModelError is one
        raise NoTokenizer(f"the tokenizer of {model} could not be loaded: {reason_of(error)}") from error


def reason_of(error: RuntimeError) -> str:
    """What transformers says, without the page of model types that it goes on with."""
    said = next(iter(str(error.__cause__ or error).splitlines()), "no reason was given")
    return said.rstrip(".") if len(said) <= SAID else f"{said[:SAID]}..."


def _check_may_fetch(model: str, revision: str, network: bool) -> None:
    if not network:
        raise NoTokenizer(f"the tokenizer of {model} is not on this machine. `launcher check` asks the Hub for it")
    found = hub.look_up(model, revision)
    if found is not hub.Found.YES:
        why = "the Hub cannot be reached" if found is hub.Found.UNREACHABLE else "the Hub does not show it"
        raise NoTokenizer(f"the tokenizer of {model} is not at hand ({why}). Give --tokenizer FOLDER")


def count_tokens(
    channel: str, files: Sequence[CheckedFile], tokenizer: Any, config: TrainConfig, track: Track = untracked
) -> TokenReport:
    """Encode every row of a channel, on all cores."""
    tally = TokenTally()
    for file in files:
        parts = split_file(file.path, PART_BYTES)
        with track(f"tokens of {file.path.name}", file.fingerprint.size) as advance:
            before = 0
            for part, (lines, found) in zip(parts, _iter_counted(file.path, parts, tokenizer, config), strict=True):
                tally.append(found, file.path.name, before)
                before += lines
                advance(len(part))
    return TokenReport(channel, config.max_length, tally)


Counted = tuple[int, TokenTally]


def _iter_counted(path: Path, parts: Sequence[range], tokenizer: Any, config: TrainConfig) -> Iterator[Counted]:
    workers = min(count_processors(), len(parts))
    if workers < 2:
        _use(tokenizer, config)
        yield from (count_part(path, part) for part in parts)
        return
    # forked, so that a tokenizer of hundreds of megabytes is shared and not loaded once for each processor
    pool = ProcessPoolExecutor(workers, get_context("fork"), initializer=_use_alone, initargs=(tokenizer, config))
    with pool:
        try:
            yield from pool.map(count_part, [path] * len(parts), parts)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass
class _Tools:
    """What a process counts with; set once in each."""

    tokenizer: Any = None
    config: TrainConfig = field(default_factory=TrainConfig)
    ends: frozenset[int] = frozenset()


_tools = _Tools()


def _use_alone(tokenizer: Any, config: TrainConfig) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a row at a time in each process; forks and threads do not mix
    _use(tokenizer, config)


def _use(tokenizer: Any, config: TrainConfig) -> None:
    _tools.tokenizer = tokenizer
    _tools.config = config
    _tools.ends = find_end_tokens(tokenizer)


def find_end_tokens(tokenizer: Any) -> frozenset[int]:
    """Tokens that can end an answer: the end token, and a chat template's own mark, which is a special token too."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset((special | {tokenizer.eos_token_id}) - {tokenizer.bos_token_id})


def count_part(path: Path, part: range) -> Counted:
    tally, lines = TokenTally(), 0
    with opened(path) as (descriptor, _):
        for block in iter_blocks(descriptor, part):
            for line in split_lines(block):
                lines += 1
                if line.strip():
                    _count_line(line, lines, tally)
    return lines, tally


def _count_line(line: bytes, number: int, tally: TokenTally) -> None:
    try:
        encoded = encode(parse_row(line, "", number), _tools.tokenizer, _tools.config)
    except RowError as error:
        tally.refuse(error)
        return
    tally.add(encoded, _tools.ends)
