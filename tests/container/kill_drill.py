"""SIGKILL a training job at random moments, also in the middle of a save; the adapter must come out the same.

    python tests/container/kill_drill.py 20

A third of the kills each falls at a random second (imports included), after a random step, and while a checkpoint is
being written. Every run is started again until it ends, and is then held against one that nothing interrupted: the
adapter's bytes, every step's loss, each step once. A run that ends before all kills are spent is followed by another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from container_src import sft

TRAIN = Path(sft.__file__).parent.parent / "train.py"
STEPS = 60
SETTINGS = {
    "smoke": True,
    "max_steps": STEPS,
    "max_length": 64,
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "eval_steps": 20,
    "save_steps": 2,
    "load_best_model_at_end": True,
}
KINDS = ("in a save", "after a step", "at a second")
STEP = re.compile(r"\[metrics\] step=(\d+)/\d+ .*\bloss=")
RESUMED = re.compile(r"Resuming after step (\d+)")
START_S = 8.0
DEADLINE_S = 300


class DrillError(Exception):
    """What the drill exists to find."""


class Attempt(NamedTuple):
    """One start of the job: how it was to be killed, what it printed, whether it was."""

    kind: str
    lines: list[str]
    killed: bool

    @property
    def steps(self) -> list[int]:
        return [int(match[1]) for match in map(STEP.match, self.lines) if match]

    @property
    def resumed_after(self) -> int:
        found = [int(match[1]) for match in map(RESUMED.match, self.lines) if match]
        return found[0] if found else 0


def write_rows(base: Path) -> None:
    for channel, count in (("train", 22), ("eval", 6)):
        folder = base / "input" / "data" / channel
        folder.mkdir(parents=True)
        rows = [
            {"prompt": f"Question {row}: what helps the knee?", "completion": " Rest." + " Cool it." * (row % 4)}
            for row in range(count)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def start(base: Path) -> subprocess.Popen[str]:
    argv = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *argv],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def attempt(base: Path, kind: str, source: random.Random) -> Attempt:
    """Start the job and kill it in the given way; "" lets it end."""
    process = start(base)
    process_over = threading.Event()
    watcher = threading.Thread(target=_kill, args=(process, process_over, base, kind, source.random()))
    watcher.start()
    lines: list[str] = []
    steps_left = source.randint(1, 6) if kind == "after a step" else 0
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            steps_left -= bool(STEP.match(line))
            if kind == "after a step" and steps_left == 0 and STEP.match(line):
                process.kill()
        process.wait()
    process_over.set()
    watcher.join()
    if process.returncode not in (0, -signal.SIGKILL):
        raise DrillError(f"the job failed by itself:\n{''.join(lines)}")
    return Attempt(kind, lines, process.returncode != 0)


def _kill(process: subprocess.Popen[str], over: threading.Event, base: Path, kind: str, chance: float) -> None:
    if kind == "at a second":
        over.wait(1.5 * START_S * chance)
    elif kind == "in a save":
        saves = base / "checkpoints"
        began = time.time()
        while not over.is_set() and not _is_saving(saves, began):
            time.sleep(0.001)
        over.wait(0.01 * chance)
    else:
        over.wait(DEADLINE_S)  # nothing to do but to end a job that hangs
    if not over.is_set():
        process.kill()


def _is_saving(saves: Path, since: float) -> bool:
    """Whether a checkpoint is half-written; one that an earlier kill left does not count."""
    try:
        return any(path.stat().st_mtime > since for path in saves.glob("tmp-*"))
    except FileNotFoundError:
        return False  # just published


def published(base: Path) -> int:
    """The newest checkpoint under its final name."""
    steps = [int(path.name.split("-")[1]) for path in (base / "checkpoints").glob("checkpoint-*")]
    return max(steps, default=0)


def drill(kills: int, seed: int, folder: Path) -> None:
    source = random.Random(seed)
    whole = folder / "whole"
    write_rows(whole)
    began = time.monotonic()
    attempt(whole, "", source)
    _say(f"Uninterrupted: {STEPS} steps in {time.monotonic() - began:.1f} s.")
    spent = run = 0
    while spent < kills:
        run += 1
        base = folder / f"run-{run}"
        write_rows(base)
        spent = _run_to_end(base, spent, kills, source)
        check_equal(base, whole)
        _say(f"Run {run}: adapter and every loss equal the uninterrupted run's, to the last bit.")
    _say(f"{spent} kills, {run} runs, nothing lost.")


def _run_to_end(base: Path, spent: int, kills: int, source: random.Random) -> int:
    while True:
        newest = published(base)
        kind = KINDS[spent % len(KINDS)] if spent < kills else ""
        tried = attempt(base, kind, source)
        _check_goes_on(tried, newest)
        if not tried.killed:
            return spent
        spent += 1
        half = "a half-written checkpoint, " if any((base / "checkpoints").glob("tmp-*")) else ""
        _say(
            f"Kill {spent:2}, {kind:12}: began after step {newest}, reached {max(tried.steps, default=newest)}, left "
            f"{half}the newest whole one {published(base)}."
        )


def _check_goes_on(tried: Attempt, newest: int) -> None:
    """It began at the newest whole checkpoint, and its first step is the next."""
    if tried.steps and (tried.resumed_after, tried.steps[0]) != (newest, newest + 1):
        raise DrillError(
            f"the newest checkpoint was of step {newest}, the job resumed after {tried.resumed_after} and its first "
            f"step was {tried.steps[0]}"
        )


def check_equal(run: Path, whole: Path) -> None:
    adapter = "model/adapter_model.safetensors"
    if (run / adapter).read_bytes() != (whole / adapter).read_bytes():
        raise DrillError(f"the adapter in {run} differs from that in {whole}")
    losses, expected = (_losses(base) for base in (run, whole))
    if losses != expected:
        raise DrillError(f"the losses differ: {losses} and {expected}")
    if [step for step, _ in losses] != list(range(1, STEPS + 1)):
        raise DrillError(f"steps are missing or counted twice: {[step for step, _ in losses]}")


def _losses(base: Path) -> list[tuple[int, Any]]:
    lines = map(json.loads, (base / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command


def main() -> int:
    parser = argparse.ArgumentParser(description="SIGKILL a training job at random moments and compare its end.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-drill-") as folder:
        try:
            drill(args.kills, args.seed, Path(folder))
        except DrillError as error:
            _say(f"LOST: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
