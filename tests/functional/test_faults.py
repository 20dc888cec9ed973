"""Bad input and faults through the command line: one error with a fix, the right exit code, nothing half-done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROW = {"text": "### Human: hello\n### Assistant: hello to you."}


@pytest.fixture
def own_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch) -> Iterator[Path]:
    """An endpoint that this test may kill."""
    home = tmp_path / "state"
    monkeypatch.setenv("LAUNCHER_HOME", str(home))
    monkeypatch.setenv("LAUNCHER_LOCAL_GRACE_S", "3")
    assert launch("local", "up").returncode == 0
    yield home / "local"
    assert launch("local", "reset", "--force").returncode == 0


def kill_endpoint() -> None:
    from launcher.local.lifecycle import find_endpoint
    from launcher.local.processes import find_process

    endpoint = find_endpoint()
    assert endpoint is not None
    os.kill(endpoint.pid, signal.SIGKILL)
    wait_until(lambda: find_process(endpoint.pid) is None)


def wait_until(condition: Callable[[], object], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The launcher in the background; ended with the test."""
    with ExitStack() as stack:

        def begin(*args: str) -> subprocess.Popen[str]:
            process = stack.enter_context(_start(tmp_path, *args))
            stack.callback(process.kill)
            return process

        yield begin


def _start(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["submit", "absent.toml"], 2, "There is no recipe absent.toml"),
        (["submit", "--set", "lora.rr=8"], 2, "Did you mean lora.r?"),
        (["submit", "--set", "lora.r=many"], 2, "must be of type int"),
        (["submit", "--train", "absent.jsonl"], 2, "does not exist"),
        (["submit", "--train", "empty.jsonl"], 2, "is empty"),
        (["submit", "--train", "bad.jsonl"], 2, "bad.jsonl:1: unknown shape"),
        (["submit", "--name", "a" * 60], 2, "60 characters"),
        (["submit", "--instance", "ml.g5.xlarge"], 3, "No AWS credentials were found"),
        (["status", "nobody"], 2, "There is no job 'nobody'"),
        (["fetch", "nobody"], 2, "There is no job 'nobody'"),
        (["submit", "--instance", "local", "--model", "org/unheard-of"], 2, "the Hub cannot be reached"),
        (["submit", "--instance", "local", "--no-smoke"], 2, "the Hub cannot be reached"),
        (["plan", "--set", "image.version=1.0"], 2, "the known images are"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_is_one_error_with_a_fix(
    launch, endpoint, tmp_path: Path, args: list[str], code: int, says: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"txt": "x"}\n')
    done = launch(*args, AWS_REGION="us-east-1")
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "  -> " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_instance_needs_a_role_and_a_bucket(launch, endpoint) -> None:
    from launcher.local.lifecycle import ensure_endpoint

    signed_in = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
    signed_in["AWS_ENDPOINT_URL"] = ensure_endpoint().url  # where no stack of the launcher's is
    signed_in["AWS_ENDPOINT_URL_PRICING"] = "http://127.0.0.1:9"  # nobody there
    done = launch("submit", "--instance", "ml.g5.xlarge", **signed_in)
    assert done.returncode == 3
    assert "needs a role and bucket" in done.stderr
    assert "compute.role" in done.stderr


def test_a_refused_channel_uploads_nothing(launch, endpoint, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps(ROW) + "\n{}\n")
    before = _uploads()
    assert launch("submit", "--instance", "local", "--train", "bad.jsonl", "--name", "bad-channel").returncode == 2
    assert _uploads() == before
    assert "bad-channel" not in launch("list").stdout


def _uploads() -> list[str]:
    """What submits have put there; a job of another test may still write what it leaves."""
    return sorted(key for key in list_objects() if "/data/" in key or "/source/" in key)


def list_objects() -> Iterator[str]:
    from launcher.aws.s3 import iter_keys
    from launcher.aws.session import open_session
    from launcher.aws.site import LOCAL_SITE, find_site
    from launcher.recipe import load_recipe

    session = open_session("local")
    find_site(session, load_recipe(None, {"compute.instance": "local"}))
    yield from iter_keys(session, LOCAL_SITE.bucket, "")


def test_of_two_submits_at_once_exactly_one_starts(endpoint, start, launch) -> None:
    words = ("submit", "--instance", "local", "--name", "twins", "--detach")
    twins = [start(*words) for _ in range(2)]
    results = [(twin.communicate(timeout=120), twin.returncode) for twin in twins]
    assert sorted(code for _, code in results) == [0, 2], results
    jobs = [job["name"] for job in json.loads(launch("list", "--json").stdout) if job["name"].startswith("twins-")]
    assert len(jobs) == 1
    assert launch("stop", jobs[0]).returncode == 0
    assert launch("wait", jobs[0]).returncode in (0, 5)


def test_an_endpoint_killed_in_the_middle_of_an_upload_leaves_nothing_that_looks_whole(
    own_endpoint: Path, tmp_path: Path, launch, start
) -> None:
    big = tmp_path / "big.jsonl"
    row = json.dumps({"text": "word " * 20_000}) + "\n"
    big.write_text(row * 2_000)
    words = ("submit", "--instance", "local", "--name", "cut", "--train", str(big), "--detach")
    submit = start(*words)
    wait_until(lambda: sum(file.stat().st_size for file in _files(own_endpoint / "s3")) > 40_000_000)
    kill_endpoint()
    _, talk = submit.communicate(timeout=120)
    assert submit.returncode == 3, talk
    assert "uploading" in talk
    assert launch("local", "up").returncode == 0
    assert not [key for key in list_objects() if "/data/train/" in key]


def _files(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                path.stat()
                found.append(path)
        except FileNotFoundError:
            continue  # a temporary file that was there a moment ago
    return found


def test_an_endpoint_killed_in_the_middle_of_a_job_does_not_harm_it(own_endpoint: Path, launch, start) -> None:
    submit = start("submit", "--instance", "local", "--name", "orphan")
    for line in submit.stderr or []:
        if line.startswith("[metrics] step=3/"):
            break
    kill_endpoint()
    _, talk = submit.communicate(timeout=120)
    assert submit.returncode == 3
    assert "launcher logs -f orphan-" in talk
    waited = launch("wait", "orphan", "--json")  # the first command that needs the endpoint starts it again
    assert waited.returncode == 0, waited.stderr
    assert json.loads(waited.stdout)["status"] == "completed"
    assert launch("fetch", "orphan").returncode == 0


def test_a_cut_download_is_gone_on_with(own_endpoint: Path, tmp_path: Path) -> None:
    from launcher.aws import s3
    from launcher.aws.session import open_session
    from launcher.errors import CloudError
    from launcher.results.adapters import _download

    session = open_session("local")
    session.client("s3").create_bucket(Bucket="downloads")
    content = os.urandom(40_000_000)  # more than sockets hold: what a killed server has sent still arrives
    s3.put_bytes(session, content, "downloads", "model.tar.gz")
    info = s3.find_object(session, "downloads", "model.tar.gz")
    assert info is not None
    counted: list[int] = []

    class Tracker:
        def __init__(self, name: str, size: int) -> None:
            self.kill = not counted

        def __enter__(self) -> Callable[[int], None]:
            return self.advance

        def __exit__(self, *error: object) -> None:
            pass

        def advance(self, count: int) -> None:
            counted.append(count)
            if self.kill and sum(counted) > 2_000_000:
                kill_endpoint()
                self.kill = False

    folder = tmp_path / "out"
    with pytest.raises(CloudError, match="downloading"):
        _download(session, "downloads", "model.tar.gz", info, folder, Tracker)
    (part,) = folder.glob(".model-*.part")
    done = part.stat().st_size
    assert 2_000_000 < done < len(content)
    counted.append(0)
    part = _download(open_session("local"), "downloads", "model.tar.gz", info, folder, Tracker)
    assert part.read_bytes() == content
