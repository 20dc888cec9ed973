"""What moves between a job's folders and S3: channels and checkpoints down, checkpoints and artifacts up.

All of it goes through the ObjectStore and not through the endpoint, which may be killed while a job runs.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from launcher.local.store import ObjectStore, StoreError

CHUNK_BYTES = 1 << 20
GZIP_LEVEL = 1
BLOCK_BYTES = tarfile.BLOCKSIZE

# What a job writes under such a name is not finished: it is renamed when it is.
UNFINISHED_PREFIX = "tmp-"

# (mtime in ns, size): a file with other numbers was written again.
Fingerprint = tuple[int, int]


class DownloadError(Exception):
    """Input that cannot be given to a job, in the words of SageMaker."""


@dataclass(frozen=True)
class Location:
    """An s3:// address in two parts."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> Location:
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise DownloadError(f'"{uri}" is not an s3:// address. Give s3://bucket/prefix.')
        return cls(bucket, key)

    @classmethod
    def parse_folder(cls, uri: str) -> Location:
        location = cls.parse(uri)
        key = location.key.rstrip("/")
        return cls(location.bucket, f"{key}/" if key else "")

    def at(self, name: str) -> Location:
        return Location(self.bucket, self.key + name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


# Channels


@dataclass(frozen=True)
class Download:
    """One object and the name of its file inside the channel."""

    location: Location
    name: str


def fetch_channel(store: ObjectStore, source: dict[str, Any], folder: Path, before_each: Callable[[], None]) -> int:
    """Download what an S3DataSource names and count the files. `before_each` may raise to end it."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for download in list_downloads(store, source):
        before_each()
        fetch_object(store, download.location, make_local_path(folder, download.name))
        count += 1
    if not count:
        raise DownloadError(_nothing_found(source["S3Uri"]))
    return count


def list_downloads(store: ObjectStore, source: dict[str, Any]) -> Iterator[Download]:
    location = Location.parse(source["S3Uri"])
    if source["S3DataType"] == "S3Prefix":
        return _list_prefix(store, location)
    if source["S3DataType"] == "ManifestFile":
        return _list_manifest(store, location)
    raise DownloadError(
        f"S3DataType {source['S3DataType']} is not available on this machine. Use S3Prefix or ManifestFile."
    )


def _list_prefix(store: ObjectStore, prefix: Location) -> Iterator[Download]:
    try:
        for stored in store.list(prefix.bucket, prefix.key):
            if not stored.key.endswith("/"):  # the console's marker of a folder
                yield Download(Location(prefix.bucket, stored.key), name_in_channel(prefix.key, stored.key))
    except StoreError as error:
        raise DownloadError(_nothing_found(str(prefix))) from error


def name_in_channel(prefix: str, key: str) -> str:
    """A prefix that is a folder gives names inside it; one that ends inside a name gives whole names."""
    folder = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    if key.startswith(folder):
        return key[len(folder) :]
    return key[prefix.rfind("/") + 1 :]


def _list_manifest(store: ObjectStore, manifest: Location) -> Iterator[Download]:
    """[{"prefix": "s3://bucket/folder/"}, "name", ...]"""
    entries = _read_manifest(store, manifest)
    prefix = Location.parse(entries[0]["prefix"])
    for name in entries[1:]:
        yield Download(prefix.at(name), name)


def _read_manifest(store: ObjectStore, manifest: Location) -> list[Any]:
    try:
        with store.open(manifest.bucket, manifest.key)[1] as file:
            entries = json.load(file)
    except StoreError as error:
        raise DownloadError(_nothing_found(str(manifest))) from error
    except ValueError as error:
        raise DownloadError(f"the manifest {manifest} is not JSON: {error}.") from error
    if not _is_manifest(entries):
        raise DownloadError(
            f'the manifest {manifest} does not have the form [{{"prefix": "s3://bucket/folder/"}}, "name", ...].'
        )
    return list(entries)


def _is_manifest(entries: object) -> bool:
    return (
        isinstance(entries, list)
        and bool(entries)
        and isinstance(entries[0], dict)
        and isinstance(entries[0].get("prefix"), str)
        and all(isinstance(name, str) for name in entries[1:])
    )


def make_local_path(folder: Path, name: str) -> Path:
    """The file for an object; a key that would leave the folder is refused."""
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise DownloadError(f"the object name {name!r} does not stay inside the folder of its channel. Rename it.")
    return folder / path


def fetch_object(store: ObjectStore, location: Location, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.fetch_file(location.bucket, location.key, path)
    except StoreError as error:
        raise DownloadError(_nothing_found(str(location))) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DownloadError(
            f"{location} cannot become a file: another key of the channel uses a part of its name as a file "
            "or a folder. Rename one of them."
        ) from error


def _nothing_found(uri: str) -> str:
    return (
        f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
        "exists in the selected region, that objects exist under that S3 prefix, and that the role has "
        "s3:ListBucket permission."
    )


# Checkpoints


class CheckpointSync:
    """Keeps a prefix in S3 like a folder: new and changed files go up, deleted ones go away."""

    def __init__(self, store: ObjectStore, folder: Path, uri: str) -> None:
        self._store = store
        self._folder = folder
        self._prefix = Location.parse_folder(uri)
        self._synced: dict[str, Fingerprint] = {}

    def restore(self, before_each: Callable[[], None]) -> int:
        """Download what an earlier attempt left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._store.has_bucket(self._prefix.bucket):
            raise DownloadError(_nothing_found(str(self._prefix)))
        for download in _list_prefix(self._store, self._prefix):
            before_each()
            fetch_object(self._store, download.location, make_local_path(self._folder, download.name))
        self._synced = dict(self._iter_finished())
        return len(self._synced)

    def push(self) -> None:
        """One pass; a file that changes or vanishes meanwhile is the next pass's business."""
        present = dict(self._iter_finished())
        for name, fingerprint in present.items():
            if self._synced.get(name) != fingerprint:
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    self._store.put_file(self._prefix.bucket, self._prefix.key + name, self._folder / name)
                    self._synced[name] = fingerprint
        for name in self._synced.keys() - present.keys():
            self._store.delete(self._prefix.bucket, self._prefix.key + name)
            del self._synced[name]

    def _iter_finished(self) -> Iterator[tuple[str, Fingerprint]]:
        for root, folders, files in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not name.startswith(UNFINISHED_PREFIX))
            for name in sorted(files):
                if name.startswith(UNFINISHED_PREFIX):
                    continue
                path = Path(root, name)
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        fingerprint = (status.st_mtime_ns, status.st_size)
                        yield path.relative_to(self._folder).as_posix(), fingerprint


# Artifacts


@dataclass(frozen=True)
class Artifact:
    """Files that go up together, by their name in the archive."""

    files: dict[str, Path]

    @classmethod
    def of_folder(cls, folder: Path) -> Artifact:
        return cls({path.relative_to(folder).as_posix(): path for path in _iter_files(folder)})

    def __bool__(self) -> bool:
        return bool(self.files)

    def upload_archive(self, store: ObjectStore, location: Location) -> None:
        store.put(location.bucket, location.key, self._iter_tar_gz())

    def upload_files(self, store: ObjectStore, prefix: Location) -> None:
        for name in sorted(self.files):
            store.put_file(prefix.bucket, prefix.key + name, self.files[name])

    def _iter_tar_gz(self) -> Iterator[bytes]:
        compressor = zlib.compressobj(GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)  # 16: with gzip's header
        for block in _iter_tar(self.files):
            yield compressor.compress(block)
        yield compressor.flush()


def _iter_files(folder: Path) -> Iterator[Path]:
    """Files, links to files among them; sockets and pipes have no content to keep."""
    for root, _, files in os.walk(folder):
        yield from (path for path in (Path(root, name) for name in files) if path.is_file())


def _iter_tar(files: dict[str, Path]) -> Iterator[bytes]:
    for name in sorted(files):
        with files[name].open("rb") as file:
            member = _make_member(name, os.fstat(file.fileno()))
            yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            written = 0
            while chunk := file.read(min(CHUNK_BYTES, member.size - written)):
                written += len(chunk)
                yield chunk
            yield bytes(-written % BLOCK_BYTES)
    yield bytes(2 * BLOCK_BYTES)


def _make_member(name: str, status: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = status.st_size
    member.mtime = int(status.st_mtime)
    member.mode = stat.S_IMODE(status.st_mode)
    return member
