"""Pieces of a source that can be read on their own, and the lines of each.

A block ends where a row ends, so blocks can be parsed on several cores, and of a file of any size a block is held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from launcher.errors import DataError

BLOCK_BYTES = 500_000
MAX_ROW_BYTES = 64_000_000
MAX_LINE_BYTES = 16 * 1024 * 1024  # of a finished row; some 4 million tokens: no row, whatever it is
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written; `quote` is empty where quotes are letters like any other."""

    delimiter: str = ","
    quote: str = '"'


@dataclass(frozen=True)
class Block:
    """Rows of one file: its bytes, or records that something else has parsed. `first` is their first line or number."""

    source: int
    file: str
    first: int
    content: bytes | list[dict[str, Any]]
    dialect: Dialect | None = None
    header: tuple[str, ...] = ()

    def place(self, line: int) -> str:
        """`line` counts from 0 within the block."""
        return f"{self.file}:{self.first + line}"


# cutting


def iter_line_blocks(stream: BinaryIO, source: int, file: str) -> Iterator[Block]:
    """JSON Lines."""
    for line, content in _iter_cut(stream, file, _end_of_lines):
        if not content.isspace():
            yield Block(source, file, line, content)


def iter_csv_blocks(stream: BinaryIO, source: int, file: str, dialect: Dialect) -> Iterator[Block]:
    """CSV by RFC 4180; the first row names the columns."""
    header: tuple[str, ...] = ()
    for line, content in _iter_cut(stream, file, _end_of_rows(dialect)):
        if not header:
            header, body = _take_header(content, file, line, dialect)
            line, content = line + content.count(b"\n", 0, len(content) - len(body)), body
        if content.strip():
            yield Block(source, file, line, content, dialect, header)
    if not header:
        raise DataError(f"{file} is empty: a CSV file begins with the names of its columns.")


def _iter_cut(stream: BinaryIO, file: str, find_end: Any) -> Iterator[tuple[int, bytes]]:
    """Pairs of a line number and whole rows."""
    line, rest = 1, b""
    while chunk := stream.read(BLOCK_BYTES):
        if line == 1 and not rest:
            chunk = chunk.removeprefix(BOM)
        rest += chunk
        end = find_end(rest)
        if not end:
            _refuse_endless(rest, file, line)
            continue
        yield line, rest[:end]
        line, rest = line + rest.count(b"\n", 0, end), rest[end:]
    if rest.strip():
        yield line, rest + b"\n"


def _refuse_endless(rest: bytes, file: str, line: int) -> None:
    if len(rest) > MAX_ROW_BYTES:
        raise DataError(
            f"{file}:{line}: no row ends within {MAX_ROW_BYTES:,} bytes from here.",
            hint="Look for a quote that is opened and never closed, or for a file without line ends.",
        )


def _end_of_lines(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _end_of_rows(dialect: Dialect) -> Any:
    """The last line end outside quotes: an even number of quotes stands before it."""
    if not dialect.quote:
        return _end_of_lines
    quote = dialect.quote.encode()

    def find(content: bytes) -> int:
        outside = content.count(quote) % 2 == 0
        end = len(content)
        while (place := content.rfind(b"\n", 0, end)) >= 0:
            outside ^= content.count(quote, place, end) % 2 == 1
            if outside:
                return place + 1
            end = place
        return 0

    return find


# parsing


def decode(block: Block) -> str:
    assert isinstance(block.content, bytes)
    try:
        return block.content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = block.place(block.content.count(b"\n", 0, error.start))
        raise DataError(f"{place}: not UTF-8 ({error.reason}).", hint="Save the file as UTF-8.") from error


def parse_csv(block: Block, wanted: Sequence[str]) -> dict[str, Sequence[str]]:
    """The wanted columns, each with all its values."""
    dialect = block.dialect or Dialect()
    text = decode(block)
    in_order = [name for name in block.header if name in wanted]
    numbers = tuple(block.header.index(name) for name in in_order)
    found = _row_pattern(dialect, len(block.header), numbers).findall(text)
    bad = found[-1][-1] if found else ""
    if _skip_blank_lines(bad) < len(bad):
        _refuse_row(block, text[: len(text) - len(bad)].count("\n"), bad, dialect)
    if bad:
        found.pop()
    groups: Sequence[Sequence[str]] = list(zip(*found, strict=True))[:-1]
    if not found:
        return dict.fromkeys(in_order, ())
    if not dialect.quote:
        return dict(zip(in_order, groups, strict=True))
    return {
        name: _unquote(quoted, plain, dialect.quote)
        for name, quoted, plain in zip(in_order, groups[0::2], groups[1::2], strict=True)
    }


def _unquote(quoted: Sequence[str], plain: Sequence[str], quote: str) -> Sequence[str]:
    """A column from its two groups, of which each row fills one. A whole column at once takes half the time."""
    values = [inside.replace(quote * 2, quote) if quote in inside else inside for inside in quoted]
    return [inside or bare for inside, bare in zip(values, plain, strict=True)] if any(plain) else values


@lru_cache(maxsize=64)
def _row_pattern(dialect: Dialect, width: int, wanted: tuple[int, ...]) -> re.Pattern[str]:
    """One row; its last group takes all that is left where no row can be read. Never backtracks."""
    fields = [_field(dialect, captured=number in wanted, alone=width == 1) for number in range(width)]
    return re.compile(rf"(?:\r?\n)*+{re.escape(dialect.delimiter).join(fields)}\r?\n|([\s\S]++)")


def _field(dialect: Dialect, *, captured: bool, alone: bool) -> str:
    quote = re.escape(dialect.quote)
    # in a file of one column an empty line is no row
    opens = "(" if captured else "(?:"
    plain = rf"{opens}[^{quote}{re.escape(dialect.delimiter)}\r\n]{'++' if alone else '*+'})"
    return rf"(?:{quote}{opens}[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+){quote}|{plain})" if quote else plain


def _take_header(content: bytes, file: str, line: int, dialect: Dialect) -> tuple[tuple[str, ...], bytes]:
    block = Block(0, file, line, content)
    text = decode(block)
    names, end = _split_row(text, dialect)
    if end is None:
        _refuse_row(block, 0, text, dialect)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{file}:{line}: the column {repeated[0]!r} stands twice.", hint="Give each column its name.")
    return tuple(names), text[end:].encode()


def _split_row(text: str, dialect: Dialect) -> tuple[list[str], int | None]:
    """The first row's fields and where it ends; None where it cannot be read to its end."""
    pattern = re.compile(_field(dialect, captured=True, alone=False))
    values: list[str] = []
    place = _skip_blank_lines(text)
    while found := pattern.match(text, place):
        values += _unquote([found[1] or ""], [found[2] or ""], dialect.quote) if dialect.quote else [found[1]]
        place = found.end()
        if text.startswith(dialect.delimiter, place):
            place += 1
            continue
        ended = re.compile(r"\r?\n").match(text, place)
        return values, ended.end() if ended else None
    return values, None


def _skip_blank_lines(text: str) -> int:
    found = re.match(r"(?:\r?\n)*+", text)
    return found.end() if found else 0


def _refuse_row(block: Block, line: int, text: str, dialect: Dialect) -> None:
    line += text.count("\n", 0, _skip_blank_lines(text))
    values, end = _split_row(text, dialect)
    if end is not None:
        raise DataError(
            f"{block.place(line)}: {len(values)} fields, but the header has {len(block.header)}.",
            hint=f"Fields with {dialect.delimiter!r} or line ends in them must stand in quotes.",
        )
    number = len(values) + (0 if values else 1)
    raise DataError(
        f"{block.place(line)}: field {number} is neither plain nor quoted as CSV has it.",
        hint='Put a field that holds quotes into quotes and write each of its own twice: "a 5"" screw". '
        'Where quotes are plain letters, set quote = "" on the source.',
    )
