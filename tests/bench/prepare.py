"""How fast `prepare` turns a large CSV into three channels, and in how much memory.

    python tests/bench/prepare.py [--size-mb 1000] [--repeat 1] [--json]

The CSV is made first: questions and answers of about 650 bytes a row, quoted, with empty and repeated rows. Memory is
the sum over the command and its workers, looked at every 50 ms. Beside it stands what Python's own csv module needs to
read the same file and do nothing with it, measured just before.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MB = 1_000_000
TARGET_MB_S = 80
TARGET_MEMORY_MB = 400
RECIPE = """
[[data.sources]]
path = "big.csv"

[data.prepare]
template = "### Instruction:\\n{question}\\n\\n### Response:\\n{answer}"
drop_empty = ["question", "answer"]
split = [80, 10, 10]
"""


def make_csv(path: Path, size: int) -> None:
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(5000)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "answer"))
        while file.tell() < size:
            writer.writerows(make_rows(chance, words))


def make_rows(chance: random.Random, words: list[str]) -> list[tuple[str, str]]:
    rows = [
        (" ".join(chance.choices(words, k=25)) + "?", " ".join(chance.choices(words, k=75)) + ', or "so".')
        for _ in range(1000)
    ]
    rows[10] = ("", "an answer without a question")
    rows[20] = rows[19]
    return rows


def time_csv(path: Path) -> float:
    start = time.perf_counter()
    with path.open(newline="", encoding="utf-8") as file:
        for _ in csv.reader(file):
            pass
    return time.perf_counter() - start


def time_prepare(folder: Path) -> tuple[float, float, dict[str, object]]:
    """Seconds, the highest memory in MB, and what the command printed."""
    words = [sys.executable, "-m", "launcher", "prepare", "recipe.toml", "--out", "out", "--json"]
    env = {**os.environ, "LAUNCHER_HOME": str(folder / "home")}
    start = time.perf_counter()
    with subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as command:
        peak = 0.0
        while command.poll() is None:
            peak = max(peak, measure_memory(command.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        printed = command.stdout.read() if command.stdout else b""
    if command.returncode:
        raise SystemExit(f"prepare ended with {command.returncode}")
    return seconds, peak / MB, json.loads(printed)


def measure_memory(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        return float(sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return 0.0


def used_cpu_s() -> float:
    """By all children so far: what does not depend on who else uses the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(size_mb: int, repeat: int, place: str | None) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        make_csv(folder / "big.csv", size_mb * MB)
        size = (folder / "big.csv").stat().st_size / MB
        rows = []
        for _ in range(repeat):
            csv_s = time_csv(folder / "big.csv")
            cpu_s = -used_cpu_s()
            seconds, memory, printed = time_prepare(folder)
            cpu_s += used_cpu_s()
            rows.append(
                {
                    "size_mb": round(size),
                    "rows_read": printed["read"],
                    "rows_kept": printed["kept"],
                    "seconds": round(seconds, 2),
                    "mb_s": round(size / seconds, 1),
                    "cpu_s": round(cpu_s, 2),
                    "memory_mb": round(memory),
                    "csv_module_mb_s": round(size / csv_s, 1),
                }
            )
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", help="where the files go (default: the temporary folder)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args.size_mb, args.repeat, args.folder)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"targets: {TARGET_MB_S} MB/s, {TARGET_MEMORY_MB} MB")
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
