"""A channel: files checked and digested, and the key each will have in S3."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from container_src.sft.data import list_files
from launcher.data.rows import CheckedFiles, Fingerprint, check_files, opened, take_digest
from launcher.data.rows import take_fingerprint as take_fingerprint
from launcher.data.settings import CHANNELS
from launcher.errors import DataError, RecipeError

# the recipe's key for each channel that is a folder, and what may stand there
FOLDERS = {
    "model": ("model.id", "the folder that save_pretrained wrote, or a Hub id such as Qwen/Qwen2.5-1.5B"),
    "adapter": ("model.adapter", "the folder that `launcher fetch` filled, or an address such as s3://bucket/folder/"),
}
DIGEST_AGAIN_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Upload:
    """One file of a channel: `name` is what the container sees below the channel's folder."""

    path: Path
    name: str
    digest: str  # BLAKE3: sha256 takes as long as all the checks of a row together
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Channel:
    """`rows` is 0 for a channel that is not made of rows; `s3_uri` is set when the data already lies in S3, and then
    `is_manifest` says that a list of objects lies there."""

    name: str
    digest: str
    uploads: tuple[Upload, ...] = ()
    rows: int = 0
    shape: str = ""
    s3_uri: str = ""
    is_manifest: bool = False

    @property
    def bytes(self) -> int:
        return sum(upload.fingerprint.size for upload in self.uploads)

    @property
    def key(self) -> str:
        """A folder of its own for each content, since S3Prefix channels match by prefix."""
        return f"data/{self.name}/{self.digest[:16]}/"

    def words(self) -> str:
        if self.s3_uri:
            return self.s3_uri
        rows = f"{self.rows:,} rows of {self.shape}, " if self.rows else f"{len(self.uploads)} files, "
        return f"{rows}{self.bytes:,} bytes -> {self.key}"


def rows_channel(name: str, path: Path) -> Channel:
    """A .jsonl file, or a folder of them; every row is checked."""
    return make_rows_channel(name, check_files(name, find_rows_files(name, path)))


def make_rows_channel(name: str, checked: CheckedFiles) -> Channel:
    single = len(checked.files) == 1
    uploads = tuple(
        Upload(file.path, f"{name}.jsonl" if single else file.path.name, file.digest, file.fingerprint)
        for file in checked.files
    )
    return Channel(name, _digest(uploads), uploads, checked.rows, checked.shape)


def folder_channel(name: str, folder: Path, *, wants: str) -> Channel:
    """A folder with a model or an adapter; `wants` is the file that makes it one."""
    folder = Path(os.path.normpath(folder))
    key, what = FOLDERS[name]
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise RecipeError(
            f"{key}: {folder} {problem}.",
            hint=f"Paths in a recipe start at the recipe's folder, those of --set here. Name {what}.",
        )
    if not (folder / wants).is_file():
        raise RecipeError(f"{key}: {folder} has no {wants}, so it holds no {name}.", hint=f"Name {what}.")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path, folder)]
    uploads = tuple(
        Upload(file, file.relative_to(folder).as_posix(), digest_file(file), take_fingerprint(file)) for file in files
    )
    return Channel(name, _digest(uploads), uploads)


def s3_channel(name: str, uri: str) -> Channel:
    if not uri.startswith("s3://") or not uri[5:].partition("/")[0]:
        raise RecipeError(f"model: {uri} is not an S3 address.", hint="Write it as s3://bucket/folder/.")
    return Channel(name, hashlib.sha256(uri.encode()).hexdigest(), s3_uri=uri.rstrip("/") + "/")


def confirm_unchanged(item: Upload, seen: Fingerprint | None = None) -> Fingerprint:
    """Raise unless the file still holds what was checked, and has not been touched since it was `seen`.

    The digest decides where the fingerprint cannot. A small file is digested again in any case: it may be written,
    checked and written again within one tick of the file system's clock, which leaves its times as they were.
    """
    try:
        now = take_fingerprint(item.path)
        doubtful = now != item.fingerprint or now.size <= DIGEST_AGAIN_BYTES
        same = now == (seen or now) and (not doubtful or digest_file(item.path) == item.digest)
    except FileNotFoundError:
        same = False
    if not same:
        raise DataError(
            f"{item.path} changed after it was checked.", hint="Submit again when nothing writes to it any more."
        )
    return now


def digest_file(path: Path) -> str:
    with opened(path) as (descriptor, fingerprint):
        return take_digest(descriptor, fingerprint.size)


def find_rows_files(name: str, path: Path) -> list[Path]:
    """The plain .jsonl files that a channel is made of; whatever else bears that name is refused, not skipped."""
    if path.is_dir() and path.suffix == ".jsonl":
        raise DataError(
            f"{path} is a folder, though its name is a file's.", hint="Name the file, or rename the folder."
        )
    files = _list_folder(path) if path.is_dir() else [path]
    for compressed in [path] if path.suffix == ".gz" else sorted(path.glob("*.gz")):
        raise DataError(
            f"{compressed} is compressed; the {name} channel must be plain .jsonl files.",
            hint="`launcher prepare` reads .gz and writes channels.",
        )
    if not files:
        raise DataError(
            f"{path} holds no .jsonl file for the {name} channel.", hint="Name a .jsonl file, or its folder."
        )
    for file in files:
        _check_plain(name, file)
    return files


def _list_folder(folder: Path) -> list[Path]:
    """As the job lists it; rows in folders below would be taken too, and seldom are meant, so they are refused."""
    from launcher.data.preparing import MANIFEST  # prepare's machinery, for this name alone

    if (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} is what `launcher prepare` wrote: several channels, not one.",
            hint=f"Name one of its files, such as {folder / 'train.jsonl'}; `launcher check {folder}` checks them all.",
        )
    files = list_files(folder)
    deep = [file for file in files if file.parent != folder]
    if deep:
        more = f" and {len(deep) - 1} more" if len(deep) > 1 else ""
        raise DataError(
            f"{folder} holds rows in a folder below it: {deep[0].relative_to(folder)}{more}.",
            hint="Name the folder with the rows of this channel, and of no other.",
        )
    return files


def _check_plain(name: str, path: Path) -> None:
    if not path.exists():
        if path.is_symlink():
            raise DataError(f"{path} is a link that leads nowhere.", hint="Name the file itself.")
        raise _missing(name, path)
    if not path.is_file():
        raise DataError(f"{path} is not a file that the {name} channel can be read from.")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise DataError(f"The name of {shown} is not UTF-8.", hint="Rename the file.") from error


def _missing(name: str, path: Path) -> DataError:
    if "s3:" in path.parts:
        address = "s3://" + "/".join(path.parts[path.parts.index("s3:") + 1 :])
        return DataError(
            f"The {name} channel's rows are to come from {address}, and a channel is a file on this machine.",
            hint="Name the address as the path of one of [[data.sources]]; `launcher prepare` fetches it.",
        )
    flag = f"--{name}" if name in CHANNELS else "a flag"
    return DataError(
        f"The {name} channel's file {path} does not exist.",
        hint=f"Paths in a recipe start at the recipe's folder, those of {flag} and of `check` here.",
    )


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _digest(uploads: tuple[Upload, ...]) -> str:
    if len(uploads) == 1:
        return uploads[0].digest
    listing = "\n".join(f"{upload.digest} {upload.name}" for upload in uploads)
    return hashlib.sha256(listing.encode()).hexdigest()
