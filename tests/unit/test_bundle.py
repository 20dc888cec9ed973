"""The bundle: the same bytes from the same files, and nothing in it that does not belong."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from launcher.bundle import make_bundle, source_folder
from launcher.errors import InputError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    (folder / "sft").mkdir(parents=True)
    (folder / "train.py").write_text("print(1)\n")
    (folder / "sft" / "data.py").write_text("x = 1\n")
    return folder


def names_in(content: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        return archive.getnames()


def test_times_owners_modes_and_order_do_not_change_the_bytes(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(source, other)
    os.utime(other / "train.py", (1, 1))
    (other / "train.py").chmod(0o700)
    assert make_bundle(source).digest == make_bundle(other).digest


def test_the_bytes_are_pinned_whatever_zlib_is_here(source: Path) -> None:
    # Stored blocks are independent of the compressor; this digest must be the same on every machine.
    assert make_bundle(source).digest == "3d814b8cc0775fd2229f485a4ec18fcee85f6f6606a6187e181090b67f36e46a"


def test_a_changed_byte_changes_the_digest(source: Path) -> None:
    before = make_bundle(source).digest
    (source / "train.py").write_text("print(2)\n")
    assert make_bundle(source).digest != before


def test_large_content_survives_the_stored_blocks(source: Path) -> None:
    (source / "big.py").write_bytes(b"#" * 200_000)
    with tarfile.open(fileobj=io.BytesIO(make_bundle(source).content), mode="r:gz") as archive:
        member = archive.extractfile("big.py")
        assert member is not None
        assert member.read() == b"#" * 200_000


@pytest.mark.parametrize(
    "unwanted",
    [".git/config", "__pycache__/a.pyc", ".env", ".venv/x.py", "venv/x.py", "env/y.py", "mine/pyvenv.cfg", "a.pyc"],
)
def test_what_does_not_belong_stays_out(source: Path, unwanted: str) -> None:
    path = source / unwanted
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("secret")
    assert names_in(make_bundle(source).content) == ["sft/data.py", "train.py"]


def test_user_files_stand_beside_train_py(source: Path, tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "mod.py").write_text("")
    (tmp_path / "mine.py").write_text("")
    bundle = make_bundle(source, (tmp_path / "mine.py", tmp_path / "extra"))
    assert names_in(bundle.content) == ["extra/mod.py", "mine.py", "sft/data.py", "train.py"]


@pytest.mark.parametrize("name", ["train.py", "setup.py", ".env", "deploy.pem", "absent.py"])
def test_user_files_that_would_harm_are_refused(source: Path, tmp_path: Path, name: str) -> None:
    if name != "absent.py":
        (tmp_path / name).write_text("")
    with pytest.raises(InputError) as caught:
        make_bundle(source, (tmp_path / name,))
    assert name in caught.value.message
    assert caught.value.hint


def test_links_are_refused(source: Path) -> None:
    (source / "link.py").symlink_to(source / "train.py")
    with pytest.raises(InputError, match="is a link"):
        make_bundle(source)


def test_the_shipped_code_is_found_and_packs() -> None:
    names = make_bundle(source_folder()).names
    assert "train.py" in names
    assert "sft/config.py" in names
    assert not any("requirements.txt" in name or "setup.py" in name for name in names)
