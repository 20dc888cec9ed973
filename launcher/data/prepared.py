"""Channels that plan and submit prepare by themselves, kept by the digest of what they are made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.data.preparing import MANIFEST, Prepared, load_prepared, prepare_channels
from launcher.data.rows import take_fingerprint
from launcher.data.settings import Filter, Prepare, Source
from launcher.data.sources import Input, find_inputs
from launcher.data.sql import has_sqlglot
from launcher.errors import DataError
from launcher.home import state_home
from launcher.progress import Track, untracked

VERSION = 1  # of what preparing makes from the same sources and settings
KEPT = 8
KEPT_S = 24 * 3600


def find_or_prepare(
    sources: Sequence[Source], filters: Sequence[Filter], prepare: Prepare, track: Track = untracked
) -> Prepared:
    """The channels of sources on this machine. A source that changed, or a setting, makes them anew."""
    inputs = find_inputs(sources, _refuse_remote)
    home = state_home() / "prepared"
    folder = home / _digest(inputs, filters, prepare)
    if not (folder / MANIFEST).is_file():
        _make(inputs, filters, prepare, folder, track)
    os.utime(folder)
    _prune(home, folder)
    return load_prepared(folder)


def _refuse_remote(address: str) -> list[Path]:
    raise DataError(f"{address} is not on this machine.", hint="`launcher prepare` fetches it.")


def _make(inputs: Sequence[Input], filters: Sequence[Filter], prepare: Prepare, folder: Path, track: Track) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as place:
        made = Path(place) / "made"
        prepare_channels(inputs, filters, prepare, made, track)
        if not (folder / MANIFEST).is_file():  # another command may have been as far
            shutil.rmtree(folder, ignore_errors=True)
            made.replace(folder)


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
    folders = sorted(home.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in folders[KEPT:]:
        if folder != current and time.time() - folder.stat().st_mtime > KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)
