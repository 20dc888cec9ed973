"""Checkpoints that are whole or absent, and the newest of them that this job may continue from. Stdlib only.

A checkpoint is written to tmp-checkpoint-N, marked and then renamed to checkpoint-N. The marker, written last, lists
every file with its size and digest: a kill in the middle leaves a tmp- folder, and a copy that is half-synced or has
rotted does not match its marker.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .failure import JobError
from .log import warn
from .strict_json import make_json

MARKER = "complete.json"
STAGING = "tmp-"
REPLACED = "replaced"
NAME = re.compile(r"checkpoint-(\d+)")


class CheckpointError(JobError):
    """A checkpoint that exists and must not be continued from."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is a checkpoint of; another origin would continue somebody else's training."""

    recipe_digest: str
    data_digest: str


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int


def staging_folder(root: Path, step: int) -> Path:
    """Where checkpoint-N is put together, on the same disk, so that the rename is atomic."""
    return root / f"{STAGING}checkpoint-{step}"


def publish(root: Path, step: int, origin: Origin) -> Checkpoint:
    """The staged checkpoint becomes checkpoint-N in one rename."""
    staged = staging_folder(root, step) / f"checkpoint-{step}"
    _write_marker(staged, step, origin)
    _sync(staged)
    final = root / staged.name
    if final.exists():
        final.rename(staged.parent / REPLACED)  # a broken one, or the same step again, now with its evaluation
    staged.rename(final)
    shutil.rmtree(staged.parent)
    _sync_one(root)
    return Checkpoint(final, step)


def _write_marker(folder: Path, step: int, origin: Origin) -> None:
    files = {name: [size, _digest(folder / name)] for name, size in _sizes(folder).items()}
    marker = {"step": step, **asdict(origin), "files": files}
    (folder / MARKER).write_text(make_json(marker, indent=1, sort_keys=True), encoding="utf-8")


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Onto the disk before the rename: after a power cut the name must not be there without the bytes."""
    for path in folder.rglob("*"):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def find_newest(root: Path, origin: Origin) -> Checkpoint | None:
    """The complete checkpoint with the highest step; broken ones are passed over and said."""
    for found in reversed(list_checkpoints(root)):
        problem = find_damage(found)
        if problem:
            warn(f"{found.path.name} is passed over: {problem}")
            continue
        _check_origin(found, origin)
        return found
    return None


def list_checkpoints(root: Path) -> list[Checkpoint]:
    """By step number: as names, checkpoint-908 would come after checkpoint-1000."""
    folders = root.iterdir() if root.is_dir() else []
    named = ((path, NAME.fullmatch(path.name)) for path in folders if path.is_dir())
    return sorted((Checkpoint(path, int(match[1])) for path, match in named if match), key=lambda found: found.step)


def find_damage(found: Checkpoint) -> str:
    """What is wrong with a checkpoint, every byte of it read, or ""."""
    problem = _find_gap(found)
    if problem:
        return problem
    wanted = _read_marker(found)["files"]
    rotten = next((name for name in sorted(wanted) if _digest(found.path / name) != wanted[name][1]), "")
    return f"the bytes of {rotten} are not those that were saved" if rotten else ""


def _find_gap(found: Checkpoint) -> str:
    """The same by names and sizes alone, which reads one small file."""
    try:
        wanted = {name: size for name, (size, _) in _read_marker(found)["files"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no readable {MARKER} ({type(error).__name__}), so it was never finished"
    present = _sizes(found.path)
    wrong = sorted(name for name, size in wanted.items() if present.get(name) != size)
    return f"{wrong[0]} is missing or has another size than when it was saved" if wrong else ""


def _read_marker(found: Checkpoint) -> dict[str, dict[str, Any]]:
    marker = json.loads((found.path / MARKER).read_text(encoding="utf-8"))
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        raise ValueError("not a marker")
    return marker


def _check_origin(found: Checkpoint, origin: Origin) -> None:
    marker = _read_marker(found)
    for what, name in (("recipe", "recipe_digest"), ("data", "data_digest")):
        if marker.get(name) != getattr(origin, name):
            raise CheckpointError(
                f"{found.path} belongs to another {what}: it was saved with {name} {str(marker.get(name))[:12]}, this "
                f"job has {getattr(origin, name)[:12]}. Give the run another name, or start it afresh with --fresh."
            )


def clean_staging(root: Path) -> None:
    """Remove what a killed save left behind, but for a checkpoint that it had just taken out of its place."""
    for path in root.glob(f"{STAGING}checkpoint-*"):
        final = root / path.name.removeprefix(STAGING)
        if (path / REPLACED).is_dir() and not final.exists():
            (path / REPLACED).rename(final)
        shutil.rmtree(path)


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest complete checkpoints, so that a broken one never displaces a whole one."""
    whole = [found for found in list_checkpoints(root) if not _find_gap(found)]
    kept = {found.path for found in whole[-keep:]}
    for found in list_checkpoints(root):
        if found.path not in kept:
            shutil.rmtree(found.path)
