"""container_src -> sourcedir.tar.gz, byte for byte the same from the same files on any machine."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher import leaks
from launcher.errors import InputError

SKIPPED_FOLDERS = {"__pycache__", "node_modules", "venv", "env"}
SKIPPED_SUFFIXES = {".pyc", ".pyo", ".swp"}
# A bundle can be read by everyone who may describe the job.
SECRET_SUFFIXES = {".pem", ".key", ".p12", ".pfx"}
SECRET_NAMES = {"credentials", "id_rsa", "id_ed25519"}
STORED_BLOCK = 65535


@dataclass(frozen=True)
class Bundle:
    content: bytes
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def source_folder() -> Path:
    """container_src beside the launcher: in a checkout and in an installed package alike."""
    return Path(__file__).parent.parent / "container_src"


def make_bundle(source: Path, extra: tuple[Path, ...] = ()) -> Bundle:
    """Pack the folder, and the user's own files beside train.py."""
    members = dict(_walk(source, source))
    for path in extra:
        for name, file in _extra_members(path):
            if name in members:
                raise InputError(
                    f"code.files: {path} would replace {name} of the training code.",
                    hint="Give the file another name, and import it by that name.",
                )
            leaks.refuse_in_file(file)
            members[name] = file
    names = tuple(sorted(members))
    return Bundle(_gzip_stored(_tar(names, members)), names)


def digest_files(paths: tuple[Path, ...]) -> str:
    """Of the user's own files, names and content."""
    digest = hashlib.sha256()
    for name, file in sorted(member for path in paths for member in _extra_members(path)):
        digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if _is_skipped(path):
            continue
        if path.is_symlink():
            raise InputError(f"{path} is a link; a bundle holds only files.", hint="Copy the file in its place.")
        if path.is_dir():
            yield from _walk(path, root)
        elif path.is_file():
            yield path.relative_to(root).as_posix(), path


def _is_skipped(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix in SKIPPED_SUFFIXES or path.suffix == ".egg-info":
        return True
    return path.is_dir() and (path.name in SKIPPED_FOLDERS or (path / "pyvenv.cfg").exists())


def _extra_members(path: Path) -> Iterator[tuple[str, Path]]:
    if not path.exists():
        raise InputError(f"code.files: {path} does not exist.", hint="Paths start at the recipe's folder.")
    if path.is_symlink() or path.name.startswith("."):
        raise _refuse_to_carry(path)
    members = list(_walk(path, path.parent)) if path.is_dir() else [(path.name, path)]
    for name, file in members:
        if file.suffix in SECRET_SUFFIXES or file.name in SECRET_NAMES:
            raise _refuse_to_carry(file)
        if file.name == "setup.py":
            raise InputError(
                f"code.files: {file} would turn the bundle into a package install.",
                hint="Ship plain modules: SageMaker runs `pip install .` when it sees a setup.py.",
            )
        yield name, file


def _refuse_to_carry(path: Path) -> InputError:
    return InputError(
        f"code.files: {path} may not travel in a bundle (a link, a hidden file or a key).",
        hint="Secrets go to Secrets Manager; everything in a bundle can be read by whoever may read the bucket.",
    )


def _tar(names: tuple[str, ...], members: dict[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            content = members[name].read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _gzip_stored(data: bytes) -> bytes:
    """gzip with stored blocks: compressors differ between zlib versions, stored bytes do not."""
    out = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    for start in range(0, len(data), STORED_BLOCK):
        block = data[start : start + STORED_BLOCK]
        last = start + STORED_BLOCK >= len(data)
        out.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    out.append(struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF))
    return b"".join(out)
