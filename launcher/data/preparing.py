"""Sources -> channels, in two passes: rows are cleaned, templated and put aside; then dealt out by their hashes.

What is held in memory is some blocks and at most 40 bytes a row. Channels appear whole or not at all, and their bytes
depend on the sources and the recipe alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

from launcher.data.blocks import Block
from launcher.data.pipeline import Batch, Pipeline
from launcher.data.scratch import working_folder, written
from launcher.data.settings import CHANNELS, Filter, Prepare
from launcher.data.shares import ShapesSeen, find_missed_shares
from launcher.data.sources import Input, format_of, iter_blocks
from launcher.data.splits import BEYOND_LIMIT, DUPLICATE, FIRST_CHANNEL, Division, divide
from launcher.data.sql import INSTALL, has_sqlglot
from launcher.data.workers import Workers, count_workers
from launcher.errors import DataError
from launcher.progress import Track, untracked

MANIFEST = "prepared.json"
WORTH_WORKERS_BYTES = 16_000_000
WRITE_BYTES = 1_000_000
COPY_BYTES = 8_000_000
BLOCK_FORMATS = ("csv", "tsv", "jsonl")  # what is parsed from bytes, where a worker pays


@dataclass
class SourceCount:
    """What one source gave."""

    name: str
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ChannelFile:
    name: str
    path: Path
    rows: int
    bytes: int


@dataclass(frozen=True)
class Prepared:
    """The channels, and what was kept and dropped and why. `bad_sql` is None where nobody looked."""

    folder: Path
    channels: tuple[ChannelFile, ...]
    sources: tuple[SourceCount, ...]
    bad_sql: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def read(self) -> int:
        return sum(source.read for source in self.sources)

    @property
    def kept(self) -> int:
        return sum(source.kept for source in self.sources)

    @property
    def dropped(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.dropped)
        return dict(total.most_common())

    def words(self) -> str:
        why = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        return f"{self.kept:,} of {self.read:,} rows kept" + (f" ({why})" if why else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": self.dropped,
            "bad_sql": self.bad_sql,
            "notes": list(self.notes),
            "sources": [dataclasses.asdict(source) for source in self.sources],
            "channels": {
                item.name: {"file": item.path.name, "rows": item.rows, "bytes": item.bytes} for item in self.channels
            },
        }


def load_prepared(folder: Path) -> Prepared:
    """What an earlier run left in a folder."""
    found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    channels = tuple(
        ChannelFile(name, folder / item["file"], item["rows"], item["bytes"])
        for name, item in found["channels"].items()
    )
    sources = tuple(SourceCount(**item) for item in found["sources"])
    return Prepared(folder, channels, sources, found["bad_sql"], tuple(found["notes"]))


def prepare_channels(
    inputs: Sequence[Input], filters: Sequence[Filter], prepare: Prepare, out: Path, track: Track = untracked
) -> Prepared:
    """Write train.jsonl, eval.jsonl, test.jsonl and a summary into `out`."""
    _check_out(inputs, out)
    with written(out), working_folder(out, ".preparing-") as place:
        first = _FirstPass(inputs, prepare)
        spool = place / "rows"
        first.run(inputs, filters, prepare, spool, track)
        codes = first.divide(prepare)
        channels = _deal_out(spool, codes, place, track)
        result = first.summary(out, codes, channels, prepare)
        _publish(result, place, out)
    return result


def _check_out(inputs: Sequence[Input], out: Path) -> None:
    """Refuse to write over a source, or over channels that something else has made."""
    read = {file.resolve() for item in inputs for file in item.files}
    for name in CHANNELS:
        path = out / f"{name}.jsonl"
        if path.resolve() in read:
            raise DataError(f"{path} is one of the sources, and would be written.", hint="Give another --out folder.")
        if path.exists() and not (out / MANIFEST).is_file():
            raise DataError(
                f"{path} is there already, and was not made by `prepare`.",
                hint="Give another --out folder, or move the file away.",
            )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is not a folder.", hint="Give another --out folder.")


class _FirstPass:
    """Rows put aside, and per row what decides where it goes."""

    def __init__(self, inputs: Sequence[Input], prepare: Prepare) -> None:
        self._counts = [SourceCount(item.source.name) for item in inputs]
        self._dropped: list[Counter[str]] = [Counter() for _ in inputs]
        self._fixed = [CHANNELS.index(item.source.channel) if item.source.channel else -1 for item in inputs]
        self._hashes = bytearray()
        self._groups = bytearray()
        self._shapes = ShapesSeen(prepare.split)
        self._bad_sql = 0

    def run(
        self, inputs: Sequence[Input], filters: Sequence[Filter], prepare: Prepare, spool: Path, track: Track
    ) -> None:
        settings = (tuple(item.source for item in inputs), tuple(filters), prepare)
        pipeline = Pipeline(*settings)  # here too, so that what cannot work is said before a worker starts
        size = sum(item.bytes for item in inputs)
        with spool.open("wb", WRITE_BYTES) as rows, track("reading", size) as advance:
            for number, item in enumerate(inputs):
                for batch in _run_source(item, iter_blocks(item, advance), pipeline, settings):
                    rows.write(batch.lines)
                    self._add(number, batch)

    def _add(self, number: int, batch: Batch) -> None:
        self._hashes += batch.hashes
        self._groups += batch.groups
        self._bad_sql += batch.bad_sql
        self._counts[number].read += batch.read
        self._counts[number].kept += batch.kept
        self._dropped[number].update(batch.dropped)
        self._shapes.add(self._fixed[number], batch.shapes)

    def divide(self, prepare: Prepare) -> Any:
        import numpy as np

        kept = [count.kept for count in self._counts]
        fixed = np.repeat(np.array(self._fixed, np.int8), kept)
        division = Division(prepare.deduplicate, prepare.limit, prepare.split, prepare.seed)
        return divide(self._hashes, self._groups, fixed, division)

    def summary(self, out: Path, codes: Any, channels: Sequence[ChannelFile], prepare: Prepare) -> Prepared:
        start = 0
        split = [0] * len(CHANNELS)
        for count, dropped, fixed in zip(self._counts, self._dropped, self._fixed, strict=True):
            own = codes[start : start + count.kept]
            start += count.kept
            if fixed < 0:
                split = [rows + int((own == code).sum()) for code, rows in enumerate(split, start=FIRST_CHANNEL)]
            for code, reason in ((DUPLICATE, "duplicate"), (BEYOND_LIMIT, "beyond the limit")):
                if found := int((own == code).sum()):
                    dropped[reason] += found
            count.kept = int((own >= FIRST_CHANNEL).sum())
            count.dropped = dict(dropped.most_common())
        counted = bool(prepare.sql_column) and has_sqlglot()
        notes = [] if counted or not prepare.sql_column else [f"nobody has parsed the SQL: {INSTALL} brings what does"]
        if not any(channel.name == "train" for channel in channels):
            self._refuse_empty()
        notes += find_missed_shares(split, prepare)
        placed = tuple(dataclasses.replace(channel, path=out / channel.path.name) for channel in channels)
        return Prepared(out, placed, tuple(self._counts), self._bad_sql if counted else None, tuple(notes))

    def _refuse_empty(self) -> None:
        read = sum(count.read for count in self._counts)
        reasons: Counter[str] = Counter()
        for dropped in self._dropped:
            reasons.update(dropped)
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise DataError(
            f"No row is left to train on, of {read:,} that were read" + (f": {why}." if why else "."),
            hint="Loosen drop_empty, the filters or the split, or name other sources.",
        )


def _run_source(item: Input, blocks: Iterator[Block], pipeline: Pipeline, settings: tuple[Any, ...]) -> Iterator[Batch]:
    if item.source.first:
        return _run_first(blocks, pipeline, item.source.first)
    workers = count_workers()
    in_bytes = bool(item.files) and all(format_of(item, file) in BLOCK_FORMATS for file in item.files)
    if workers > 1 and in_bytes and item.bytes >= WORTH_WORKERS_BYTES:
        return Workers(settings, workers).run(blocks)
    return map(pipeline.run, blocks)


def _run_first(blocks: Iterator[Block], pipeline: Pipeline, wanted: int) -> Iterator[Batch]:
    for block in blocks:
        batch = pipeline.run(block, wanted)
        wanted -= batch.read
        yield batch
        if not wanted:
            return


# the second pass


class _Writer:
    """A channel's file."""

    def __init__(self, name: str, folder: Path, stack: contextlib.ExitStack) -> None:
        self.name = name
        self.path = folder / f"{name}.jsonl"
        self._file: BinaryIO = stack.enter_context(self.path.open("wb"))

    def write(self, lines: Iterable[bytes]) -> None:
        self._file.write(b"".join(lines))


def _deal_out(spool: Path, codes: Any, folder: Path, track: Track) -> list[ChannelFile]:
    """The rows put aside, each into its channel; a channel without rows is no file."""
    with contextlib.ExitStack() as stack:
        writers = [_Writer(name, folder, stack) for name in CHANNELS]
        advance = stack.enter_context(track("writing", spool.stat().st_size))
        rows = stack.enter_context(spool.open("rb", WRITE_BYTES))
        start = done = 0
        while lines := rows.readlines(COPY_BYTES):
            here = codes[start : start + len(lines)]
            for code, writer in enumerate(writers, start=FIRST_CHANNEL):
                writer.write(compress(lines, (here == code).tobytes()))
            start += len(lines)
            advance(rows.tell() - done)
            done = rows.tell()
    counts = [int((codes == code).sum()) for code, _ in enumerate(writers, start=FIRST_CHANNEL)]
    return [
        ChannelFile(writer.name, writer.path, count, writer.path.stat().st_size)
        for writer, count in zip(writers, counts, strict=True)
        if count
    ]


def _publish(result: Prepared, made: Path, out: Path) -> None:
    """One after another, the manifest last."""
    for name in CHANNELS:
        if (made / f"{name}.jsonl").exists() and any(channel.name == name for channel in result.channels):
            (made / f"{name}.jsonl").replace(out / f"{name}.jsonl")
        else:
            (out / f"{name}.jsonl").unlink(missing_ok=True)
    text = json.dumps(result.as_json(), indent=2, ensure_ascii=False) + "\n"
    (made / MANIFEST).write_text(text, encoding="utf-8")
    (made / MANIFEST).replace(out / MANIFEST)
