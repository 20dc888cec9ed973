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
from launcher.data.splits import make_hasher
from launcher.data.sql import make_parser
from launcher.data.templates import TemplateError, make_row
from launcher.errors import DataError

Fields = Mapping[str, Any]
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
    """The recipe's settings, made ready to run."""

    def __init__(self, sources: Sequence[Source], filters: Sequence[Filter], prepare: Prepare) -> None:
        self._sources = sources
        self._named = tuple(dict.fromkeys([*prepare.named_columns, *(item.column for item in filters)]))
        self._has_template = bool(prepare.templates)
        self._checks = [*map(_make_empty_check, prepare.drop_empty), *map(_make_filter, filters)]
        self._make_row = make_row(prepare.templates)
        self._hasher = make_hasher(prepare.seed, "row")
        self._split_by = prepare.split_by
        self._sql_column = prepare.sql_column
        self._drop_bad_sql = prepare.drop_bad_sql
        self._parses = make_parser(prepare.sql_dialect, must=prepare.drop_bad_sql) if prepare.sql_column else None

    def run(self, block: Block, limit: int = 0) -> Batch:
        """Every row of a block, or its first `limit`."""
        batch = Batch()
        lines: list[bytes] = []
        hashes: list[bytes] = []
        groups: list[bytes] = []
        for line, fields in self._iter_fields(block):
            if limit and batch.read == limit:
                break
            batch.read += 1
            reason = self._find_reason(fields, batch)
            if reason:
                batch.dropped[reason] += 1
                continue
            content = self._render(fields, block, line)
            lines.append(content)
            hashes.append(self._hash(content))
            if self._split_by:
                groups.append(self._hash(orjson.dumps([fields[name] for name in self._split_by])))
        batch.kept = len(lines)
        batch.lines, batch.hashes, batch.groups = b"".join(lines), b"".join(hashes), b"".join(groups)
        return batch

    def _find_reason(self, fields: Fields, batch: Batch) -> str:
        for check in self._checks:
            if reason := check(fields):
                return reason
        if self._parses and not self._parses(fields[self._sql_column]):
            batch.bad_sql += 1
            return BAD_SQL if self._drop_bad_sql else ""
        return ""

    def _render(self, fields: Fields, block: Block, line: int) -> bytes:
        try:
            return orjson.dumps(self._make_row(fields), option=orjson.OPT_APPEND_NEWLINE)
        except TemplateError as error:
            raise DataError(f"{_place(block, line)}: {error}.") from error
        except TypeError as error:
            raise DataError(
                f"{_place(block, line)}: a value cannot be written as JSON: {error}.", hint="Drop or convert it."
            ) from error

    def _hash(self, content: bytes) -> bytes:
        hasher = self._hasher.copy()
        hasher.update(content)
        return bytes(hasher.digest())

    # fields by our names

    def _iter_fields(self, block: Block) -> Iterator[tuple[int, Fields]]:
        mapping = self._sources[block.source - 1].columns
        if block.header:
            return self._iter_csv(block, mapping)
        records = block.content if isinstance(block.content, list) else None
        rows = enumerate(records) if records is not None else _iter_json_lines(block)
        return ((line, self._pick(record, mapping, block, line)) for line, record in rows)

    def _iter_csv(self, block: Block, mapping: Mapping[str, str]) -> Iterator[tuple[int, Fields]]:
        if self._has_template:
            names = self._named
            wanted = [mapping.get(name, name) for name in names]
        else:
            names, wanted = self._all_names(block.header, mapping), list(block.header)
        for name in wanted:
            if name not in block.header:
                raise _missing(block, block.place(0), name, block.header)
        self._check_named(names, block, 0)
        for line, values in enumerate(parse_csv(block, wanted)):
            yield line, dict(zip(names, values, strict=True))

    def _pick(self, record: dict[str, Any], mapping: Mapping[str, str], block: Block, line: int) -> Fields:
        if not self._has_template:
            names = self._all_names(tuple(record), mapping)
            for name in mapping.values():
                if name not in record:
                    raise _missing(block, _place(block, line), name, tuple(record))
            self._check_named(names, block, line)
            return dict(zip(names, record.values(), strict=True))
        try:
            return {name: _as_text(record[mapping.get(name, name)]) for name in self._named}
        except KeyError as error:
            raise _missing(block, _place(block, line), error.args[0], tuple(record)) from error
        except ValueError as error:
            wrong = next(name for name in self._named if isinstance(record[mapping.get(name, name)], list | dict))
            raise DataError(
                f"data.sources[{block.source}]: {_place(block, line)}: {mapping.get(wrong, wrong)!r} is "
                f"a {error}, which a template cannot hold.",
                hint="Use a column of text or numbers.",
            ) from error

    def _all_names(self, names: Sequence[str], mapping: Mapping[str, str]) -> tuple[str, ...]:
        ours = {theirs: name for name, theirs in mapping.items()}
        return tuple(ours.get(name, name) for name in names)

    def _check_named(self, names: Sequence[str], block: Block, line: int) -> None:
        for name in self._named:
            if name not in names:
                raise _missing(block, _place(block, line), name, names)


def _iter_json_lines(block: Block) -> Iterator[tuple[int, dict[str, Any]]]:
    assert isinstance(block.content, bytes)
    for line, content in enumerate(block.content.split(b"\n")):
        if not content.strip():
            continue
        try:
            record = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            decode(block)  # says so where the cause is not UTF-8
            raise DataError(f"{block.place(line)}: not JSON: {error}.", hint="Write one object a line.") from error
        if not isinstance(record, dict):
            raise DataError(f"{block.place(line)}: a {type(record).__name__}, not an object.")
        yield line, record


def _place(block: Block, line: int) -> str:
    """A line where lines are rows; else the number of the row."""
    if block.header:
        return f"{block.file}, row {line + 1} of those from line {block.first}"
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

Check = Callable[[Fields], str]


def _make_empty_check(column: str) -> Check:
    reason = f"{column} is empty"

    def check(fields: Fields) -> str:
        value = fields[column]
        return reason if not value or (isinstance(value, str) and value.isspace()) else ""

    return check


def _make_filter(item: Filter) -> Check:
    tests = list(_iter_tests(item))

    def check(fields: Fields) -> str:
        value = _as_text(fields[item.column])
        return next((reason for fits, reason in tests if not fits(value)), "")

    return check


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
