"""A store of objects in a folder of the test's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.local.store import ObjectStore, StoreError

BUCKET = "bucket"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "s3"


@pytest.fixture
def store(root: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(root)
    store.create_bucket(BUCKET)
    yield store
    store.close()


@pytest.fixture
def run_python(root: Path) -> Callable[..., subprocess.Popen[str]]:
    """Another process with a store of its own on the same folder."""

    def run(script: str, *args: str) -> subprocess.Popen[str]:
        head = "import os, signal, sys\nfrom pathlib import Path\nfrom launcher.local.store import *\n"
        head += f"store = ObjectStore(Path({str(root)!r}))\n"
        command = [sys.executable, "-c", head + script, *args]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return run


def _read(store: ObjectStore, key: str) -> bytes:
    with store.open(BUCKET, key)[1] as file:
        return file.read()


def _content_files(root: Path) -> list[Path]:
    return [path for path in (root / "content").glob("*/*") if path.is_file()]


def _refusal(action: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        action()
    return caught.value.code


@pytest.fixture
def read() -> Callable[..., bytes]:
    """An object's bytes."""
    return _read


@pytest.fixture
def content_files() -> Callable[[Path], list[Path]]:
    """The files that hold bytes of objects."""
    return _content_files


@pytest.fixture
def refusal() -> Callable[..., str]:
    """The code with which an action is refused."""
    return _refusal
