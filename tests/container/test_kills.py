"""Nothing is lost by SIGKILL: three of them here, twenty by `python tests/container/kill_drill.py 20`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_three_kills_change_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "kill_drill.py"), "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "left a half-written checkpoint" in done.stdout
    assert "3 kills, 1 runs, nothing lost." in done.stdout
