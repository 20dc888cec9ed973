"""Sources of every format, as blocks of rows that are read one after another."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from launcher import hub
from launcher.data.blocks import MAX_ROW_BYTES, Block, Dialect, iter_csv_blocks, iter_line_blocks
from launcher.data.keys import KeyTwice, make_object
from launcher.data.settings import Source
from launcher.errors import DataError
from launcher.progress import Advance

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
Fetch = Callable[[str], list[Path]]  # an s3:// address -> its files on this machine
ROWS_IN_A_BLOCK = 1000
CHUNK_CHARS = 1_000_000
BOMB_TIMES = 200  # gzip packs text 3 to 20 times, the same row over and over up to 1,000 times
BOMB_BYTES = 64_000_000  # what may always be unpacked
INSTALL = "Install what reads it: pip install 'qlora-launcher[data]'."


@dataclass(frozen=True)
class Input:
    """A source whose files have been found; `number` counts from 1, as in data.sources[1]."""

    number: int
    source: Source
    files: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def find_inputs(sources: Sequence[Source], fetch: Fetch) -> list[Input]:
    """The files of every source, given by full paths; what lies in S3 is fetched first."""
    return [
        Input(number, source, tuple(_find_files(number, source, fetch)))
        for number, source in enumerate(sources, start=1)
    ]


def _find_files(number: int, source: Source, fetch: Fetch) -> list[Path]:
    if source.dataset:
        return []
    if source.is_remote:
        return _choose_fetched(number, source, fetch(source.path))
    path = Path(source.path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_data(file, path))
    else:
        files = sorted(file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if file.is_file())
    if not files:
        raise DataError(
            f"data.sources[{number}]: {path} is neither a file nor a folder or pattern that finds one.",
            hint=f"Paths in a recipe start at its folder. Known endings: {', '.join(FORMATS)}, each also with .gz.",
        )
    return files


def _choose_fetched(number: int, source: Source, fetched: list[Path]) -> list[Path]:
    """Beside rows a folder in S3 may hold other files, but not those alone."""
    files = [file for file in fetched if source.format or _format_by_name(file)]
    if not files and fetched:
        raise _refuse_format(number, fetched[0])
    return files


def _is_data(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.is_file() and not hidden and bool(_format_by_name(file))


def _format_by_name(file: Path) -> str:
    return FORMATS.get(Path(file.name.removesuffix(".gz")).suffix.lower(), "")


def format_of(item: Input, file: Path) -> str:
    found = item.source.format or _format_by_name(file)
    if not found:
        raise _refuse_format(item.number, file)
    return found


def _refuse_format(number: int, file: Path) -> DataError:
    """`file` is the source, or the first of a folder that holds none that can be read."""
    return DataError(
        f"data.sources[{number}]: the format of {file.name} cannot be told from its name.",
        hint="It is a workbook: save its sheet as CSV, and name that."
        if file.suffix.lower() in WORKBOOKS
        else 'Set format = "csv" (or tsv, json, jsonl, parquet) on the source.',
    )


def iter_blocks(item: Input, advance: Advance) -> Iterator[Block]:
    """Every block of a source; `advance` hears of the bytes that were read from disk."""
    if item.source.dataset:
        yield from _iter_dataset(item)
    for file in item.files:
        with _told_by_name(file), file.open("rb") as raw, _unpacked(file, raw) as stream:
            done = 0
            for block in _read(item, file, stream):
                yield block
                advance(raw.tell() - done)
                done = raw.tell()
            advance(file.stat().st_size - done)


@contextlib.contextmanager
def _told_by_name(file: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{file} is not a whole gzip file: {error}.", hint="Fetch or pack it again, or take the .gz off its name."
        ) from error
    except OSError as error:
        raise DataError(f"{file} could not be read: {error.strerror or error}.") from error


@contextlib.contextmanager
def _unpacked(file: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    if file.suffix != ".gz":
        yield raw
        return
    with gzip.GzipFile(fileobj=raw) as stream:
        yield cast(BinaryIO, _Unpacking(file, raw, cast(BinaryIO, stream)))


class _Unpacking:
    """Refuses what unpacks to far more than rows do: before it fills the disk, or takes all day."""

    def __init__(self, file: Path, raw: BinaryIO, stream: BinaryIO) -> None:
        self._file = file
        self._raw = raw
        self._stream = stream
        self._unpacked = 0

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self._unpacked += len(chunk)
        if self._unpacked > max(BOMB_BYTES, BOMB_TIMES * self._raw.tell()):
            raise DataError(
                f"{self._file} unpacks to more than {BOMB_TIMES} times its size, as no table of rows does.",
                hint="Look at what is in it. If it is meant, unpack it, and name that file as the source.",
            )
        return chunk


def _read(item: Input, file: Path, stream: BinaryIO) -> Iterator[Block]:
    kind = format_of(item, file)
    if kind in ("csv", "tsv"):
        dialect = Dialect(item.source.delimiter or {"csv": ",", "tsv": "\t"}[kind], item.source.quote)
        return iter_csv_blocks(stream, item.number, file.name, dialect)
    if kind == "jsonl":
        return iter_line_blocks(stream, item.number, file.name)
    records = _iter_json(stream, file.name) if kind == "json" else _iter_parquet(stream, file)
    return _pack(records, item.number, file.name)


def _pack(records: Iterator[dict[str, Any]], source: int, file: str) -> Iterator[Block]:
    first = 1
    while rows := list(itertools.islice(records, ROWS_IN_A_BLOCK)):
        yield Block(source, file, first, rows)
        first += len(rows)


# JSON: an array of objects, or objects one after another

_BLANK = re.compile(r"[ \t\r\n]*+")


def _iter_json(stream: BinaryIO, file: str) -> Iterator[dict[str, Any]]:
    """One object after another; never the whole file at once."""
    text = _Text(stream, file)
    in_array = text.take("[")
    while not text.is_at_end():
        if in_array and text.take("]"):
            break
        value = text.take_object()
        yield value
        if in_array and not text.take(",") and not text.is_next("]"):
            text.refuse("a comma or the array's end is missing")
    if not text.is_at_end():
        text.refuse("something follows the end of the array")


class _Text:
    """A file's text, read on when a value does not end in what is at hand."""

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self._chunks = codecs.iterdecode(iter(lambda: stream.read(CHUNK_CHARS), b""), "utf-8-sig")
        self._decoder = json.JSONDecoder(object_pairs_hook=make_object)
        self._file = file
        self._line = 1
        self._text = ""
        self._at = 0

    def _read_on(self) -> bool:
        try:
            chunk = next(self._chunks, "")
        except UnicodeDecodeError as error:
            raise DataError(f"{self._file}: not UTF-8 ({error.reason}).", hint="Save the file as UTF-8.") from error
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)

    def _skip_blanks(self) -> None:
        while True:
            found = _BLANK.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._read_on():
                return

    def is_at_end(self) -> bool:
        self._skip_blanks()
        return self._at == len(self._text)

    def is_next(self, mark: str) -> bool:
        self._skip_blanks()
        return self._text.startswith(mark, self._at)

    def take(self, mark: str) -> bool:
        found = self.is_next(mark)
        self._at += len(mark) * found
        return found

    def take_object(self) -> dict[str, Any]:
        if not self.is_next("{"):
            self.refuse("an object was expected; rows are objects, in an array or one after another")
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
                return cast(dict[str, Any], value)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > MAX_ROW_BYTES or not self._read_on():
                    self.refuse(f"not JSON: {error.msg}", max(0, min(error.pos, len(self._text)) - self._at))
            except KeyTwice as error:
                self.refuse(f"{error.key!r} is given twice in one object")
            except RecursionError as error:
                raise DataError(f"{self._file}:{self._line}: an object is nested too deeply to be a row.") from error

    def refuse(self, problem: str, ahead: int = 0) -> None:
        line = self._line + self._text.count("\n", 0, self._at + ahead)
        raise DataError(f"{self._file}:{line}: {problem}.", hint="Mend the file, or write one object a line as .jsonl.")


# Parquet and data sets


def _iter_parquet(stream: BinaryIO, file: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{file.name} is Parquet, which cannot be read here.", hint=INSTALL) from error
    with tempfile.TemporaryFile() as copy:
        if file.suffix == ".gz":  # Parquet is read from its end
            while chunk := stream.read(CHUNK_CHARS):
                copy.write(chunk)
            copy.seek(0)
            stream = cast(BinaryIO, copy)
        try:
            for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(ROWS_IN_A_BLOCK):
                yield from batch.to_pylist()
        except pyarrow.ArrowException as error:
            raise DataError(f"{file} is not a Parquet file that can be read: {error}") from error


def _iter_dataset(item: Input) -> Iterator[Block]:
    source = item.source
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"The data set {source.dataset} cannot be read here.", hint=INSTALL) from error
    try:
        found = _load_dataset(datasets, source)
        yield from _pack(iter(found), item.number, source.dataset)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"data.sources[{item.number}]: the data set {source.dataset} could not be read: {error}",
            hint="Check dataset, subset, rows and revision; for a private data set set HF_TOKEN. Or use its files.",
        ) from error


def _load_dataset(datasets: Any, source: Source) -> Any:
    """A folder that save_to_disk wrote, else the Hub, streamed: nothing is kept but what is prepared."""
    if Path(source.dataset).is_dir():
        saved = datasets.load_from_disk(source.dataset)
        if not isinstance(saved, datasets.DatasetDict):
            return saved
        if source.rows not in saved:
            raise ValueError(f"it has no rows {source.rows!r}, but {', '.join(map(repr, saved))}")
        return saved[source.rows]
    if hub.look_up(source.dataset, kind="datasets") is hub.Found.UNREACHABLE:
        raise ConnectionError("the Hub cannot be reached from here")  # the library would try for half a minute
    return datasets.load_dataset(
        source.dataset, source.subset or None, split=source.rows, revision=source.revision or None, streaming=True
    )
