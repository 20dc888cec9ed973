"""What differs between this machine and an image, and what a bundle would have to install."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from launcher.images import IMAGES, make_uri
from launcher.local.versions import describe_differences, find_pins, list_unmet

OWN_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"
INSTALLED = {"torch": "2.8.0+cpu", "transformers": "4.56.2", "trl": "0.23.0", "peft": "0.17.1"}
OWN_IMAGE = f"registry/own:2.8.0-transformers4.56.2-gpu-{OWN_PYTHON}-cu129-ubuntu22.04"


def pack(folder: Path, files: dict[str, str]) -> Path:
    bundle = folder / "sourcedir.tar.gz"
    with tarfile.open(bundle, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return bundle


def test_a_tag_alone_tells_torch_and_transformers() -> None:
    assert find_pins(OWN_IMAGE) == {"torch": "2.8.0", "transformers": "4.56.2"}


def test_a_known_image_tells_its_pins_too() -> None:
    assert find_pins(make_uri(IMAGES[0], "eu-west-1"))["trl"] == IMAGES[0].pins["trl"]


def test_equal_versions_are_said_to_be_equal_whatever_the_build() -> None:
    text = describe_differences(OWN_IMAGE, INSTALLED.get)
    assert text.startswith("This machine has the versions of the image 2.8.0-")


def test_each_difference_is_named_with_both_versions() -> None:
    uri = OWN_IMAGE.replace("2.8.0", "2.5.1").replace(OWN_PYTHON, "py399")
    own = OWN_PYTHON[2:]
    text = describe_differences(uri, {"torch": "2.8.0"}.get)
    assert "torch 2.8.0 (image 2.5.1)" in text
    assert "transformers is not installed (image 4.56.2)" in text
    assert f"Python {own[0]}.{own[1:]} (image 3.99)" in text
    assert "\n" not in text


@pytest.mark.parametrize("uri", ["", "registry/own:latest", "registry/own@sha256:" + "0" * 64])
def test_unknown_image_is_said_to_be_unknown(uri: str) -> None:
    assert describe_differences(uri, INSTALLED.get).startswith("Nothing is known about the image")


@pytest.mark.parametrize(
    "line",
    [
        "torch",
        "torch>=2,<3  # a comment",
        "peft==0.17.1 --hash=sha256:abc",
        "missing ; sys_platform == 'win32'",
        "--index-url https://example.com/simple",
        "trl==\\\n0.23.0",
        "",
    ],
)
def test_requirement_that_is_met_or_not_meant(tmp_path: Path, line: str) -> None:
    assert list_unmet(pack(tmp_path, {"./requirements.txt": line + "\n"}), INSTALLED.get) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("missing", "missing is not installed"),
        ("torch==2.9", "torch==2.9 is wanted and 2.8.0+cpu installed"),
        ("./wheels/own.whl", "./wheels/own.whl cannot be compared"),
        ("-e .", "-e . cannot be compared"),
        ("-r sub/more.txt", "deeper is not installed"),
    ],
)
def test_requirement_that_is_not_met(tmp_path: Path, line: str, reason: str) -> None:
    files = {"requirements.txt": line, "sub/more.txt": "-r deep.txt\n-r more.txt", "sub/deep.txt": "deeper"}
    (unmet,) = list_unmet(pack(tmp_path, files), INSTALLED.get)
    assert unmet.startswith(reason)


def test_bundle_that_is_a_package_would_be_installed(tmp_path: Path) -> None:
    (reason,) = list_unmet(pack(tmp_path, {"setup.py": "", "train.py": ""}), INSTALLED.get)
    assert reason.startswith("setup.py")


def test_requirements_deeper_in_the_bundle_do_not_count(tmp_path: Path) -> None:
    assert list_unmet(pack(tmp_path, {"docs/requirements.txt": "missing"}), INSTALLED.get) == []
