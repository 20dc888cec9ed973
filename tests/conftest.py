"""Fixtures for every test: a private state folder, closed sockets, the launcher as a subprocess."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Launch = Callable[..., subprocess.CompletedProcess[str]]
# Minutes each, so they are dealt out first: the last file to end decides when all have.
SLOW_FILES = (
    "test_road.py",
    "test_shipped_recipes_run.py",
    "test_four_weeks.py",
    "test_readme.py",
    "test_equivalences.py",
    "test_kills.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--aws", action="store_true", help="also run tests/aws, on your account and at your cost")


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: a test that waits for a job or an endpoint leaves its own idle."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def heard_interrupts() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, which every child of the tests would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def closed_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only loopback and local sockets can be reached from a test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            raise OSError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the developer's own AWS set-up, state or Hub cache."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SAGEMAKER_", "LAUNCHER_", "HF_")):
            monkeypatch.delenv(name)
    empty = tmp_path_factory.mktemp("aws")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(empty / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # Nothing listens on port 9: the Hub is out of reach, and that is known at once.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """A JSONL file with these rows."""

    def write(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run `python -m launcher` in an empty folder, as a user would."""

    def run(*args: str, cwd: Path = tmp_path, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launcher", *args],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def endpoint_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One local endpoint for all tests that ask for it, with short waits."""
    home = tmp_path_factory.mktemp("endpoint")
    env = {**os.environ, "LAUNCHER_HOME": str(home), "LAUNCHER_LOCAL_GRACE_S": "3", "LAUNCHER_LOCAL_JOBS": "2"}
    subprocess.run(
        [sys.executable, "-m", "launcher", "local", "up"], cwd=home, env=env, check=True, capture_output=True
    )
    yield home
    subprocess.run(
        [sys.executable, "-m", "launcher", "local", "reset", "--force"],
        cwd=home,
        env=env,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def endpoint(endpoint_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test talks to the shared local endpoint."""
    monkeypatch.setenv("LAUNCHER_HOME", str(endpoint_home))
    monkeypatch.setenv("LAUNCHER_LOCAL_GRACE_S", "3")
    monkeypatch.setenv("LAUNCHER_LOCAL_JOBS", "2")
    return endpoint_home
