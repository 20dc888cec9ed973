"""Which place each job submitted from this machine went to, so that `status NAME` needs no flag."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.home import state_home


@dataclass(frozen=True)
class Entry:
    job: str
    place: str
    region: str


def record(entry: Entry) -> None:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(asdict(entry)) + "\n")  # a line of its own, even after one that a crash cut


def entries() -> list[Entry]:
    """Oldest first; a line cut by a crash is passed over."""
    return [entry for entry in _all() if entry.job]


def _all() -> list[Entry]:
    try:
        lines = _path().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [entry for entry in map(_parse, lines) if entry]


def record_place(place: str, region: str) -> None:
    """Note that something other than a job was sent there."""
    if (place, region) not in places():
        record(Entry("", place, region))


def places() -> set[tuple[str, str]]:
    return {(entry.place, entry.region) for entry in _all()}


def forget(place: str) -> None:
    """Drop the jobs of a place that was emptied."""
    kept = [json.dumps(asdict(entry)) + "\n" for entry in _all() if entry.place != place]
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_text("".join(kept), encoding="utf-8")
    staged.replace(path)


def _parse(line: str) -> Entry | None:
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _path() -> Path:
    return state_home() / "jobs.jsonl"
