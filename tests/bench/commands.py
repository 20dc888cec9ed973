"""How long a user waits: --help, status, list, plan, and a whole submit against the local endpoint; plan with a price
and doctor against stand-ins for AWS that answer after a tenth of a second.

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
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

LIMITS_S = {"--help": 0.15, "status": 0.6, "list": 0.6, "plan": 1.2, "plan $": 1.2, "doctor": 3.0, "submit": 30.0}


def time_command(words: list[str], folder: Path, env: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return seconds


class Aws(BaseHTTPRequestHandler):
    """Every service that doctor and plan ask, as a network away."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._answer(self._find(self.headers.get("X-Amz-Target", "") + body))

    def do_HEAD(self) -> None:
        self._answer("")

    def do_GET(self) -> None:
        page = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256"
        page += "</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
        self._answer(page if "encryption" in self.path else "{}")

    def _find(self, asked: str) -> str:
        return next(answer for mark, answer in ANSWERS.items() if mark in asked)

    def _answer(self, text: str) -> None:
        time.sleep(0.1)
        self.send_response(200)
        self.send_header("x-amz-bucket-region", "us-east-1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        pass


TERMS = {"OnDemand": {"t": {"priceDimensions": {"d": {"pricePerUnit": {"USD": "1.408"}}}}}}
TRUST = '{"Statement":[{"Effect":"Allow","Principal":{"Service":"sagemaker.amazonaws.com"},"Action":"sts:AssumeRole"}]}'
ARN = "arn:aws:iam::111122223333:role/trainer"
QUOTAS = [f"ml.g5.xlarge for {use} usage" for use in ("training job", "spot training job", "training warm pool")]
ANSWERS = {
    "GetProducts": json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps({"terms": TERMS})]}),
    "ListServiceQuotas": json.dumps({"Quotas": [{"QuotaName": name, "QuotaCode": "L", "Value": 1} for name in QUOTAS]}),
    "BatchGetImage": '{"images": [{"registryId": "763104351884"}]}',
    "GetCallerIdentity": "<R><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/me</Arn>"
    "<Account>111122223333</Account></GetCallerIdentityResult></R>",
    "GetRole": f"<R><GetRoleResult><Role><Arn>{ARN}</Arn><AssumeRolePolicyDocument>{quote(TRUST)}"
    "</AssumeRolePolicyDocument></Role></GetRoleResult></R>",
    "SimulatePrincipalPolicy": "<R><SimulatePrincipalPolicyResult><EvaluationResults><member><EvalActionName>x:y"
    "</EvalActionName><EvalDecision>allowed</EvalDecision></member></EvaluationResults></SimulatePrincipalPolicyResult></R>",
}


def time_one(label: str, words: list[str], folder: Path, env: dict[str, str]) -> float:
    """Those that ask AWS get stand-ins, and a home without yesterday's answers."""
    if label not in ("plan $", "doctor"):
        return time_command(words, folder, env)
    with ThreadingHTTPServer(("127.0.0.1", 0), Aws) as server, tempfile.TemporaryDirectory() as home:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        signed_in = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        place = {"AWS_ENDPOINT_URL": url, "HF_ENDPOINT": url, "LAUNCHER_HOME": home}
        site = {"LAUNCHER_ROLE": ARN, "LAUNCHER_BUCKET": "my-bucket"}
        seconds = time_command(words, folder, {**env, **signed_in, **place, **site})
        server.shutdown()
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
            "plan $": ([*launcher, "plan", "--instance", "ml.g5.xlarge", "--max-cost", "5"], runs),
            "doctor": ([*launcher, "doctor", "--instance", "ml.g5.xlarge"], runs),
            "submit": (submit, max(2, runs // 3)),
        }
        rows = []
        for label, (words, count) in commands.items():
            pairs = [(time_one(label, words, folder, env), time_command(bare, folder, env)) for _ in range(count)]
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
