"""What a fetch refuses, and what it keeps."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path

import pytest

from launcher.errors import ArtifactError, InputError
from launcher.results.adapters import MAX_BYTES, _check_entry, _check_folder, _mark, _unpack, check_adapter


def safetensors(payload: bytes = b"\0" * 8) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, len(payload)]}}).encode()
    return struct.pack("<Q", len(header)) + header + payload


def whole(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    (folder / "adapter_model.safetensors").write_bytes(safetensors())
    return folder


def archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def test_a_whole_adapter_tells_its_base(tmp_path: Path) -> None:
    assert check_adapter(whole(tmp_path / "a")).base_model == "org/base"


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = whole(tmp_path / "a")
    (folder / missing).unlink()
    with pytest.raises(ArtifactError, match=missing):
        check_adapter(folder)


@pytest.mark.parametrize(
    "content", [b"", b"junk", safetensors()[:-3], safetensors() + b"more", struct.pack("<Q", 2**60)]
)
def test_a_cut_or_foreign_tensor_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = whole(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError):
        check_adapter(folder)


def test_an_unreadable_config_is_refused(tmp_path: Path) -> None:
    folder = whole(tmp_path / "a")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read"):
        check_adapter(folder)


@pytest.mark.parametrize(
    "bad",
    [
        entry("../escape"),
        entry("/etc/passwd"),
        entry("a/../../b"),
        entry("link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("hard", tarfile.LNKTYPE, linkname="adapter_config.json"),
        entry("dev", tarfile.CHRTYPE),
        entry("fifo", tarfile.FIFOTYPE),
        entry("suid", mode=0o4755),
        entry("training_args.bin"),
        entry("deep/optimizer.pt"),
    ],
    ids=lambda info: info.name,
)
def test_archives_that_would_harm_leave_nothing_behind(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = archive(tmp_path / "model.tar.gz", (entry("adapter_config.json"), b"{}"), (bad, b""))
    with pytest.raises(ArtifactError):
        _unpack(path, folder)
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "escape").exists()


def test_bombs_are_refused_by_what_they_claim() -> None:
    with pytest.raises(ArtifactError, match="absurdly large"):
        _check_entry(entry("a"), 1, MAX_BYTES + 1)
    with pytest.raises(ArtifactError, match="absurdly large"):
        _check_entry(entry("a"), 1_000_000, 0)


@pytest.mark.parametrize("content", [b"not a tar", b""])
def test_a_damaged_archive_is_refused_and_removed(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        _unpack(path, folder)
    assert not path.exists()


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = archive(tmp_path / "model.tar.gz", (entry("a.json"), bytes(range(256)) * 400))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtifactError):
        _unpack(path, folder)
    assert list(folder.iterdir()) == []


def test_unpacking_replaces_what_an_earlier_artifact_left(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "old.json").write_text("old")
    path = archive(tmp_path / "model.tar.gz", (entry("base/new.json"), b"new"))
    _unpack(path, folder)
    assert [file.name for file in (folder / "base").iterdir()] == ["new.json"]


def test_a_folder_with_other_peoples_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no fetch has put there"):
        _check_folder(tmp_path)
    _check_folder(tmp_path / "new")
    _mark(tmp_path, "s3://b/k", "")
    _check_folder(tmp_path)
