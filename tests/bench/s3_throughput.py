"""How fast the local endpoint moves one big object up and down through boto3, and what that costs it in memory.

python tests/bench/s3_throughput.py
python tests/bench/s3_throughput.py --size-mb 256 --repeat 3 --json
python tests/bench/s3_throughput.py --endpoint-url http://127.0.0.1:4566 --pid 1234
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

MB = 1_000_000
TARGET_MB_S = 200
TARGET_GROWTH_MB = 100
BUCKET = "throughput"


@dataclass(frozen=True)
class Endpoint:
    url: str
    pid: int | None


@dataclass(frozen=True)
class Result:
    size_mb: int
    up_mb_s: float
    down_mb_s: float
    rss_before_mb: float | None
    rss_growth_mb: float | None


def main() -> None:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, open_endpoint(options, Path(folder)) as endpoint:
        results = [measure(endpoint, Path(folder), options.size_mb) for _ in range(options.repeat)]
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        print_table(results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint-url", help="measure this endpoint instead of a fresh one")
    parser.add_argument("--pid", type=int, help="its process, to watch the memory of")
    parser.add_argument("--size-mb", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files lie (default: the temporary folder)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@contextmanager
def open_endpoint(options: argparse.Namespace, folder: Path) -> Iterator[Endpoint]:
    if options.endpoint_url:
        yield Endpoint(options.endpoint_url, options.pid)
        return
    ready, ready_fd = os.pipe()
    command = [
        sys.executable,
        "-m",
        "launcher.local.server",
        "--root",
        str(folder / "root"),
        "--ready-fd",
        str(ready_fd),
    ]
    server = subprocess.Popen(command, pass_fds=[ready_fd], env={**os.environ, "LAUNCHER_LOCAL_PORT": "0"})
    os.close(ready_fd)
    try:
        with os.fdopen(ready) as pipe:
            url = pipe.read()
        if not url:
            sys.exit("The endpoint did not start.")
        yield Endpoint(url, server.pid)
    finally:
        server.terminate()
        server.wait(30)


def measure(endpoint: Endpoint, folder: Path, size_mb: int) -> Result:
    s3, key = make_client(endpoint.url), uuid.uuid4().hex
    source, target = folder / "up", folder / "down"
    write_random(source, size_mb)
    s3.create_bucket(Bucket=BUCKET)
    with watch_memory(endpoint.pid) as memory:
        up_s = timed(lambda: s3.upload_file(str(source), BUCKET, key))
        down_s = timed(lambda: s3.download_file(BUCKET, key, str(target)))
    if not has_same_bytes(source, target):
        sys.exit("What came down is not what went up.")
    s3.delete_object(Bucket=BUCKET, Key=key)
    target.unlink()
    growth = max(memory) - memory[0] if memory else None
    return Result(size_mb, size_mb / up_s, size_mb / down_s, memory[0] if memory else None, growth)


def make_client(url: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(proxies={}),
    )


def write_random(path: Path, size_mb: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_mb):
            file.write(os.urandom(MB))


def has_same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        return all(chunk == second.read(MB) for chunk in iter(lambda: first.read(MB), b""))


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@contextmanager
def watch_memory(pid: int | None) -> Iterator[list[float]]:
    """Samples of the resident memory in MB, taken while the block runs."""
    samples: list[float] = []
    if pid is None:
        yield samples
        return
    done = Event()
    samples.append(resident_mb(pid))

    def sample() -> None:
        while not done.wait(0.05):
            samples.append(resident_mb(pid))

    thread = Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def print_table(results: list[Result]) -> None:
    print(f"{'size MB':>8} {'up MB/s':>8} {'down MB/s':>10} {'RSS before MB':>14} {'RSS growth MB':>14}")
    for result in results:
        before, growth = shown(result.rss_before_mb), shown(result.rss_growth_mb)
        print(f"{result.size_mb:>8} {result.up_mb_s:>8.0f} {result.down_mb_s:>10.0f} {before:>14} {growth:>14}")
    print(f"target: {TARGET_MB_S} MB/s or more each way, {TARGET_GROWTH_MB} MB or less of growth")


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    main()
