"""endpoint.json: where the endpoint of a root is, or was last time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.local.processes import ProcessId
from launcher.local.settings import Settings


@dataclass(frozen=True)
class Card:
    process: ProcessId
    port: int
    url: str
    version: str
    settings: Settings


def save_card(root: Path, card: Card) -> None:
    draft = root / "endpoint.json.new"
    draft.write_text(json.dumps(asdict(card), indent=2))
    draft.replace(_path(root))


def load_card(root: Path) -> Card | None:
    """None where there never was an endpoint, or where a newer or older launcher wrote the file."""
    try:
        fields = json.loads(_path(root).read_text())
        process, settings = ProcessId(**fields.pop("process")), Settings(**fields.pop("settings"))
        return Card(process=process, settings=settings, **fields)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _path(root: Path) -> Path:
    return root / "endpoint.json"
