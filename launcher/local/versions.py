"""What the image of a job holds against what this machine has. It is said, never installed."""

from __future__ import annotations

import posixpath
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from launcher.images import find_image

# 2.8.0-transformers4.56.2-gpu-py312-cu129-ubuntu22.04
TAG = re.compile(r":(?P<torch>\d[\d.]*)-transformers(?P<transformers>\d[\d.]*)-")
TAG_PYTHON = re.compile(r"-py(?P<major>\d)(?P<minor>\d+)-")
REQUIREMENTS = "requirements.txt"
SETUP = "setup.py"

FindVersion = Callable[[str], "str | None"]


def find_installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe_differences(image_uri: str, find_version: FindVersion = find_installed) -> str:
    """One line on what a job finds here and would not find in its image."""
    pins = find_pins(image_uri)
    if not pins:
        return f"Nothing is known about the image {image_uri or '(none)'}; this machine's packages are used."
    image = image_uri.rpartition(":")[2]
    differences = [*_compare_python(image_uri), *_compare(pins, find_version)]
    if not differences:
        return f"This machine has the versions of the image {image}."
    return f"This machine is not the image {image}: {'; '.join(differences)}. Nothing is installed for that."


def find_pins(image_uri: str) -> dict[str, str]:
    """What the image's tag says, and what we know of it beyond that."""
    tag = TAG.search(image_uri)
    told = {name: tag[name] for name in ("torch", "transformers")} if tag else {}
    image = find_image(image_uri)
    return told | dict(image.pins) if image else told


def _compare_python(image_uri: str) -> Iterator[str]:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = TAG_PYTHON.search(image_uri)
    if found and (pinned := f"{found['major']}.{found['minor']}") != own:
        yield f"Python {own} (image {pinned})"


def _compare(pins: Mapping[str, str], find_version: FindVersion) -> Iterator[str]:
    for package, pinned in sorted(pins.items()):
        version = find_version(package)
        if version is None:
            yield f"{package} is not installed (image {pinned})"
        elif version.partition("+")[0] != pinned:
            yield f"{package} {version} (image {pinned})"


def list_unmet(bundle: Path, find_version: FindVersion = find_installed) -> list[str]:
    """What the toolkit would have to install for a bundle, each with the reason."""
    with tarfile.open(bundle, "r:*") as archive:
        files = {posixpath.normpath(member.name): member for member in archive if member.isfile()}
        if SETUP in files:
            return [f"{SETUP} would install the bundle as a package"]

        def read_lines(name: str) -> list[str]:
            file = archive.extractfile(files[name]) if name in files else None
            return _join_lines(file.read().decode("utf-8", "replace")) if file else []

        reasons = (_find_reason(line, find_version) for line in _iter_requirements(REQUIREMENTS, read_lines, set()))
        return [reason for reason in reasons if reason]


def _join_lines(text: str) -> list[str]:
    return text.replace("\\\r\n", "").replace("\\\n", "").splitlines()


def _iter_requirements(name: str, read_lines: Callable[[str], list[str]], seen: set[str]) -> Iterator[str]:
    """The requirements of a file and of those it includes, without comments, hashes and pip's own options."""
    seen.add(name)
    for raw in read_lines(name):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if included := re.match(r"(?:-r|--requirement)[\s=]*(\S+)", line):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), included[1]))
            if path not in seen:
                yield from _iter_requirements(path, read_lines, seen)
        elif line.startswith(("-e", "--editable")) or (line and not line.startswith("-")):
            yield line.partition(" --")[0].strip()


def _find_reason(line: str, find_version: FindVersion) -> str | None:
    """Why this requirement is not met here; None when it is, or is not meant for this machine."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return f"{line} cannot be compared with what is installed"
    if requirement.marker and not requirement.marker.evaluate():
        return None
    version = find_version(requirement.name)
    if version is None:
        return f"{line} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{line} is wanted and {version} installed"
    return None
