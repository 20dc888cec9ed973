"""Whether a scheduled job's rows are one publication: its channels are read one by one, and may be switched meanwhile.

Stdlib only, since the launcher writes what is read here. The channel `publication` holds publication.json, whose one
put is what switches; the manifests of the rows follow. A job that meets a half of each refuses by the digests.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .failure import JobError
from .paths import Paths

FILE = "publication.json"


class PublicationError(JobError):
    """Rows that nobody has published together."""


def check_publication(paths: Paths) -> dict[str, Any]:
    """The publication that the rows are, every file held against its digest; empty for a job that has none."""
    if paths.publication is None:
        return {}
    publication = _read(paths.publication)
    for channel, folder in (("train", paths.train), ("eval", paths.eval), ("test", paths.test)):
        wanted = publication["channels"].get(channel, {}).get("files", {})
        found = _digests(folder) if folder else {}
        if found != wanted:
            raise PublicationError(_mixture(channel, publication["id"], sorted(found.items() ^ wanted.items())[0][0]))
    return publication


def _read(folder: Path) -> dict[str, Any]:
    try:
        publication = dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
        publication["id"], publication["channels"].items()
        return publication
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PublicationError(
            f"{folder / FILE} cannot be read ({error!r}). Publish the recipe's data again."
        ) from error


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*.jsonl")):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _mixture(channel: str, publication: str, name: str) -> str:
    return (
        f"The rows of {channel} are not those of the publication {publication} ({name} differs): new data was "
        "published while this job was starting, or has other channels than the schedule. Nothing was trained. "
        "`launcher schedule trigger` starts it again; `launcher schedule update NAME RECIPE` mounts the channels."
    )
