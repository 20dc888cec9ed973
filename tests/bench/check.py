"""How fast `check` reads rows, beside libraries that only decode them, and how many tokens a second it counts.

    python tests/bench/check.py [--mb 1000] [--runs 3] [--only 700] [--extra]

Two files are generated: text rows of 700 bytes and chat rows of 150; with --extra, rows that also have an id, a source
and a score, as most files come. Each figure is the median of several runs, each a process of its own, taken in turn so
that a busy moment of the machine meets them all. Memory is the process's peak; of check's children, which share most of
it, the largest stands behind a plus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import os, resource, sys, time, json
path = sys.argv[1]
{setup}
start, cpu = time.perf_counter(), os.times()
result = run(path)
seconds, end = time.perf_counter() - start, os.times()
spent = sum(end[:4]) - sum(cpu[:4])
memory = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([seconds, spent, *memory, result]))
"""
CHECK = """
from pathlib import Path
from launcher.data.checks import check_channels
def run(path):
    report = check_channels({"train": Path(path)})
    assert not report.errors
    return report.channels[0].rows
"""
ORJSON = """
import orjson
def run(path):
    with open(path, "rb") as lines:
        return sum(1 for line in lines if orjson.loads(line))
"""
MSGSPEC = """
import msgspec
from launcher.data import quick
def run(path):
    decode = msgspec.json.Decoder(quick.TextRow if "700" in path else quick.ChatRow).decode
    with open(path, "rb") as lines:
        return sum(1 for line in lines if decode(line))
"""
JSON = """
from container_src.sft.data import check_row, iter_rows
from pathlib import Path
def run(path):
    return sum(1 for row in iter_rows(Path(path)) if not check_row(row))
"""
DATASETS = """
import datasets, tempfile
datasets.disable_progress_bars()
def run(path):
    with tempfile.TemporaryDirectory() as cache:
        return len(datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache))
"""
POLARS = """
import polars
def run(path):
    return len(polars.read_ndjson(path))
"""
SHA256 = """
import hashlib
def run(path):
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
    return 0
"""
WAYS = {
    "check: every rule, digest, repeats": ("launcher", CHECK),
    "sha256 alone": ("hashlib", SHA256),
    "the container's own rules, line by line": ("json", JSON),
    "orjson.loads, line by line": ("orjson", ORJSON),
    "msgspec typed, line by line": ("msgspec", MSGSPEC),
    "datasets.load_dataset('json')": ("datasets", DATASETS),
    "polars.read_ndjson": ("polars", POLARS),
}
TOKENS = """
from pathlib import Path
from container_src.sft.config import TrainConfig
from launcher.data.rows import check_file
from launcher.data.tokens import count_tokens, find_tokenizer
config = TrainConfig()
tokenizer = find_tokenizer(sys.argv[2], config)
file = check_file("train", Path(path))
def run(path):
    return count_tokens("train", [file], tokenizer, config).tally.tokens
"""


def make_words() -> list[str]:
    dice = random.Random(7)
    return ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(5000)]


def write_rows(path: Path, megabytes: int, size: int, extra: bool = False) -> None:
    dice, words, written, number = random.Random(size), make_words(), 0, 0

    def say(length: int) -> str:
        return " ".join(dice.choices(words, k=length * 2 // 13))[:length]

    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            if size == 700:
                row: dict[str, object] = {"text": f"### Human: {say(150)}\n### Assistant: {say(540)}"}
            else:
                turns = (("user", say(30)), ("assistant", say(30)))
                row = {"messages": [{"role": role, "content": content} for role, content in turns]}
            if extra:
                number += 1
                row = {"id": number, **row, "source": "made up", "score": number / 7}
            written += file.write(json.dumps(row) + "\n")


def measure(setup: str, *arguments: str) -> list[float]:
    script = MEASURE.replace("{setup}", setup)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(value) for value in json.loads(done.stdout.splitlines()[-1])]


def compare(path: Path, runs: int, own_alone: bool) -> None:
    ways = {name: setup for name, (module, setup) in WAYS.items() if importlib.util.find_spec(module)}
    if own_alone:
        ways = dict([next(iter(ways.items()))])
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, setup in ways.items():
            found[name].append(measure(setup, str(path)))
    megabytes = path.stat().st_size / 1e6
    rows = int(found[next(iter(ways))][0][4])
    print(f"\n{megabytes:,.0f} MB, {rows:,} rows of {megabytes * 1e6 / rows:.0f} bytes, median of {runs}")
    print(f"{'':<42}{'MB/s':>7}{'CPU s/GB':>10}{'memory MB':>12}{'bytes/row':>11}")
    for name, values in found.items():
        seconds, spent, own, children, _ = (statistics.median(column) for column in zip(*values, strict=True))
        memory = f"{own / 1024:.0f}" + (f" + {children / 1024:.0f}" if children else "")
        share = max(own * 1024 - 60e6, 0) / rows
        print(f"{name:<42}{megabytes / seconds:>7.0f}{spent / megabytes * 1000:>10.2f}{memory:>12}{share:>11.0f}")


def count(path: Path, folder: Path, runs: int) -> None:
    from container_src.sft.stand_in import make_tokenizer

    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()[:2000]]
    make_tokenizer(texts, "qwen2").save_pretrained(folder / "tokenizer")
    found = [measure(TOKENS, str(path), str(folder / "tokenizer")) for _ in range(runs)]
    speed = statistics.median(tokens / seconds for seconds, _, _, _, tokens in found)
    print(f"\ntokens, with the trainer's own encode on all cores: {speed / 1e6:.2f} million a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", type=int, choices=(700, 150), help="one of the two files alone")
    parser.add_argument("--extra", action="store_true", help="rows with further keys, read by check alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for size in (args.only,) if args.only else (700, 150):
            write_rows(folder / f"{size}.jsonl", args.mb, size, args.extra)
            compare(folder / f"{size}.jsonl", args.runs, args.extra)
            (folder / f"{size}.jsonl").unlink()
        if not args.extra:
            write_rows(folder / "tokens.jsonl", 20, 700)
            count(folder / "tokens.jsonl", folder, args.runs)


if __name__ == "__main__":
    main()
