"""A real account: as signed in, over the real network, and only when somebody says so."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def closed_sockets(request: pytest.FixtureRequest) -> None:
    """Open here; without --aws there is nothing to open."""
    if not request.config.getoption("--aws"):
        pytest.skip("needs an AWS account and costs money: say --aws")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The developer's own sign-in, but not their state."""
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path_factory.mktemp("home")))
