"""Rows as the trainer sees them: the container's own code renders, encodes and orders them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from container_src.sft.config import TrainConfig
from container_src.sft.data import Row, check_row, encode, encode_piece, load_rows, parse_row, render
from container_src.sft.failure import JobError
from container_src.sft.model import Base, load_tokenizer
from container_src.sft.stand_in import save_tokenizer
from container_src.sft.steps import make_steps
from launcher import hub
from launcher.data.channels import find_rows_files
from launcher.data.tokens import reason_of
from launcher.errors import DataError

Kind = Literal["masked", "trained", "cut"]
UNCUT = 2**40  # tokens; longer than any row
INSTALL = "Install what the trainer uses: pip install 'qlora-launcher[data]', or [local] for all of it."
ELSEWHERE = "Use --smoke for the stand-in's tokenizer, --model FOLDER, or a network (and HF_TOKEN where gated)."


@dataclass(frozen=True)
class Segment:
    """A stretch of text whose tokens share a fate."""

    kind: Kind
    text: str
    tokens: int


@dataclass(frozen=True)
class PreviewRow:
    """One row; `refused` says why the trainer would not take it."""

    file: str
    line: int
    segments: tuple[Segment, ...] = ()
    input_ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    trained: int = 0
    truncated: bool = False
    ends: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Preview:
    channel: str
    rows: tuple[PreviewRow, ...]
    of: int
    max_length: int
    tokenizer: str

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def preview_rows(model: str, config: TrainConfig, files: Mapping[str, Path], channel: str, count: int) -> Preview:
    """The first rows of a channel in the order in which the job takes them: for train that is its first steps."""
    if channel not in files:
        raise DataError(f"The recipe has no {channel} channel; it has {', '.join(files)}.")
    found = find_rows_files(channel, files[channel])
    try:
        lines = _count_rows(found)
        order = make_steps(lines, count, 1, config.seed)[0] if channel == "train" else list(range(min(count, lines)))
        chosen = _take_rows(found, order)
        tokenizer = _load_tokenizer(model, config, files["train"])
        shown = tuple(_preview(row, tokenizer, config) for row in chosen)
    except JobError as error:
        raise DataError(str(error)) from error
    name = "stand-in" if config.smoke else model
    return Preview(channel, shown, lines, config.max_length, name)


def _iter_lines(files: Sequence[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for file in files:
        try:
            with file.open("rb") as lines:
                yield from ((file, number, line) for number, line in enumerate(lines, start=1) if line.strip())
        except OSError as error:
            raise DataError(f"{file} could not be read: {error.strerror}.") from error


def _count_rows(files: Sequence[Path]) -> int:
    rows = sum(1 for _ in _iter_lines(files))
    if not rows:
        raise DataError(f"{files[0].name} holds no row.", hint="Write one JSON object a line.")
    return rows


def _take_rows(files: Sequence[Path], order: list[int]) -> list[Row]:
    """Only these are parsed and held."""
    wanted = set(order)
    found = {
        place: parse_row(line, file.name, number)
        for place, (file, number, line) in enumerate(islice(_iter_lines(files), max(order) + 1))
        if place in wanted
    }
    return [found[place] for place in order]


def _load_tokenizer(model: str, config: TrainConfig, train: Path) -> Any:
    """The job's tokenizer: the base model's, or the one that a stand-in makes from the training rows."""
    base = Base(model, config.model_name_or_path, config.model_revision or None)
    try:
        if not config.smoke:
            _check_at_hand(model, config.model_revision)
            return load_tokenizer(base, config)
        with tempfile.TemporaryDirectory(prefix="stand-in-") as place:
            save_tokenizer(base, config, load_rows(train), Path(place))
            return load_tokenizer(Base(place, "base"), config)
    except ImportError as error:
        raise DataError(
            "A preview needs the model's tokenizer, and transformers is not installed.", hint=INSTALL
        ) from (error)
    except JobError:
        raise  # of a row, or a sentence of its own about the tokenizer
    except RuntimeError as error:
        raise DataError(
            f"The tokenizer of {model} could not be had: {reason_of(error)}.",
            hint=ELSEWHERE,
        ) from error


def _check_at_hand(model: str, revision: str) -> None:
    """Said at once: transformers would try the Hub for most of a minute."""
    if Path(model).is_dir() or hub.is_cached(model) or hub.look_up(model, revision) is hub.Found.YES:
        return
    raise DataError(f"The tokenizer of {model} is neither on this machine nor to be had from the Hub.", hint=ELSEWHERE)


def _preview(row: Row, tokenizer: Any, config: TrainConfig) -> PreviewRow:
    try:
        check_row(row)
        encoded = encode(row, tokenizer, config)
    except JobError as error:
        return PreviewRow(row.file, row.line, refused=str(error))
    full = encode(row, tokenizer, dataclasses.replace(config, max_length=UNCUT))
    return PreviewRow(
        row.file,
        row.line,
        tuple(_iter_segments(row, tokenizer, config, full.input_ids)),
        tuple(encoded.input_ids),
        tuple(encoded.labels),
        tuple(tokenizer.decode([token]) for token in encoded.input_ids),
        encoded.trained,
        encoded.truncated,
        encoded.ends,
    )


def _iter_segments(row: Row, tokenizer: Any, config: TrainConfig, ids: list[int]) -> Iterator[Segment]:
    """The row's text as pieces of one fate each; the piece in which the cut falls is parted there."""
    pieces = render(row, tokenizer, config.loss_on).pieces
    counts = [len(encode_piece(tokenizer, piece.text, follows=True)) for piece in pieces[1:]]
    place = _count_start(tokenizer, pieces[0].text, ids[: len(ids) - sum(counts)])
    if place:
        yield Segment("masked", tokenizer.decode(ids[:place]), place)
    counts.insert(0, len(ids) - sum(counts) - place)
    for piece, count in zip(pieces, counts, strict=True):
        kept = min(count, max(config.max_length - place, 0))
        kind: Kind = "trained" if piece.trained else "masked"
        text = _text_of(tokenizer, piece.text, ids[place : place + kept], whole=kept == count)
        if kept:
            yield Segment(kind, text, kept)
        if kept < count:
            yield Segment("cut", piece.text[len(text) if kept else 0 :], count - kept)
        place += count


def _count_start(tokenizer: Any, text: str, ids: list[int]) -> int:
    """Tokens that the tokenizer put before the first piece."""
    for follows in (False, True):
        own = encode_piece(tokenizer, text, follows=follows)
        if ids[len(ids) - len(own) :] == own:
            return len(ids) - len(own)
    return 0


def _text_of(tokenizer: Any, text: str, ids: list[int], *, whole: bool) -> str:
    """What the kept tokens of a piece spell: its own beginning, as far as decoding can tell."""
    if whole:
        return text
    return text[: len(tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip("\ufffd"))]
