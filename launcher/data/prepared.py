"""Channels that plan and submit prepare by themselves, kept by the digest of what they are made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from launcher.data.preparing import Prepared, load_prepared, prepare_channels
from launcher.data.rows import take_fingerprint
from launcher.data.scratch import working_folder, written
from launcher.data.settings import Filter, Prepare, Source
from launcher.data.sources import Input, find_inputs
from launcher.data.sql import has_sqlglot
from launcher.errors import DataError
from launcher.home import state_home
from launcher.progress import Track, untracked

VERSION = 2  # of what preparing makes from the same sources and settings
KEPT = 8
KEPT_S = 24 * 3600


def find_or_prepare(
    sources: Sequence[Source], filters: Sequence[Filter], prepare: Prepare, track: Track = untracked
) -> Prepared:
    """The channels of sources on this machine. A source that changed, or a setting, makes them anew."""
    inputs = find_inputs(sources, _refuse_remote)
    home = state_home() / "prepared"
    folder = home / _digest(inputs, filters, prepare)
    found = _find(folder) or _make(inputs, filters, prepare, folder, track)
    _prune(home, folder)
    return found


def _find(folder: Path) -> Prepared | None:
    """What was prepared before, unless something has damaged it since; it counts as used just now."""
    try:
        os.utime(folder)
        found = load_prepared(folder)
        whole = all(channel.path.stat().st_size == channel.bytes for channel in found.channels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if whole and found.channels else None


def _refuse_remote(address: str) -> list[Path]:
    raise DataError(f"{address} is not on this machine.", hint="`launcher prepare` fetches it.")


def _make(inputs: Sequence[Input], filters: Sequence[Filter], prepare: Prepare, folder: Path, track: Track) -> Prepared:
    with written(folder.parent), working_folder(folder.parent, ".making-") as place:
        prepare_channels(inputs, filters, prepare, place / "made", track)
        try:
            (place / "made").replace(folder)
        except OSError:  # another command may have been as fast, or what lies there is damaged
            if _find(folder) is None:
                folder.replace(place / "damaged")
                (place / "made").replace(folder)
    return load_prepared(folder)


def _digest(inputs: Sequence[Input], filters: Sequence[Filter], prepare: Prepare) -> str:
    """Of the settings and of what tells cheaply that a file is still the same; reading gigabytes would take as long as
    preparing them."""
    meant = {
        "version": VERSION,
        "sources": [dataclasses.asdict(item.source) for item in inputs],
        "files": [[str(file), *dataclasses.astuple(take_fingerprint(file))] for file in _iter_files(inputs)],
        "filters": [dataclasses.asdict(item) for item in filters],
        "prepare": dataclasses.asdict(prepare),
        "sql": bool(prepare.sql_column) and has_sqlglot(),
    }
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()[:16]


def _iter_files(inputs: Sequence[Input]) -> Iterator[Path]:
    for item in inputs:
        yield from item.files
        if item.source.dataset:
            yield from sorted(path for path in Path(item.source.dataset).rglob("*") if path.is_file())


def _prune(home: Path, current: Path) -> None:
    """Older ones go, but none that a command of the last day may still upload from."""
    used: list[tuple[float, Path]] = []
    for folder in home.iterdir():
        if folder != current and not folder.name.startswith("."):  # those are being made at this moment
            with suppress(FileNotFoundError):  # another command prunes too
                used.append((folder.stat().st_mtime, folder))
    for last, folder in sorted(used, reverse=True)[KEPT - 1 :]:
        if time.time() - last > KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)
