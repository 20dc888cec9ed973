"""How long a user waits: --help, status, list, plan, and a whole submit against the local endpoint.

    python tests/bench/commands.py [--json] [--runs 7]

Each figure is the median of several runs of the whole process. A machine is noisy, so each run of a command is paired
with one of `python -c pass`, and the ratio of the medians stands beside the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS_S = {"--help": 0.15, "status": 0.6, "list": 0.6, "plan": 1.2, "submit": 30.0}


def time_command(words: list[str], folder: Path, env: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def measure(runs: int) -> list[dict[str, float | str]]:
    launcher, bare = [sys.executable, "-m", "launcher"], [sys.executable, "-c", "pass"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        env = {**os.environ, "LAUNCHER_HOME": str(folder / "home")}
        submit = [*launcher, "submit", "--instance", "local", "--name", "bench", "--fresh"]
        time_command(submit, folder, env)  # warms the disk cache and uploads the data
        job = subprocess.run([*launcher, "list", "--json"], cwd=folder, env=env, capture_output=True, check=True)
        name = json.loads(job.stdout)[0]["name"]
        commands = {
            "--help": ([*launcher, "--help"], runs),
            "status": ([*launcher, "status", name], runs),
            "list": ([*launcher, "list"], runs),
            "plan": ([*launcher, "plan", "--instance", "local"], runs),
            "submit": (submit, max(2, runs // 3)),
        }
        rows = []
        for label, (words, count) in commands.items():
            pairs = [(time_command(words, folder, env), time_command(bare, folder, env)) for _ in range(count)]
            seconds = statistics.median(first for first, _ in pairs)
            python = statistics.median(second for _, second in pairs)
            rows.append(
                {"command": label, "seconds": seconds, "limit": LIMITS_S[label], "of_bare_python": seconds / python}
            )
        time_command([*launcher, "local", "reset", "--force"], folder, env)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args.runs)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'command':<10} {'median s':>9} {'limit s':>8} {'x bare python':>14}")
    for row in rows:
        print(f"{row['command']:<10} {row['seconds']:>9.3f} {row['limit']:>8} {row['of_bare_python']:>14.1f}")


if __name__ == "__main__":
    main()
