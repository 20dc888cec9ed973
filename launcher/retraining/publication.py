"""publish(plan): new data for a recipe's schedules, switched so that no job ever trains on a half of it.

A schedule's request is frozen, so its channels are lists at fixed places, current/<recipe>/<channel>.manifest. Several
lists cannot be switched by one put, so one other object decides: current/<recipe>/publication.json, with the
digest of every file, put under the condition that nobody published meanwhile. The lists follow; whoever finds that they
do not fit it writes them again. A job mounts publication.json too and refuses rows that are not the ones it lists.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from container_src.sft.comparison import LEAST_ROWS
from container_src.sft.publication import FILE
from launcher.aws import s3
from launcher.aws.session import Session, open_session
from launcher.aws.site import find_site
from launcher.data.channels import Channel
from launcher.data.settings import CHANNELS
from launcher.errors import DataError, RunError
from launcher.job_names import make_stamp
from launcher.plan import Plan, data_digest, recipe_key
from launcher.progress import Say, Track, silent, untracked
from launcher.recipe import Recipe
from launcher.request import Site, key_of
from launcher.submission import upload_channel
from launcher.tables import html_table

PUBLISH_AGAIN = "`launcher publish RECIPE` publishes the data again from its files."


@dataclass(frozen=True)
class Publication:
    """The content of publication.json. A channel has `prefix`, `files` (name -> sha256), `digest`, `rows`, `bytes`."""

    id: str
    time: str
    recipe: str
    data_digest: str
    previous: str
    channels: Mapping[str, Mapping[str, Any]]
    folder: str = ""  # of the recipe, after the name of its machine

    def rows(self) -> list[tuple[str, str]]:
        """As people read it."""
        parts = [
            (f"channel {name}", f"{channel['rows']:,} rows, {channel['bytes']:,} bytes at {channel['prefix']}")
            for name, channel in self.channels.items()
        ]
        return [("publication", self.id), *parts, ("before it", self.previous or "nothing")]

    def row_counts(self) -> dict[str, int]:
        return {name: int(channel["rows"]) for name, channel in self.channels.items()}

    def describe(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return html_table(["publication", self.id], self.rows()[1:])


@dataclass(frozen=True)
class Shelf:
    """Where a recipe's publications lie."""

    session: Session
    site: Site
    recipe: Recipe

    def current_key(self, name: str) -> str:
        return key_of(self.recipe, f"current/{recipe_key(self.recipe)}/{name}")

    def kept_key(self, publication: str) -> str:
        return key_of(self.recipe, f"publications/{recipe_key(self.recipe)}/{publication}.json")

    def uri(self, name: str) -> str:
        return f"s3://{self.site.bucket}/{self.current_key(name)}"

    def manifest_uri(self, channel: str) -> str:
        return self.uri(f"{channel}.manifest")


def open_shelf(recipe: Recipe) -> Shelf:
    session = open_session(recipe.compute.place, recipe.compute.region)
    return Shelf(session, find_site(session, recipe), recipe)


def publish(plan: Plan, *, say: Say = silent, track: Track = untracked) -> Publication:
    """Upload the plan's rows under their digests, then make them what schedules of this recipe train on."""
    shelf = open_shelf(plan.recipe)
    rows = tuple(channel for channel in plan.channels if channel.name in CHANNELS)
    current, etag, previous = _find_previous(shelf, say)
    sent = sum(upload_channel(channel, plan, shelf.site, shelf.session, track) for channel in rows)
    say(f"uploaded {sent:,} bytes" if sent else "uploaded 0 bytes: the data is there already")
    made = _make(plan, shelf, rows, previous)
    if lack := find_lack(made.row_counts()):
        say(f"{lack} ({LEAST_ROWS} or more would do): no job that trains on this can be promoted")
    if current and current.data_digest == made.data_digest:
        say(f"this data is published already, as {current.id}")
        _settle(shelf, current)
        return current
    _say_channels(current, made, say)
    _say_folder(current, made, say)
    _switch(shelf, made, etag)
    return made


def _find_previous(shelf: Shelf, say: Say) -> tuple[Publication | None, str, str]:
    """What is published, its etag, and the id that a new one follows; what cannot be read is replaced."""
    try:
        current, etag = find_current(shelf)
    except DataError as error:
        say(f"{error.message} It is replaced.")
        found = s3.find_object(shelf.session, shelf.site.bucket, shelf.current_key(FILE))
        return None, found.etag if found else "", _find_newest_kept(shelf)
    if current:
        return current, etag, current.id
    if newest := _find_newest_kept(shelf):
        say(f"{shelf.uri(FILE)} is gone. It is written again, after {newest}, the newest publication that was kept.")
    return None, "", newest


def _find_newest_kept(shelf: Shelf) -> str:
    kept = s3.iter_keys(shelf.session, shelf.site.bucket, shelf.kept_key("").removesuffix(".json"))
    return max((key.rpartition("/")[2].removesuffix(".json") for key in kept), default="")


def _say_channels(current: Publication | None, made: Publication, say: Say) -> None:
    if current and current.channels.keys() != made.channels.keys():
        before, now = ", ".join(current.channels), ", ".join(made.channels)
        say(f"the channels were {before} and are {now}: `launcher schedule update NAME RECIPE` mounts them")


def _say_folder(current: Publication | None, made: Publication, say: Say) -> None:
    """Two files named alike in two folders of one machine may be two recipes, which nothing else tells apart."""
    before, now = (item.folder if item else "" for item in (current, made))
    if before != now and before.partition(":")[0] == now.partition(":")[0]:
        say(
            f"note: the publication before was of a recipe in {before.partition(':')[2]}. Recipes of one name share "
            "data and champion; another `name` in this one keeps them apart"
        )


def find_lack(rows: Mapping[str, int]) -> str:
    """Why no job can be judged by so many rows of each channel, or ""."""
    judging = "test" if "test" in rows else "eval"
    if judging not in rows:
        return "there are no rows to judge by"
    return "" if rows[judging] >= LEAST_ROWS else f"{rows[judging]} rows of {judging} are too few to judge by"


def roll_back_publication(recipe: Recipe, *, say: Say = silent) -> Publication:
    """Make the publication before the current one current again."""
    shelf = open_shelf(recipe)
    current, etag = find_current(shelf)
    if current is None or not current.previous:
        what = "nothing is published" if current is None else f"{current.id} is the first publication"
        raise RunError(f"There is nothing to go back to: {what}.", hint="`launcher publish RECIPE` publishes data.")
    bucket, key = shelf.site.bucket, shelf.kept_key(current.previous)
    if s3.find_object(shelf.session, bucket, key) is None:
        raise DataError(f"s3://{bucket}/{key}, which was kept to go back to, is gone.", hint=PUBLISH_AGAIN)
    earlier = read_publication(s3.get_bytes(shelf.session, bucket, key)[0], f"s3://{bucket}/{key}")
    check_owner(earlier, recipe.name, f"s3://{bucket}/{key}")
    check_objects(shelf.session, earlier)
    _say_channels(current, earlier, say)
    _switch(shelf, earlier, etag)
    return earlier


def find_current(shelf: Shelf) -> tuple[Publication | None, str]:
    """What is published, and the etag that a switch must name."""
    if s3.find_object(shelf.session, shelf.site.bucket, shelf.current_key(FILE)) is None:
        return None, ""
    content, etag = s3.get_bytes(shelf.session, shelf.site.bucket, shelf.current_key(FILE))
    found = read_publication(content, shelf.uri(FILE))
    check_owner(found, shelf.recipe.name, shelf.uri(FILE))
    return found, etag


def check_owner(publication: Publication, recipe: str, uri: str) -> None:
    """Refuse the data of another recipe: a job would train on it as if it were this one's."""
    if publication.recipe != recipe:
        raise RunError(
            f"{uri} is a publication of the recipe {publication.recipe}, and this one is {recipe}.",
            hint="Give this one another `name`: what is published and who is champion goes by it.",
        )


def check_published(shelf: Shelf, channels: tuple[Channel, ...]) -> Publication:
    """The current publication, if it holds what these channels are to be read from."""
    current, _ = find_current(shelf)
    wanted = {channel.name for channel in channels}
    if current is None:
        raise RunError(
            f"The recipe {shelf.recipe.name} trains on files of this machine, and none of them is published.",
            hint="`launcher publish RECIPE` checks and uploads them; a schedule trains on what is published.",
        )
    if wanted != current.channels.keys():
        raise RunError(
            f"The recipe has the channels {', '.join(sorted(wanted))}; published are "
            f"{', '.join(sorted(current.channels))} ({current.id}).",
            hint="`launcher publish RECIPE` publishes what the recipe has now.",
        )
    return current


def _make(plan: Plan, shelf: Shelf, rows: tuple[Channel, ...], previous: str) -> Publication:
    digest, now = data_digest(rows), datetime.now(UTC)
    return Publication(
        id=f"{make_stamp(now)}-{digest}",
        time=now.isoformat(timespec="seconds"),
        recipe=plan.recipe.name,
        data_digest=digest,
        previous=previous,
        channels={channel.name: _describe(channel, plan, shelf) for channel in rows},
        folder=f"{socket.gethostname()}:{plan.recipe.folder}",
    )


def _describe(channel: Channel, plan: Plan, shelf: Shelf) -> dict[str, Any]:
    return {
        "prefix": f"s3://{shelf.site.bucket}/{key_of(plan.recipe, channel.key)}",
        "files": {item.name: _sha256(item.path) for item in channel.uploads},
        "digest": channel.digest,
        "rows": channel.rows,
        "bytes": channel.bytes,
    }


def _sha256(path: Path) -> str:
    """What the image can hold a file against: its Python has nothing faster."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_publication(content: bytes, uri: str) -> Publication:
    try:
        found = Publication(**json.loads(content))
        for channel in found.channels.values():
            channel["prefix"], channel["files"].items(), channel["digest"], int(channel["rows"])
        return found
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{uri} is no publication: it holds {content[:40]!r}.", hint=PUBLISH_AGAIN) from error


def _switch(shelf: Shelf, publication: Publication, etag: str) -> None:
    """The one put that decides, and the lists after it."""
    content = json.dumps(publication.describe(), indent=1).encode()
    bucket = shelf.site.bucket
    s3.put_bytes(shelf.session, content, bucket, shelf.kept_key(publication.id))
    if not s3.switch_bytes(shelf.session, content, bucket, shelf.current_key(FILE), etag):
        raise RunError(
            f"Somebody else published data for {shelf.recipe.name} in this moment; yours was not switched to.",
            hint="Publish again if yours is to be the newer one.",
        )
    _settle(shelf, publication)


def _settle(shelf: Shelf, publication: Publication) -> None:
    """Write the lists of what is current until it still is afterwards: two publishers must not leave a mixture."""
    settled = ""
    while settled != publication.id:
        for name, channel in publication.channels.items():
            manifest = [{"prefix": channel["prefix"]}, *channel["files"]]
            key = shelf.current_key(f"{name}.manifest")
            s3.put_bytes(shelf.session, json.dumps(manifest).encode(), shelf.site.bucket, key)
        settled = publication.id
        now, _ = find_current(shelf)
        publication = now or publication


def check_objects(session: Session, publication: Publication) -> None:
    for channel in publication.channels.values():
        for name in channel["files"]:
            bucket, key = s3.split_uri(channel["prefix"] + name)
            if s3.find_object(session, bucket, key) is None:
                raise DataError(
                    f"s3://{bucket}/{key} of the publication {publication.id} is gone.",
                    hint="Publish that data again from its files.",
                )
