"""Where the launcher keeps what must outlive a command."""

from __future__ import annotations

import os
from pathlib import Path


def state_home() -> Path:
    """LAUNCHER_HOME, else the user's state folder by the XDG rules."""
    if home := os.environ.get("LAUNCHER_HOME"):
        return expand_home(home).absolute()
    # The XDG specification says that a relative path in its variables is to be ignored.
    xdg = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".local" / "state") / "launcher"


def expand_home(path: str) -> Path:
    """The path with its ~ spelled out; one of a user whom this machine does not have stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
