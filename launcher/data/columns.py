"""Blocks -> tables: a source's columns by our names, as texts for templates, or whole records where there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from container_src.sft.data import RowError, parse_row
from launcher.data.blocks import Block, decode, parse_csv
from launcher.data.keys import has_key_twice
from launcher.data.settings import Filter, Prepare, Source, keys_of_columns
from launcher.data.templates import TemplateError, take_shape
from launcher.errors import DataError

DELIMITERS = (";", "\t", "|", ",")


class Table:
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
        return f"data.sources[{self._block.source}]: {_place(self._block, self._lines[row])}"

    def take_shapes(self, mapped: Mapping[str, str]) -> list[dict[str, Any]]:
        shaped = []
        for row, record in enumerate(self.records or ()):
            try:
                shaped.append(take_shape(record, mapped))
            except TemplateError as error:
                hint = _find_cause(self._block, self._lines[row], record)
                raise DataError(f"{self.place(row)}: {error}.", hint=hint) from error
        return shaped


class Reader:
    """Reads blocks as the sources' mappings and the settings' columns want them."""

    def __init__(self, sources: Sequence[Source], filters: Sequence[Filter], prepare: Prepare) -> None:
        self._sources = sources
        self._askers = keys_of_columns(filters, prepare)
        self._has_template = bool(prepare.templates)

    def mapping_of(self, block: Block) -> Mapping[str, str]:
        return self._sources[block.source - 1].columns

    def read(self, block: Block, limit: int) -> Table:
        if block.header:
            return self._read_csv(block, limit)
        if isinstance(block.content, list):
            records, lines = block.content, list(range(len(block.content)))
        else:
            records, lines = _parse_json_lines(block)
        if limit:
            records, lines = records[:limit], lines[:limit]
        if self._has_template:
            return Table(block, lines, self._pick(records, block, lines))
        table = Table(block, lines, {})
        table.records = [self._rename(record, block, line) for line, record in zip(lines, records, strict=True)]
        return table

    def _read_csv(self, block: Block, limit: int) -> Table:
        mapping = self.mapping_of(block)
        if self._has_template:
            pairs = {name: mapping.get(name, name) for name in self._askers}
        else:
            pairs = _pair(mapping, block.header)
            self._check_named(pairs, block, 0, dict.fromkeys(block.header))
        for name, theirs in pairs.items():
            if theirs not in block.header:
                raise self._missing(name, block, 0, dict.fromkeys(block.header))
        read = parse_csv(block, tuple(pairs.values()))
        columns = {name: read[theirs][: limit or None] for name, theirs in pairs.items()}
        table = Table(block, range(len(next(iter(columns.values())))), columns)
        if not self._has_template:
            table.records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return table

    def _pick(self, records: Sequence[dict[str, Any]], block: Block, lines: Sequence[int]) -> dict[str, Sequence[str]]:
        mapping = self.mapping_of(block)
        columns: dict[str, Sequence[str]] = {}
        for name in self._askers:
            theirs = mapping.get(name, name)
            try:
                columns[name] = [as_text(record[theirs]) for record in records]
            except KeyError as error:
                wrong = next(place for place, record in enumerate(records) if theirs not in record)
                raise self._missing(name, block, lines[wrong], records[wrong]) from error
            except ValueError as error:
                wrong = next(place for place, record in enumerate(records) if isinstance(record[theirs], list | dict))
                raise DataError(
                    f"data.sources[{block.source}]: {_place(block, lines[wrong])}: {theirs!r} is a {error}, which a "
                    "template cannot hold.",
                    hint="Use a column of text or numbers.",
                ) from error
        return columns

    def _rename(self, record: dict[str, Any], block: Block, line: int) -> dict[str, Any]:
        mapping = self.mapping_of(block)
        for name, theirs in mapping.items():
            if theirs not in record:
                raise self._missing(name, block, line, record)
        fields = {name: record[theirs] for name, theirs in _pair(mapping, record).items()} if mapping else record
        self._check_named(fields, block, line, record)
        return fields

    def _check_named(self, fields: Mapping[str, Any], block: Block, line: int, record: Mapping[str, Any]) -> None:
        for name in self._askers:
            if name not in fields:
                raise self._missing(name, block, line, record)

    def _missing(self, name: str, block: Block, line: int, record: Mapping[str, Any]) -> DataError:
        """A column that is not there, with the key that asks for it."""
        mapping, known = self.mapping_of(block), tuple(record)
        asker = f"data.sources[{block.source}].columns.{name}" if name in mapping else self._askers[name]
        place = block.file if block.header else _place(block, line)
        return DataError(
            f"data.sources[{block.source}]: {place} has no column {mapping.get(name, name)!r}; it has "
            f"{', '.join(known) or 'none'}. {asker} asks for it.",
            hint=_find_cause(block, line, record)
            or f'Map it: columns = {{ {name} = "{known[0] if known else "theirs"}" }} on that source.',
        )


def _pair(mapping: Mapping[str, str], theirs: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    """Our name -> theirs, for all columns. What is mapped goes before a column that bears our name by itself."""
    taken = set(mapping.values())
    return {**mapping, **{name: name for name in theirs if name not in taken and name not in mapping}}


def _find_cause(block: Block, line: int, record: Mapping[str, Any]) -> str:
    """Why a source seems to have none of the columns that it should have; empty where it is none of the usual."""
    if block.header and len(block.header) == 1:
        found = next((mark for mark in DELIMITERS if mark in block.header[0]), "")
        return (
            f"Its columns seem to be parted by {found!r}: set delimiter = {json.dumps(found)} on it." if found else ""
        )
    if block.header or line or block.first != 1:
        return ""
    for name, value in record.items():
        rows = value if isinstance(value, list) else []
        if rows and all(isinstance(row, dict) and "role" not in row for row in rows):
            return (
                f"Its rows lie inside {name!r}: write that list alone into a .json file, and name that as the source."
            )
    return ""


# values


def _flat(value: Any) -> str:
    """For checks of a row that stays as it is."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str) if value else ""
    return as_text(value)


def is_blank(value: Any) -> bool:
    """No text, where text may stand."""
    return not isinstance(value, list | dict) and not as_text(value).strip()


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN, which tables write where nothing was
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        raise ValueError(type(value).__name__)
    return str(value)


# lines


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
    if has_key_twice(block.content, records):
        _refuse_key_twice(block, lines)
    return records, lines


def _refuse_key_twice(block: Block, lines: Sequence[int]) -> None:
    assert isinstance(block.content, bytes)
    contents = block.content.split(b"\n")
    for line in lines:
        try:
            parse_row(contents[line], block.file, block.first + line)
        except RowError as error:
            raise DataError(f"data.sources[{block.source}]: {error}") from error


def _place(block: Block, line: int) -> str:
    """A line where lines are rows; else the number of the row."""
    if block.header:
        return f"{block.file}, row {line + 1} after line {block.first - 1}"
    return block.place(line) if isinstance(block.content, bytes) else f"{block.file}, row {block.first + line}"
