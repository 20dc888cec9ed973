"""The road on a real account: `pytest -n0 -s tests/aws --aws` with a region, a sign-in, and what `bootstrap` makes.

One job of 20 steps on ml.g5.xlarge, bounded to MOST_DOLLARS by its own time limit; what it may cost is printed first.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.aws
MOST_DOLLARS = "1.50"
JOB = (
    "qwen2.5-1.5b-medical",
    "--instance",
    "ml.g5.xlarge",
    "--max-cost",
    MOST_DOLLARS,
    "--set",
    "training.max_steps=20",
)
DEADLINE_S = 3600


@pytest.fixture(scope="module")
def run_name() -> str:
    return f"account-test-{int(time.time())}"


def test_doctor_finds_nothing_missing(launch: Any) -> None:
    done = launch("doctor", "qwen2.5-1.5b-medical", "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_trains_and_its_adapter_comes_back(
    launch: Any, run_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = launch("plan", *JOB)
    assert plan.returncode == 0, plan.stderr
    with capsys.disabled():
        print("\n" + next(line for line in plan.stdout.splitlines() if line.startswith("cost")))  # noqa: T201
    done = launch("submit", *JOB, "--name", run_name, "--out", "adapter", "--yes", timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    state = json.loads(launch("status", run_name, "--json").stdout)
    assert (state["status"], state["instance"]) == ("completed", "ml.g5.xlarge")


def test_the_same_submit_starts_nothing(launch: Any, run_name: str) -> None:
    done = launch("submit", *JOB, "--name", run_name, "--yes", "--out", "again", timeout=600)
    assert done.returncode == 0, done.stderr
    assert "started" not in done.stderr
