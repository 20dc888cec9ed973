"""One block of a source -> prepared lines, their hashes, and what was dropped. Runs in any process."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from container_src.sft.data import ROLES, Row, RowError, check_row, shape_of
from launcher.data.blocks import MAX_LINE_BYTES, Block
from launcher.data.columns import Reader, Table, is_blank
from launcher.data.settings import Filter, Prepare, Source
from launcher.data.splits import hash_rows
from launcher.data.sql import make_parser
from launcher.data.templates import TRAINED, make_parts, make_rows
from launcher.errors import DataError

BAD_SQL = "SQL does not parse"


@dataclass
class Batch:
    """What became of a block. `shapes` has the place of the first row of each shape, where no template makes it."""

    lines: bytes = b""
    hashes: bytes = b""
    groups: bytes = b""
    read: int = 0
    kept: int = 0
    bad_sql: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    shapes: dict[str, str] = field(default_factory=dict)


class Pipeline:
    """The recipe's settings, made ready to run. Works on whole columns: row by row takes twice the time."""

    def __init__(self, sources: Sequence[Source], filters: Sequence[Filter], prepare: Prepare) -> None:
        self._reader = Reader(sources, filters, prepare)
        self._checks = [*map(_make_empty_check, prepare.drop_empty), *_iter_filters(filters)]
        self._make_parts = make_parts(prepare.templates) if prepare.templates else None
        self._seed = prepare.seed
        self._split_by = prepare.split_by
        self._sql_column = prepare.sql_column
        self._drop_bad_sql = prepare.drop_bad_sql
        self._parses = make_parser(prepare.sql_dialect, must=prepare.drop_bad_sql) if prepare.sql_column else None

    def run(self, block: Block, limit: int = 0) -> Batch:
        """Every row of a block, or its first `limit`."""
        table = self._reader.read(block, limit)
        batch = Batch(read=table.rows)
        for check in self._checks:
            self._drop(table, batch, check)
        if self._parses:
            self._count_bad_sql(table, batch)
        rows = self._fill_templates(table, batch) if self._make_parts else self._take_rows(block, table, batch)
        lines = _write(rows, table, orjson.OPT_APPEND_NEWLINE)
        batch.kept = len(lines)
        batch.lines, batch.hashes = b"".join(lines), hash_rows(lines, self._seed)
        if self._split_by:
            groups = list(zip(*[table.texts(name) for name in self._split_by], strict=True))
            batch.groups = hash_rows(_write(groups, table), self._seed)
        return batch

    def _drop(self, table: Table, batch: Batch, check: Check) -> None:
        values = table.texts(check.column)
        if not all(map(check.fits, values)):
            fitting = [place for place, value in enumerate(values) if check.fits(value)]
            batch.dropped[check.reason] += len(values) - len(fitting)
            table.keep(fitting)

    def _count_bad_sql(self, table: Table, batch: Batch) -> None:
        assert self._parses
        queries = table.texts(self._sql_column)
        parsing = [place for place, query in enumerate(queries) if self._parses(query)]
        batch.bad_sql = len(queries) - len(parsing)
        if self._drop_bad_sql and batch.bad_sql:
            batch.dropped[BAD_SQL] += batch.bad_sql
            table.keep(parsing)

    # rows that can be trained on: what has nothing to train is dropped, what is wrong is refused where it stands

    def _fill_templates(self, table: Table, batch: Batch) -> list[Any]:
        assert self._make_parts
        parts = self._make_parts(table.columns)
        for name, part in TRAINED.items():
            texts = parts.get(name, [])
            if all(texts) and not any(map(str.isspace, texts)):
                continue
            fitting = [place for place, text in enumerate(texts) if text.strip()]
            batch.dropped[f"{part} is empty"] += len(texts) - len(fitting)
            table.keep(fitting)
            parts = self._make_parts(table.columns)
        return make_rows(parts)

    def _take_rows(self, block: Block, table: Table, batch: Batch) -> list[dict[str, Any]]:
        rows = table.take_shapes(self._reader.mapping_of(block))
        fitting = []
        for place, row in enumerate(rows):
            if gap := _find_gap(row):
                batch.dropped[gap] += 1
            else:
                fitting.append(place)
        if len(fitting) < len(rows):
            rows = [rows[place] for place in fitting]
            table.keep(fitting)
        for place, fields in enumerate(rows):
            shape = _check(fields, table, place)
            if shape not in batch.shapes:
                batch.shapes[shape] = table.place(place)
        return rows


def _find_gap(row: dict[str, Any]) -> str:
    """Why there is nothing to train in a row that is sound but for that; else empty."""
    if _is_plain(row):
        return ""
    for name in ("text", "completion"):
        if name in row and is_blank(row[name]):
            return f"{name} is empty"
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        return ""
    turns = [item for item in messages if item.get("role") in ("user", "assistant")]
    if any(is_blank(item.get("content", ".")) for item in turns):
        return "a turn is empty"
    roles = {str(item.get("role")) for item in messages}
    return "no answer of the assistant" if roles.issubset(ROLES) and "assistant" not in roles else ""


def _is_plain(row: dict[str, Any]) -> bool:
    """All of it is text, as in most rows: known without a closer look, which takes ten times as long."""
    return "messages" not in row and all(
        isinstance(value, str) and value and not value.isspace() for value in row.values()
    )


def _check(fields: dict[str, Any], table: Table, place: int) -> str:
    """The row's shape, by the container's own rules."""
    if _is_plain(fields):
        return "text" if "text" in fields else "completion"
    row = Row("", 0, fields)
    try:
        check_row(row)
    except RowError as error:
        raise DataError(
            f"{table.place(place)}: {error.problem}", hint="Mend the source, or drop such rows with [[data.filters]]."
        ) from error
    return shape_of(row)


def _write(rows: Sequence[Any], table: Table, option: int = 0) -> list[bytes]:
    try:
        lines = [orjson.dumps(row, option=option) for row in rows]
    except TypeError as error:
        raise DataError(
            f"{table.place(_find_unwritable(rows))}: a value cannot be written as JSON: {error}.",
            hint="Drop or convert it.",
        ) from error
    longest = max(lines, key=len, default=b"")
    if len(longest) > MAX_LINE_BYTES:
        raise DataError(
            f"{table.place(lines.index(longest))}: the row is longer than {MAX_LINE_BYTES >> 20} MiB.",
            hint="Split it into rows, or drop it: max_chars in [[data.filters]].",
        )
    return lines


def _find_unwritable(rows: Sequence[Any]) -> int:
    for place, row in enumerate(rows):
        try:
            orjson.dumps(row)
        except TypeError:
            return place
    return 0


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
