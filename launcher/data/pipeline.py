"""One block of a source -> prepared lines, their hashes, and what was dropped. Runs in any process."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from launcher.data.blocks import Block, decode, parse_csv
from launcher.data.settings import Filter, Prepare, Source
from launcher.data.splits import hash_rows
from launcher.data.sql import make_parser
from launcher.data.templates import TemplateError, make_rows, take_shape
from launcher.errors import DataError

BAD_SQL = "SQL does not parse"


@dataclass
class Batch:
    """What became of a block."""

    lines: bytes = b""
    hashes: bytes = b""
    groups: bytes = b""
    read: int = 0
    kept: int = 0
    bad_sql: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Pipeline:
    """The recipe's settings, made ready to run. Works on whole columns: row by row takes twice the time."""

    def __init__(self, sources: Sequence[Source], filters: Sequence[Filter], prepare: Prepare) -> None:
        self._sources = sources
        self._named = tuple(dict.fromkeys([*prepare.named_columns, *(item.column for item in filters)]))
        self._checks = [*map(_make_empty_check, prepare.drop_empty), *_iter_filters(filters)]
        self._make_rows = make_rows(prepare.templates) if prepare.templates else None
        self._seed = prepare.seed
        self._split_by = prepare.split_by
        self._sql_column = prepare.sql_column
        self._drop_bad_sql = prepare.drop_bad_sql
        self._parses = make_parser(prepare.sql_dialect, must=prepare.drop_bad_sql) if prepare.sql_column else None

    def run(self, block: Block, limit: int = 0) -> Batch:
        """Every row of a block, or its first `limit`."""
        table = self._read(block, limit)
        batch = Batch(read=table.rows)
        for check in self._checks:
            self._drop(table, batch, check)
        if self._parses:
            self._count_bad_sql(table, batch)
        lines = self._render(table)
        batch.kept = len(lines)
        batch.lines, batch.hashes = b"".join(lines), hash_rows(lines, self._seed)
        if self._split_by:
            groups = zip(*[table.columns[name] for name in self._split_by], strict=True)
            batch.groups = hash_rows(map(orjson.dumps, groups), self._seed)
        return batch

    def _drop(self, table: _Table, batch: Batch, check: Check) -> None:
        values = table.texts(check.column)
        if not all(map(check.fits, values)):
            fitting = [place for place, value in enumerate(values) if check.fits(value)]
            batch.dropped[check.reason] += len(values) - len(fitting)
            table.keep(fitting)

    def _count_bad_sql(self, table: _Table, batch: Batch) -> None:
        assert self._parses
        queries = table.texts(self._sql_column)
        parsing = [place for place, query in enumerate(queries) if self._parses(query)]
        batch.bad_sql = len(queries) - len(parsing)
        if self._drop_bad_sql and batch.bad_sql:
            batch.dropped[BAD_SQL] += batch.bad_sql
            table.keep(parsing)

    def _render(self, table: _Table) -> list[bytes]:
        rows = self._make_rows(table.columns) if self._make_rows else table.take_shapes()
        try:
            return [orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows]
        except TypeError as error:
            raise DataError(
                f"{table.place(_find_unwritable(rows))}: a value cannot be written as JSON: {error}.",
                hint="Drop or convert it.",
            ) from error

    # columns by our names

    def _read(self, block: Block, limit: int) -> _Table:
        mapping = self._sources[block.source - 1].columns
        if block.header:
            return self._read_csv(block, mapping, limit)
        if isinstance(block.content, list):
            records, lines = block.content, list(range(len(block.content)))
        else:
            records, lines = _parse_json_lines(block)
        if limit:
            records, lines = records[:limit], lines[:limit]
        columns = self._pick(records, mapping, block, lines) if self._make_rows else {}
        table = _Table(block, lines, columns)
        if not self._make_rows:
            table.records = [
                self._rename(record, mapping, block, line) for line, record in zip(lines, records, strict=True)
            ]
        return table

    def _read_csv(self, block: Block, mapping: Mapping[str, str], limit: int) -> _Table:
        ours = {theirs: name for name, theirs in mapping.items()}
        pairs = (
            {name: mapping.get(name, name) for name in self._named}
            if self._make_rows
            else {ours.get(name, name): name for name in block.header}
        )
        for name in [*pairs.values(), *(mapping.values() if not self._make_rows else ())]:
            if name not in block.header:
                raise _missing(block, block.file, name, block.header)
        self._check_named(pairs, block, block.file)
        read = parse_csv(block, tuple(pairs.values()))
        columns = {name: read[theirs][: limit or None] for name, theirs in pairs.items()}
        table = _Table(block, range(len(next(iter(columns.values())))), columns)
        if not self._make_rows:
            table.records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return table

    def _pick(
        self, records: Sequence[dict[str, Any]], mapping: Mapping[str, str], block: Block, lines: Sequence[int]
    ) -> dict[str, Sequence[str]]:
        columns: dict[str, Sequence[str]] = {}
        for name in self._named:
            theirs = mapping.get(name, name)
            try:
                columns[name] = [_as_text(record[theirs]) for record in records]
            except KeyError as error:
                wrong = next(place for place, record in enumerate(records) if theirs not in record)
                raise _missing(block, _place(block, lines[wrong]), theirs, tuple(records[wrong])) from error
            except ValueError as error:
                wrong = next(place for place, record in enumerate(records) if isinstance(record[theirs], list | dict))
                raise DataError(
                    f"data.sources[{block.source}]: {_place(block, lines[wrong])}: {theirs!r} is a {error}, which a "
                    "template cannot hold.",
                    hint="Use a column of text or numbers.",
                ) from error
        return columns

    def _rename(self, record: dict[str, Any], mapping: Mapping[str, str], block: Block, line: int) -> dict[str, Any]:
        for name in mapping.values():
            if name not in record:
                raise _missing(block, _place(block, line), name, tuple(record))
        ours = {theirs: name for name, theirs in mapping.items()}
        fields = {ours.get(name, name): value for name, value in record.items()}
        self._check_named(fields, block, _place(block, line))
        return fields

    def _check_named(self, fields: Mapping[str, Any], block: Block, place: str) -> None:
        for name in self._named:
            if name not in fields:
                raise _missing(block, place, name, tuple(fields))


class _Table:
    """A block's rows as columns, or as records where there is no template; `lines` says where each one stands."""

    def __init__(self, block: Block, lines: Sequence[int], columns: dict[str, Sequence[str]]) -> None:
        self._block = block
        self._lines = lines
        self.columns: dict[str, Sequence[Any]] = columns
        self.records: list[dict[str, Any]] | None = None

    @property
    def rows(self) -> int:
        return len(self._lines)

    def texts(self, name: str) -> Sequence[str]:
        if self.records is None:
            return self.columns[name]
        return [_flat(record[name]) for record in self.records]

    def keep(self, places: Sequence[int]) -> None:
        self._lines = [self._lines[place] for place in places]
        self.columns = {name: [column[place] for place in places] for name, column in self.columns.items()}
        if self.records is not None:
            self.records = [self.records[place] for place in places]

    def place(self, row: int) -> str:
        return _place(self._block, self._lines[row])

    def take_shapes(self) -> list[dict[str, Any]]:
        shaped = []
        for row, record in enumerate(self.records or ()):
            try:
                shaped.append(take_shape(record))
            except TemplateError as error:
                raise DataError(f"{self.place(row)}: {error}.") from error
        return shaped


def _find_unwritable(rows: Sequence[Any]) -> int:
    for place, row in enumerate(rows):
        try:
            orjson.dumps(row)
        except TypeError:
            return place
    return 0


def _flat(value: Any) -> str:
    """For checks of a row that stays as it is."""
    return orjson.dumps(value).decode() if value and isinstance(value, list | dict) else _as_text(value or "")


def _parse_json_lines(block: Block) -> tuple[list[dict[str, Any]], list[int]]:
    assert isinstance(block.content, bytes)
    records, lines = [], []
    for line, content in enumerate(block.content.split(b"\n")):
        if not content or content.isspace():
            continue
        try:
            record = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            decode(block)  # says so where the cause is not UTF-8
            raise DataError(f"{block.place(line)}: not JSON: {error}.", hint="Write one object a line.") from error
        if not isinstance(record, dict):
            raise DataError(f"{block.place(line)}: a {type(record).__name__}, not an object.")
        records.append(record)
        lines.append(line)
    return records, lines


def _place(block: Block, line: int) -> str:
    """A line where lines are rows; else the number of the row."""
    if block.header:
        return f"{block.file}, row {line + 1} after line {block.first - 1}"
    return block.place(line) if isinstance(block.content, bytes) else f"{block.file}, row {block.first + line}"


def _missing(block: Block, place: str, name: str, known: Sequence[str]) -> DataError:
    return DataError(
        f"data.sources[{block.source}]: {place} has no column {name!r}; it has {', '.join(known) or 'none'}.",
        hint=f'Map it: columns = {{ our_name = "{known[0] if known else "theirs"}" }} on that source.',
    )


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        raise ValueError(type(value).__name__)
    return str(value)


# what drops a row


@dataclass(frozen=True)
class Check:
    column: str
    fits: Callable[[str], Any]
    reason: str


def _make_empty_check(column: str) -> Check:
    return Check(column, str.strip, f"{column} is empty")


def _iter_filters(filters: Sequence[Filter]) -> Iterator[Check]:
    for item in filters:
        yield from (Check(item.column, fits, reason) for fits, reason in _iter_tests(item))


def _iter_tests(item: Filter) -> Iterator[tuple[Callable[[str], bool], str]]:
    column = item.column
    if item.one_of:
        yield frozenset(item.one_of).__contains__, f"{column} is none of {', '.join(item.one_of)}"
    if item.none_of:
        refused = frozenset(item.none_of)
        yield (lambda value: value not in refused), f"{column} is one of {', '.join(item.none_of)}"
    if item.matches:
        wanted = re.compile(item.matches)
        yield (lambda value: wanted.search(value) is not None), f"{column} does not match {item.matches}"
    if item.lacks:
        unwanted = re.compile(item.lacks)
        yield (lambda value: unwanted.search(value) is None), f"{column} matches {item.lacks}"
    if item.min_chars:
        yield (lambda value: len(value) >= item.min_chars), f"{column} has less than {item.min_chars} characters"
    if item.max_chars:
        yield (lambda value: len(value) <= item.max_chars), f"{column} has more than {item.max_chars} characters"
