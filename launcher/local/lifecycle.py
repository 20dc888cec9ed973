"""The endpoint as a background process, which commands find, start, stop and clear away."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from launcher.errors import LocalEndpointError
from launcher.local.card import Card, load_card
from launcher.local.processes import ProcessId, find_memory, kill_leftovers, send_signal, wait_for_end
from launcher.local.settings import Settings, load_settings, local_root

HEALTH_TIMEOUT_S = 5.0
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
MAX_LOG_BYTES = 10 << 20
LAST_LOG_LINES = 10
NEEDED = ("moto", "sagemaker_training", "sagemaker_pytorch_container", "torch", "trl")


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that answers."""

    url: str
    port: int
    pid: int
    root: Path
    version: str
    settings: Settings


@dataclass(frozen=True)
class EndpointStatus:
    """What `local status` shows. What moto holds lives in the endpoint's memory and ends with it."""

    endpoint: Endpoint
    uptime_s: float
    jobs: dict[str, int]
    schedules: int
    next_firing: str | None
    disk_bytes: int
    memory_bytes: int
    is_moto_loaded: bool


def find_endpoint() -> Endpoint | None:
    """The running endpoint, or None."""
    root = local_root()
    card = load_card(root)
    return _make_endpoint(root, card) if card and _fetch_health(card) else None


def ensure_endpoint() -> Endpoint:
    """The running endpoint; started now when there is none."""
    if endpoint := find_endpoint():
        return endpoint
    with _one_at_a_time():
        return find_endpoint() or _start(local_root())


def stop_endpoint() -> bool:
    """End the endpoint and keep everything else: the jobs go on. False when none was running."""
    with _one_at_a_time():
        return _stop(local_root())


def reset(*, force: bool = False) -> None:
    """End the endpoint and forget its jobs, schedules, logs and objects; a job that still lives only by force."""
    root = local_root()
    with _one_at_a_time():
        live = [name for name, _ in _list_unfinished(root)]
        if live and not force:
            raise LocalEndpointError(
                f"Resetting the local endpoint: {', '.join(live)} would be lost in the middle.",
                hint="Stop it first, or reset by force.",
            )
        _stop(root)
        _kill_jobs(root)
        _remove(root)


def find_status() -> EndpointStatus | None:
    root = local_root()
    card = load_card(root)
    health = card and _fetch_health(card)
    if not card or not health:
        return None
    return EndpointStatus(
        endpoint=_make_endpoint(root, card),
        uptime_s=health["uptime_s"],
        jobs=health["jobs"],
        schedules=health["schedules"]["count"],
        next_firing=health["schedules"]["next_firing"],
        disk_bytes=_measure_folder(root),
        memory_bytes=find_memory(card.process.pid),
        is_moto_loaded=health["is_moto_loaded"],
    )


def interrupt_job(name: str) -> None:
    """Play a spot interruption of a job on the running endpoint."""
    _ask(f"Interrupting {name}", "POST", f"/_local/jobs/{name}/interrupt")


def list_executions(group: str = "", name: str = "") -> list[dict[str, Any]]:
    """What became of the firings of one schedule, or of all, oldest first; AWS itself has no such list."""
    path = "/_local/executions" + (f"/{group}/{name}" if name else "")
    return list(_ask("Listing firings", "GET", path)["executions"])


def fetch_clock() -> datetime:
    """The time that schedules go by here; the endpoint is started when it is not running yet."""
    answer = _read("Asking for the time", ensure_endpoint().port, "GET", "/_local/clock")
    return datetime.fromisoformat(answer["now"])


def _ask(doing: str, method: str, path: str) -> dict[str, Any]:
    endpoint = find_endpoint()
    if endpoint is None:
        raise LocalEndpointError(
            f"{doing}: the local endpoint is not running.", hint="Start it with: launcher local up"
        )
    return _read(doing, endpoint.port, method, path)


def _read(doing: str, port: int, method: str, path: str) -> dict[str, Any]:
    try:
        status, answer = _request(port, method, path)
    except ValueError as error:
        raise LocalEndpointError(
            f"{doing}: the local endpoint's answer cannot be read ({error}).",
            hint="`launcher local status` names its log; `launcher local reset` starts it anew, with nothing in it.",
        ) from error
    if status != 200:
        raise LocalEndpointError(f"{doing}: {answer.get('message', status)}")
    return answer


# Finding


def _make_endpoint(root: Path, card: Card) -> Endpoint:
    return Endpoint(card.url, card.port, card.process.pid, root, card.version, card.settings)


def _fetch_health(card: Card) -> dict[str, Any] | None:
    """What the endpoint says of itself; None when it has ended, or another program has its port."""
    if not card.process.is_alive():
        return None
    try:
        status, health = _request(card.port, "GET", "/_local/health")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return health if status == 200 and health.get("pid") == card.process.pid else None


def _request(port: int, method: str, path: str) -> tuple[int, dict[str, Any]]:
    # http.client knows no proxies, so that a proxy variable of the user's cannot catch this.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(json.loads(response.read()))
    finally:
        connection.close()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """No two commands start, stop or reset at once. The lock lies beside the root, which a reset removes."""
    root = local_root()
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Starting


def _start(root: Path) -> Endpoint:
    load_settings()  # a senseless one is refused here rather than in a log file
    _check_installed()
    root.mkdir(parents=True, exist_ok=True)
    log = root / "endpoint.log"
    ready, write_end = os.pipe()
    try:
        with log.open("wb" if _is_too_long(log) else "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "launcher.local.server", "--root", root, "--ready-fd", str(write_end)],
                cwd=root,
                env=_make_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[write_end],
            )
        os.close(write_end)
        write_end = -1
        _wait_until_ready(process, ready, log)
    finally:
        os.close(ready)
        if write_end >= 0:
            os.close(write_end)
    # It outlives this command by intention, so Popen shall not complain that nobody waits for it.
    process.returncode = 0
    return find_endpoint() or _fail_to_start(log, "it answers to no request")


def _check_installed() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LocalEndpointError(
            f"Starting the local endpoint: {', '.join(missing)} cannot be imported here.",
            hint="Install what jobs on this machine need: pip install 'qlora-launcher[local]' (or '.[local]').",
        )


def _wait_until_ready(process: subprocess.Popen[bytes], ready: int, log: Path) -> None:
    """Until the child writes its address into the pipe; its death closes the pipe."""
    readable, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
    if not readable:
        process.kill()
        process.wait()
        _fail_to_start(log, f"it was not ready after {START_TIMEOUT_S:g} s")
    if not os.read(ready, 1024):
        _fail_to_start(log, f"it ended with exit code {process.wait()}")


def _fail_to_start(log: Path, what: str) -> NoReturn:
    lines = log.read_text(errors="replace").splitlines()[-LAST_LOG_LINES:]
    raise LocalEndpointError(
        "\n  ".join([f"Starting the local endpoint: {what}. Its last words:", *lines]),
        hint=f"The whole log is {log}. With LAUNCHER_LOCAL_PORT unset it takes any free port.",
    )


def _is_too_long(log: Path) -> bool:
    return log.exists() and log.stat().st_size > MAX_LOG_BYTES


def _make_environment() -> dict[str, str]:
    """This process's, without the way to any AWS account, and with proxies kept away from this machine.

    The proxies themselves stay: the jobs may need them.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, (environment.get(name), "127.0.0.1", "localhost")))
    # A checkout is importable only from its own folder, which is not where the endpoint runs.
    home = str(Path(__file__).parents[2])
    if home != sysconfig.get_path("purelib"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environment.get("PYTHONPATH"))))
    return environment


# Stopping


def _stop(root: Path) -> bool:
    card = load_card(root)
    if card is None or not send_signal(card.process, signal.SIGTERM):
        return False
    if not wait_for_end(card.process, STOP_TIMEOUT_S):
        send_signal(card.process, signal.SIGKILL)
        wait_for_end(card.process, STOP_TIMEOUT_S)
    return True


def _list_unfinished(root: Path) -> list[tuple[str, ProcessId | None]]:
    from launcher.local.jobs import JobBook  # here, since every command passes this module and few read the book

    path = root / "jobs.sqlite"
    if not path.exists():
        return []
    with closing(JobBook(path)) as book:
        names = [job["TrainingJobName"] for job in book.unfinished()]
        return [(name, book.runner(name)) for name in names]


def _kill_jobs(root: Path) -> None:
    for name, runner in _list_unfinished(root):
        if runner and send_signal(runner, signal.SIGKILL):
            wait_for_end(runner, STOP_TIMEOUT_S)
        kill_leftovers(root, name)


def _remove(root: Path) -> None:
    """Out of the way in one step, so that a reset cut short leaves no half of a state."""
    doomed = root.with_name(f"{root.name}.doomed-{os.getpid()}-{time.time_ns()}")
    if root.exists():
        root.rename(doomed)
    for folder in root.parent.glob(f"{root.name}.doomed-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _measure_folder(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += Path(parent, name).lstat().st_size
            except FileNotFoundError:
                continue  # a job that ends takes its files away
    return total
