"""A folder to work in, beside where the result will lie: it goes when we are done, and the next command removes what a
killed one has left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.errors import DataError


@contextmanager
def working_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Held by a lock for as long as its process lives, so that others know whether it is still worked in."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{prefix}*"):
        _remove_unless_held(left)
    place, descriptor = _make_held(parent, prefix)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(descriptor)


def _make_held(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        place = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # taken for a left one before it could be locked
            continue
        with suppress(OSError):  # a file system without locks: then nobody removes anything either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if place.is_dir():
            return place, descriptor
        os.close(descriptor)


def _remove_unless_held(left: Path) -> None:
    with suppress(OSError):  # held, gone by now, or not ours to remove
        descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextmanager
def written(out: Path) -> Iterator[None]:
    """A folder or a disk that cannot be written, in our words."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{out} could not be written: {error.strerror or error}.",
            hint="Make room there, or give another folder: --out of `prepare`, LAUNCHER_HOME of `plan` and `submit`.",
        ) from error
