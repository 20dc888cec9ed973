"""Money and doctor on the command line: a stubbed Price List, a terminal that answers, the local endpoint."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import pytest

SIGNED_IN = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-west-2"}
ROLE = "arn:aws:iam::123456789012:role/trainer"


@pytest.fixture
def price_list() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """AWS's Price List with one price for everything, and what it was asked."""
    asked: list[dict[str, Any]] = []
    terms = {"OnDemand": {"t": {"priceDimensions": {"d": {"unit": "Hrs", "pricePerUnit": {"USD": "2.0000000000"}}}}}}
    content = json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps({"terms": terms})]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_plan_asks_the_price_list_once_a_day_and_never_loads_the_sdk(price_list, tmp_path: Path) -> None:
    url, asked = price_list
    script = (
        "import sys; from launcher.aws import prices; prices.DEADLINE_S = 60;"
        "from launcher.cli import main; code = main(sys.argv[1:]);"
        "print('loaded', sorted({'sagemaker', 'torch', 'boto3'} & set(sys.modules))); sys.exit(code)"
    )
    words = [sys.executable, "-c", script, "plan", "--instance", "ml.g5.xlarge", "--max-cost", "4"]
    env = {**os.environ, **SIGNED_IN, "AWS_ENDPOINT_URL": url}
    for _ in range(2):
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "at most $4.00 ($2.000 an hour, AWS's price list for us-west-2, " in done.stdout
        assert "limit          7,080 s" in done.stdout
        assert "loaded []" in done.stdout
    (filters,) = [call["Filters"] for call in asked]
    assert {item["Field"]: item["Value"] for item in filters} == {
        "regionCode": "us-west-2",
        "component": "Training",
        "instanceName": "ml.g5.xlarge",
    }


def test_the_request_in_json_holds_the_limit_that_the_cost_sets(launch) -> None:
    done = launch("plan", "--instance", "ml.g5.xlarge", "--max-cost", "2", "--json")
    request = json.loads(done.stdout)
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 4993}
    assert request["HyperParameters"]["max_runtime_s"] == "4993"


def test_a_plan_that_cannot_fit_or_cannot_be_paid_is_refused_in_two_lines(launch) -> None:
    wide = ("--set", "model.load_in_4bit=false", "--set", "model.compute_dtype=float32")
    cases = (
        (("--model", "Qwen/Qwen2.5-7B", "--instance", "ml.g5.xlarge", *wide), "GiB of GPU memory"),
        (("--instance", "ml.g5.xlarge", "--max-cost", "0.01"), "buys 0 minutes"),
    )
    for words, text in cases:
        done = launch("plan", *words)
        assert done.returncode == 2
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 2


def test_a_missing_profile_is_one_error_and_no_traceback(launch) -> None:
    done = launch("plan", "--instance", "ml.g5.xlarge", AWS_PROFILE="nobody")
    assert done.returncode == 3
    assert "The config profile (nobody) could not be found" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "typed", "code", "asks"),
    [
        (("--set", "compute.confirm_above=0.01"), "n\n", 2, True),
        (("--set", "compute.confirm_above=0.01"), "y\n", 3, True),
        (("--set", "compute.confirm_above=0.01", "--yes"), "", 3, False),
        ((), "", 3, False),
    ],
)
def test_a_submit_asks_on_a_terminal_above_the_sum_and_goes_on_with_yes(
    tmp_path: Path, words: tuple[str, ...], typed: str, code: int, asks: bool
) -> None:
    """Exit code 3: it went on, to find that nobody is signed in."""
    returned, shown = submit_on_a_terminal(tmp_path, typed, "--instance", "ml.g5.xlarge", *words)
    assert returned == code, shown
    assert ("Submit it? [y/N]" in shown) == asks
    assert "at most $5.68 ($1.408 an hour, list price in us-east-1 from August 2026)" in shown
    assert ("nothing was sent" in shown) == (code == 2)


def test_a_submit_of_unknown_price_asks_whatever_the_sum(tmp_path: Path) -> None:
    returned, shown = submit_on_a_terminal(tmp_path, "n\n", "--instance", "ml.p4de.24xlarge")
    assert returned == 2
    assert "there is no price for ml.p4de.24xlarge here" in shown
    assert "Submit it? [y/N]" in shown


def submit_on_a_terminal(folder: Path, typed: str, *words: str) -> tuple[int, str]:
    owner, terminal = pty.openpty()
    command = [sys.executable, "-m", "launcher", "submit", *words]
    os.write(owner, typed.encode())
    with subprocess.Popen(command, cwd=folder, stdin=terminal, stdout=subprocess.DEVNULL, stderr=terminal) as submit:
        os.close(terminal)
        shown = read_all(owner)
    os.close(owner)
    return submit.returncode, shown


def read_all(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def test_without_a_terminal_nobody_is_asked(launch) -> None:
    done = launch("submit", "--instance", "ml.g5.xlarge", "--set", "compute.confirm_above=0.01")
    assert done.returncode == 3
    assert "ml.g5.xlarge: " in done.stderr
    assert "Submit it?" not in done.stderr


def test_doctor_says_what_the_local_endpoint_does_not_have(launch, endpoint) -> None:
    done = launch("doctor", "--instance", "local")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("-")] == [
        "role", "job", "permissions", "places", "quota", "image", "price",
    ]  # fmt: skip
    assert "arn:aws:sts::123456789012" in lines[0]


def test_doctor_collects_what_a_real_instance_would_meet_one_by_one(launch) -> None:
    done = launch("doctor", "--instance", "ml.g5.xlarge", "--json")
    assert done.returncode == 3
    states = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)}
    assert [name for name, state in states.items() if state == "missing"] == ["identity", "region"]
    assert states["role"] == states["bucket"] == "unknown"  # the account may have a stack that names both
    assert states["price"] == "ok"


def test_doctor_asks_an_account_that_an_endpoint_stands_in_for(launch, endpoint) -> None:
    """moto has roles and identities, and no quotas, prices or simulation: those are said to be unknown."""
    url = launch("local", "up").stdout.split()[0]
    session = botocore.session.get_session()
    session.set_credentials("local", "local")
    clients = {name: session.create_client(name, region_name="us-east-1", endpoint_url=url) for name in ("iam", "s3")}
    env = {**SIGNED_IN, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
    given = ("--set", "compute.role=trainer", "--set", "output.bucket=mine")
    words = ("doctor", "--instance", "ml.g5.xlarge", *given, "--json")
    before = {finding["name"]: finding for finding in json.loads(launch(*words, **env).stdout)}
    assert before["role"]["state"] == before["bucket"]["state"] == "missing"
    allow = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = {"Statement": [allow]}
    clients["iam"].create_role(RoleName="trainer", AssumeRolePolicyDocument=json.dumps(trust))
    clients["s3"].create_bucket(Bucket="mine")
    after = {finding["name"]: finding for finding in json.loads(launch(*words, **env).stdout)}
    assert after["role"]["text"] == f"{ROLE}, which SageMaker may assume"
    assert after["bucket"]["state"] == "ok"
    assert after["quota"]["state"] == "unknown"
