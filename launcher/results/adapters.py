"""model.tar.gz -> a folder that is whole, safe and loadable."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

from launcher.aws.s3 import ObjectInfo, find_object, iter_chunks, split_uri
from launcher.aws.session import Session
from launcher.errors import ArtifactError, InputError
from launcher.progress import Track, untracked
from launcher.tables import html_table

MARK = ".fetched.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MAX_MEMBERS = 10_000
MAX_BYTES = 64 * 1024**3
# Formats that run code when loaded; an adapter needs none of them.
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk."""

    folder: Path
    base_model: str
    bytes: int

    def _repr_html_(self) -> str:
        return html_table(
            ["adapter", str(self.folder)], [("base model", self.base_model), ("bytes", f"{self.bytes:,}")]
        )


def fetch_adapter(session: Session, uri: str, folder: Path, track: Track = untracked) -> Adapter:
    """Download, unpack and check; what is there already is kept, and a download that was cut is gone on with."""
    _check_folder(folder)
    bucket, key = split_uri(uri)
    info = find_object(session, bucket, key)
    if info is None:
        raise ArtifactError(
            f"The job left no model: there is nothing at {uri}.", hint="`launcher logs JOB` shows what it did."
        )
    if not holds_artifact(folder, info.etag):
        _mark(folder, uri, "")  # ours, and not whole, until all of it is in place
        archive = _download(session, bucket, key, info, folder, track)
        _unpack(archive, folder)
        _mark(folder, uri, info.etag)
        archive.unlink()
    return check_adapter(folder)


def _check_folder(folder: Path) -> None:
    """An artifact replaces what an earlier one left; it never touches files that came from elsewhere."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise InputError(
            f"{folder} holds files that no fetch has put there.", hint="Name an empty or a new folder with --out."
        )


def _mark(folder: Path, uri: str, etag: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"uri": uri, "etag": etag}), encoding="utf-8")


def check_adapter(folder: Path) -> Adapter:
    """The files are there, the config reads, and the tensors' file is as long as its own header says."""
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise ArtifactError(
                f"{folder} holds no {name}: the job left no whole adapter.", hint="`launcher logs JOB` shows why."
            )
    try:
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        base = str(config["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / ADAPTER_FILES[0]} cannot be read: {error!r}.") from error
    tensors = folder / ADAPTER_FILES[1]
    _check_safetensors(tensors)
    return Adapter(folder, base, tensors.stat().st_size)


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        header = file.read(length) if length < size else b""
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = max(int(entry["data_offsets"][1]) for entry in entries)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is not a safetensors file.", hint="Fetch it again; delete the folder first."
        ) from error
    if 8 + length + end != size:
        raise ArtifactError(
            f"{path} has {size:,} bytes; its header speaks of {8 + length + end:,}.",
            hint="Delete the folder and fetch it again.",
        )


def holds_artifact(folder: Path, etag: str) -> bool:
    """Whether an earlier fetch has put the whole of this artifact there."""
    try:
        return bool(json.loads((folder / MARK).read_text(encoding="utf-8"))["etag"] == etag)
    except (OSError, ValueError, KeyError):
        return False


def _download(session: Session, bucket: str, key: str, info: ObjectInfo, folder: Path, track: Track) -> Path:
    """To a file named by the etag, so that a half of one artifact is never completed with another's."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".model-{info.etag.strip(chr(34))}.part"
    for stale in set(folder.glob(".model-*.part")) - {part}:
        stale.unlink()
    start = part.stat().st_size if part.exists() else 0
    with part.open("ab") as file, track(Path(key).name, info.size) as advance:
        advance(start)
        if start < info.size:
            for chunk in iter_chunks(session, bucket, key, start, info.etag):
                file.write(chunk)
                advance(len(chunk))
    if part.stat().st_size != info.size:
        raise ArtifactError(
            f"The download of s3://{bucket}/{key} broke off.", hint="Run the same command again; it goes on from there."
        )
    return part


def _unpack(archive: Path, folder: Path) -> None:
    """Into a folder beside, then move: a bad archive leaves nothing behind that looks like an adapter."""
    staging = folder / ".unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        _extract(archive, staging)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ArtifactError(
                f"{archive} could not be unpacked: {error}.", hint="Check the disk's space and rights."
            ) from error
        archive.unlink()
        raise ArtifactError(f"The model archive is damaged: {error}.", hint="Fetch it again.") from error
    else:
        for path in sorted(staging.iterdir()):
            _replace(path, folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def _extract(archive: Path, folder: Path) -> None:
    members = total = 0
    with tarfile.open(archive, "r|gz") as tar:
        for entry in tar:
            members, total = members + 1, total + entry.size
            _check_entry(entry, members, total)
            tar.extract(entry, folder, filter="data")


def _check_entry(entry: tarfile.TarInfo, members: int, total: int) -> None:
    """The data filter refuses escapes and devices; links, pickles and bombs are ours to refuse."""
    if entry.issym() or entry.islnk() or not (entry.isfile() or entry.isdir()):
        raise ArtifactError(
            f"The model archive holds {entry.name}, which is not a plain file.", hint="Do not use this artifact."
        )
    if entry.mode & (stat.S_ISUID | stat.S_ISGID) or entry.name.startswith("/") or ".." in Path(entry.name).parts:
        raise ArtifactError(
            f"The model archive holds {entry.name!r}, which would leave its folder.", hint="Do not use this artifact."
        )
    if Path(entry.name).suffix in PICKLES:
        raise ArtifactError(
            f"The model archive holds {entry.name}, a format that can run code when it is loaded.",
            hint="Only safetensors are taken; save the adapter with safe_serialization=True.",
        )
    if members > MAX_MEMBERS or total > MAX_BYTES:
        raise ArtifactError(
            "The model archive is absurdly large; it was not unpacked.", hint="Do not use this artifact."
        )
