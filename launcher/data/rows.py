"""Every row of a file, checked and digested. What a row may be is the container's own code; see sft/data.py.

Files are read in blocks of whole lines, never whole: blocks of canonical rows go the quick way, all others line by
line. A large file is shared out over the processors while this process takes its digest.
"""

from __future__ import annotations

import multiprocessing
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from container_src.sft.data import Row, RowError, Shape, check_row, parse_row, shape_of
from launcher.data import quick, quick_keys
from launcher.data.blocks import MAX_LINE_BYTES
from launcher.data.findings import SHOWN, Finding, refuse
from launcher.data.tally import NO_ROW as NO_ROW
from launcher.data.tally import Remark as Remark
from launcher.data.tally import Tally as Tally
from launcher.errors import DataError, LauncherError
from launcher.progress import Advance

BLOCK_BYTES = 64 * 1024  # fits the second-level cache together with its rows; 256 KiB takes half as long again
DIGEST_BYTES = 1024 * 1024
PART_BYTES = 16 * 1024 * 1024  # what one process checks at a time
LONG_TEXT = 1_000_000  # characters; some 250,000 tokens, more than these models take
BOM = b"\xef\xbb\xbf"
FOREIGN = {
    b"\x1f\x8b": "it is compressed (gzip). `launcher prepare` reads .gz; a channel must be plain text.",
    b"PAR1": "it is a Parquet file. `launcher prepare` turns it into rows.",
    b"PK\x03\x04": "it is a zip archive. Unpack it, then `launcher prepare` turns its files into rows.",
    b"\xff\xfe": "it is UTF-16. Save it as UTF-8.",
    b"\xfe\xff": "it is UTF-16. Save it as UTF-8.",
}


@dataclass(frozen=True)
class Fingerprint:
    """What tells cheaply that a file is still the one that was checked; nobody can set a ctime back."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True)
class CheckedFile:
    """`digest` is of the very bytes that were checked: the file was the same before and after."""

    path: Path
    fingerprint: Fingerprint
    digest: str
    tally: Tally


@dataclass(frozen=True)
class CheckedFiles:
    """One digest a file."""

    rows: int
    shape: str
    digests: tuple[str, ...]
    files: tuple[CheckedFile, ...] = ()


def check_files(channel: str, files: Sequence[Path]) -> CheckedFiles:
    """Read every row of every file; raises DataError with all problems up to a limit."""
    checked = tuple(check_file(channel, path) for path in files)
    refuse(*errors_in(channel, checked))
    return CheckedFiles(sum(file.tally.rows for file in checked), shape_in(checked), digests_of(checked), checked)


def digests_of(files: Sequence[CheckedFile]) -> tuple[str, ...]:
    return tuple(file.digest for file in files)


def shape_in(files: Sequence[CheckedFile]) -> str:
    """The channel's shape, or "" where it has none."""
    return next((shape for file in files for shape in file.tally.shapes), "")


def errors_in(channel: str, files: Sequence[CheckedFile]) -> tuple[list[Finding], int]:
    """All errors of a channel's rows up to the limit, and how many more there are."""
    found = [
        Finding("error", channel, problem.text, file.path.name, problem.line, problem.field)
        for file in files
        for problem in file.tally.problems
    ][:SHOWN]
    unseen = sum(file.tally.problem_count for file in files) - len(found)
    if not any(file.tally.rows for file in files) and not found:
        found.append(Finding("error", channel, "it is empty. Write one JSON object a line.", files[0].path.name))
    return found + _mixed(channel, files), unseen


def _mixed(channel: str, files: Sequence[CheckedFile]) -> list[Finding]:
    first: dict[str, CheckedFile] = {}
    for file in files:
        for shape in file.tally.shapes:
            first.setdefault(shape, file)
    if len(first) < 2:
        return []
    places = {shape: (file.path.name, file.tally.shapes[shape]) for shape, file in first.items()}  # type: ignore[index]
    words = ", ".join(f"{shape} (first at {name}:{line})" for shape, (name, line) in places.items())
    name, line = list(places.values())[1]
    problem = f"the channel mixes shapes: {words}. Use one shape for all rows of a channel."
    return [Finding("error", channel, problem, name, line)]


# one file


def check_file(channel: str, path: Path, advance: Advance | None = None) -> CheckedFile:
    """Every line of a file and its digest, in bounded memory."""
    with opened(path) as (descriptor, before):
        parts = _split(descriptor, before.size)
        if foreign := _find_foreign(os.pread(descriptor, 4, 0)):
            tally, digest = Tally(), ""
            tally.refuse_line(foreign)
        elif len(parts) < 2 or count_processors() < 2:
            tally = _check_in_turn(descriptor, parts, advance)
            digest = take_digest(descriptor, before.size)
        else:
            tally, digest = _check_at_once(descriptor, parts, before.size, advance)
        after = take_fingerprint(path)
    if after != before:
        raise DataError(f"{path} changed while it was being checked.", hint="Try again when nothing writes to it.")
    return CheckedFile(path, before, digest, tally)


def take_fingerprint(path: Path) -> Fingerprint:
    return _fingerprint(path.stat())


def _fingerprint(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, Fingerprint]]:
    try:
        # a FIFO without a writer would hold a plain open for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a plain file.", hint="Write the rows into a .jsonl file.")
        yield descriptor, _fingerprint(status)
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)


def _find_foreign(start: bytes) -> str:
    return next((words for magic, words in FOREIGN.items() if start.startswith(magic)), "")


def _check_in_turn(descriptor: int, parts: Sequence[range], advance: Advance | None) -> Tally:
    tally = Tally()
    for part in parts:
        tally.append(check_part(descriptor, part))
        if advance:
            advance(len(part))
    return tally


def _check_at_once(descriptor: int, parts: Sequence[range], size: int, advance: Advance | None) -> tuple[Tally, str]:
    """The parts over all processors, and the digest beside them: it can only be taken from front to back."""
    # Forked, since the identities of rows are comparable only between processes that share their hash seed.
    context = multiprocessing.get_context("fork")
    workers = min(count_processors(), len(parts))
    tally, digests = Tally(), list[str]()
    digesting = threading.Thread(target=lambda: digests.append(take_digest(descriptor, size)), daemon=True)
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            waiting = [pool.submit(check_part, descriptor, part) for part in parts]
            digesting.start()  # after the fork: a process must not be copied while another thread runs in it
            try:
                for part, done in zip(parts, waiting, strict=True):
                    tally.append(done.result())
                    if advance:
                        advance(len(part))
            finally:
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        raise LauncherError(
            "A process that checked rows was killed from outside.", hint="Is there enough memory? Try again."
        ) from error
    finally:
        digesting.join()
    return tally, digests[0]


def count_processors() -> int:
    return len(os.sched_getaffinity(0))


def take_digest(descriptor: int, size: int) -> str:
    digest = blake3()
    for offset in range(0, size, DIGEST_BYTES):
        digest.update(os.pread(descriptor, DIGEST_BYTES, offset))
    return digest.hexdigest()


# parts and blocks


def split_file(path: Path, part_bytes: int) -> list[range]:
    """A file as ranges of bytes that hold whole lines, for a pool of processes."""
    with opened(path) as (descriptor, fingerprint):
        return _split(descriptor, fingerprint.size, part_bytes)


def _split(descriptor: int, size: int, part_bytes: int = PART_BYTES) -> list[range]:
    parts, start = [], 0
    while start < size:
        stop = _after_line(descriptor, start + part_bytes, size)
        parts.append(range(start, stop))
        start = stop
    return parts


def _after_line(descriptor: int, offset: int, stop: int) -> int:
    """Where the line that holds `offset` ends, without keeping any of it."""
    while offset < stop:
        chunk = os.pread(descriptor, BLOCK_BYTES, offset)
        if not chunk:
            break
        end = chunk.find(b"\n")
        if end >= 0:
            return offset + end + 1
        offset += len(chunk)
    return stop


def iter_blocks(descriptor: int, part: range) -> Iterator[bytes]:
    """Blocks of whole lines; a line above the limit comes alone, cut short and without its end."""
    start = part.start
    while start < part.stop:
        block = os.pread(descriptor, min(BLOCK_BYTES, part.stop - start), start)
        if not block:
            return  # the file has shrunk, which its fingerprint will tell
        whole = block.rfind(b"\n") + 1
        if start + len(block) < part.stop:
            block = block[:whole] if whole else _read_long_line(descriptor, start, part.stop)
        yield block
        start += len(block)
        if len(block) > MAX_LINE_BYTES and not block.endswith(b"\n"):
            start = _after_line(descriptor, start, part.stop)


def _read_long_line(descriptor: int, start: int, stop: int) -> bytes:
    end = min(_after_line(descriptor, start, stop), start + MAX_LINE_BYTES + 1)
    return os.pread(descriptor, end - start, start)


# lines


def check_part(descriptor: int, part: range) -> Tally:
    """The lines of a range of bytes; its first line counts as line 1."""
    tally = Tally()
    for block in iter_blocks(descriptor, part):
        if len(block) > MAX_LINE_BYTES:
            tally.refuse_line(f"the line is longer than {MAX_LINE_BYTES >> 20} MiB. Split it into rows, or drop it.")
        elif block.isspace():
            _remark_line_ends(block, tally)
            tally.pass_over(block.count(b"\n") + (not block.endswith(b"\n")))
        elif len(block) > LONG_TEXT or not (_take_quickly(block, tally) or _take_parted(block, tally)):
            for line in split_lines(block):
                check_line(line, tally)
        tally.stop_at_blanks()
        if tally.stopped:
            break
    return tally


def _take_quickly(block: bytes, tally: Tally) -> bool:
    taken = _accept(block)
    if taken:
        shape, rows = taken
        _remark_line_ends(block, tally)
        _take(rows, shape, tally, range(len(rows.identities)), len(rows.identities))
        return True
    if len(tally.problems) >= SHOWN and (refused := quick_keys.count_shapeless(block)):
        tally.problem_count += refused  # only counted, from here on
        tally.pass_over(refused)
        return True
    return False


def _take_parted(block: bytes, tally: Tally) -> bool:
    """Rows with empty lines between them: read without those, and counted each in its place."""
    lines = split_lines(block)
    places = [place for place, line in enumerate(lines) if line.strip()]
    taken = _accept(b"".join(lines[place] for place in places)) if len(places) < len(lines) else None
    if not taken:
        return False
    shape, rows = taken
    _remark_line_ends(block, tally)
    _take(rows, shape, tally, places, len(lines))
    return True


def _accept(block: bytes) -> tuple[Shape, quick_keys.Taken] | None:
    # A wrong shape fails at the first row, so trying all costs next to nothing.
    for shape in quick.SHAPES:
        identities = quick.accept(block, shape)
        if identities is not None:
            return shape, quick_keys.Taken(identities)
    for shape in quick.SHAPES:
        taken = quick_keys.accept(block, shape)
        if taken is not None:
            return shape, taken
    return None


def _take(rows: quick_keys.Taken, shape: Shape, tally: Tally, places: Sequence[int], lines: int) -> None:
    """`places` says on which of so many lines each row stands."""
    tally.shapes.setdefault(shape, tally.next_line + places[0])
    if rows.with_keys:
        tally.remark("keys", rows.with_keys, rows.keys, ahead=places[rows.first])
    tally.rows += len(rows.identities)
    if lines == len(rows.identities):
        tally.identities.extend(rows.identities)
        return
    identities = [NO_ROW] * lines
    for place, identity in zip(places, rows.identities, strict=True):
        identities[place] = identity
    tally.identities.extend(identities)


def _remark_line_ends(block: bytes, tally: Tally) -> None:
    if b"\r" in block and (count := block.count(b"\r\n")):
        tally.remark("crlf", count)


def split_lines(block: bytes) -> list[bytes]:
    """At line feeds alone, as files are read; bytes.splitlines also splits at a carriage return."""
    lines = block.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def check_line(line: bytes, tally: Tally) -> None:
    """The exact way, one line at a time, in the container's own words."""
    if line.endswith(b"\r\n"):
        tally.remark("crlf")
    if line.startswith(BOM):
        tally.remark("bom")
    if not line.strip():
        tally.identities.append(NO_ROW)
        return
    try:
        row = parse_row(line, "", tally.next_line)
        check_row(row)
    except RowError as error:
        tally.refuse_line(error.problem, error.field)
        return
    shape = shape_of(row)
    _remark_on(row, shape, tally)
    tally.shapes.setdefault(shape, tally.next_line)
    tally.rows += 1
    tally.identities.append(quick.identity(row.fields, shape))


TRAINED_KEYS: dict[Shape, set[str]] = {
    "text": {"text"},
    "completion": {"prompt", "completion"},
    "messages": {"messages"},
}


def _remark_on(row: Row, shape: Shape, tally: Tally) -> None:
    others = row.find_untrained(TRAINED_KEYS[shape])
    if others:
        tally.remark("keys", words=sorted(others))
    texts = texts_of(row, shape)
    if any("\0" in text for text in texts):
        tally.remark("nul")
    if any(len(text) > LONG_TEXT for text in texts):
        tally.remark("long")
    if shape == "messages" and row.fields["messages"][-1]["role"] != "assistant":
        tally.remark("unanswered")


def texts_of(row: Row, shape: Shape) -> list[str]:
    """All that is rendered of a row."""
    if shape == "messages":
        return [message["content"] for message in row.fields["messages"]]
    return [row.fields[key] for key in sorted(TRAINED_KEYS[shape])]
