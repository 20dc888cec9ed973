"""prepare(recipe, out) -> Prepared: the recipe's sources, from wherever they lie, made into channels."""

from __future__ import annotations

import tempfile
from pathlib import Path

from launcher.aws import s3
from launcher.aws.session import Session, open_session
from launcher.data.preparing import Prepared, prepare_channels
from launcher.data.settings import CHANNELS, Prepare, Source
from launcher.data.sources import find_inputs
from launcher.progress import Track, untracked
from launcher.recipe import Recipe


def prepare(recipe: Recipe, out: str | Path = "data", *, track: Track = untracked) -> Prepared:
    """Write the channels and a summary into `out`; uses the network for sources in S3 and on the Hub only."""
    sources = recipe.data.sources or _ready_channels(recipe)
    settings = recipe.prepare if recipe.data.sources else Prepare()
    with tempfile.TemporaryDirectory(prefix="launcher-sources-") as place:
        inputs = find_inputs([recipe.placed(source) for source in sources], _Fetch(recipe, Path(place), track))
        return prepare_channels(inputs, recipe.data.filters, settings, Path(out), track)


def _ready_channels(recipe: Recipe) -> tuple[Source, ...]:
    """Rows of a shape stay in their channel; what goes is repeats, and what an evaluation shares with train."""
    paths = {name: getattr(recipe.data, name) for name in CHANNELS}
    return tuple(Source(path=path, channel=name) for name, path in paths.items() if path)


class _Fetch:
    """S3 objects as files on this machine, in a folder that lives as long as they are needed."""

    def __init__(self, recipe: Recipe, folder: Path, track: Track) -> None:
        self._recipe = recipe
        self._folder = folder
        self._track = track
        self._session: Session | None = None
        self._calls = 0

    def __call__(self, address: str) -> list[Path]:
        if self._session is None:
            self._session = open_session(self._recipe.compute.place, self._recipe.compute.region)
        self._calls += 1  # two sources may have objects of the same name
        return s3.fetch_files(self._session, address, self._folder / str(self._calls), self._track)
