"""The bytes of the object store: files written once, under unique names; the index says which ones count."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from launcher.local.store_index import Index, find_files, is_referenced
from launcher.local.store_model import Content, Source, StoreError

CHUNK = 1 << 20
USUAL = ("md5",)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
CANNOT_CLONE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class ContentFolder:
    """A file is locked from its first byte until its row is committed, so that a sweep leaves it alone."""

    def __init__(self, folder: Path, index: Index) -> None:
        self._folder = folder
        self._index = index

    @contextmanager
    def receiving(self, source: Source, algorithms: Sequence[str] = USUAL) -> Iterator[Content]:
        """The source's bytes on disk; they stay if the block makes the index name them, else they go."""
        with self._new_file() as (name, file):
            yield take_in(source, file, name, algorithms)

    @contextmanager
    def receiving_slot(self, slot: Slot, source: Source, algorithms: Sequence[str] = USUAL) -> Iterator[Content]:
        """The source's bytes in their place of a file that others are writing to elsewhere."""
        path = self._path(slot.file)
        with naming_full_disk(path), path.open("r+b") as file:
            file.seek(slot.position)
            yield take_in(source, file, slot.file, algorithms, slot.size)

    @contextmanager
    def joining(self, pieces: Sequence[Slot]) -> Iterator[str]:
        """One file with the bytes of several pieces, copied inside the kernel."""
        with self._new_file() as (name, target):
            for piece in pieces:
                with self.open(piece.file) as source:
                    copy_bytes(source, target, piece.position, piece.size)
            yield name

    @contextmanager
    def new_empty(self) -> Iterator[str]:
        """A file to be filled slot by slot, if the block makes the index name it."""
        with self._new_file() as (name, _):
            yield name

    def open(self, name: str) -> BinaryIO:
        return self._path(name).open("rb")

    def trim(self, name: str, size: int) -> None:
        """Cut off what a part that broke off left behind the last one."""
        if self._path(name).stat().st_size > size:
            os.truncate(self._path(name), size)

    def release(self, names: Iterable[str]) -> None:
        """Remove those files that no row names any more; call it after the commit."""
        with self._index.reading() as db:
            unused = [name for name in names if not is_referenced(db, name)]
        for name in unused:
            self._path(name).unlink(missing_ok=True)

    def sweep(self, older_than_s: float) -> int:
        """Remove what crashed writers left; returns how many files that were."""
        horizon = time.time() - older_than_s
        with self._index.reading() as db:
            named = find_files(db)
        suspects = [path for path in self._folder.glob("*/*") if path.name not in named]
        return sum(self._remove_if_abandoned(path, horizon) for path in suspects)

    def _remove_if_abandoned(self, path: Path, horizon: float) -> bool:
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_mtime < horizon:
                self.release([path.name])
                return True
        return False

    @contextmanager
    def _new_file(self) -> Iterator[tuple[str, BinaryIO]]:
        name = uuid.uuid4().hex
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=1 << 16) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                with naming_full_disk(path):
                    yield name, file
            except BaseException:
                self.release([name])
                raise

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


@dataclass(frozen=True)
class Slot:
    """A stretch of a content file."""

    file: str
    position: int
    size: int


class Digests:
    """Size, CRC32 and the wanted digests of hashlib, in the one pass over the bytes."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        self.size = 0
        self._crc32 = 0
        self._others = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._crc32 = zlib.crc32(chunk, self._crc32)
        for digest in self._others.values():
            digest.update(chunk)

    def raw(self) -> dict[str, bytes]:
        others = {name: digest.digest() for name, digest in self._others.items()}
        return {"crc32": self._crc32.to_bytes(4, "big"), **others}


def take_in(source: Source, file: BinaryIO, name: str, algorithms: Sequence[str], most: int = sys.maxsize) -> Content:
    """Write the source at the file's position, and digest it in the same pass."""
    position, digests = file.tell(), Digests(algorithms)
    for chunk in iter_chunks(source):
        digests.update(chunk)
        if digests.size > most:
            raise StoreError("IncompleteBody", 400, f"You announced {most} bytes and sent more.")
        file.write(chunk)
    file.flush()
    return Content(name, position, digests.size, digests.raw())


def iter_chunks(source: Source) -> Iterator[bytes]:
    if not hasattr(source, "read"):
        yield from source
        return
    while chunk := source.read(CHUNK):
        yield chunk


def copy_bytes(source: BinaryIO, target: BinaryIO, position: int, size: int) -> None:
    """Append a stretch of the source to the target; both are unbuffered or flushed."""
    end = position + size
    while position < end:
        copied = copy_range(source.fileno(), target.fileno(), end - position, position)
        if not copied:
            raise OSError(errno.EIO, "the file ended early while it was copied")
        position += copied


def copy_range(source: int, target: int, count: int, offset: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset)
    except OSError as error:
        if error.errno not in CANNOT_CLONE:
            raise
        return os.sendfile(target, source, offset, count)  # works across file systems


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        # 507 and not 503: clients would repeat the whole upload on a 503
        message = f"Writing under {path.parent.parent} failed: {error.strerror}. Free some space and repeat."
        raise StoreError("InsufficientStorage", 507, message) from error
