"""How soon the local endpoint is ready, and what it takes while idle, before and after CloudFormation was used.

python tests/bench/endpoint.py
python tests/bench/endpoint.py --repeat 5 --json
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
from typing import Any

MB = 1_000_000
TARGETS = {"ready_s": 1.0, "warm_call_s": 0.1, "idle_mb": 150, "idle_cloudformation_mb": 250}
TEMPLATE = {
    "Resources": {
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Topic": {"Type": "AWS::SNS::Topic"},
        "Bucket": {"Type": "AWS::S3::Bucket"},
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}},
        },
    }
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = [measure() for _ in range(options.repeat)]
    medians = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
    if options.json:
        print(json.dumps({"median": medians, "targets": TARGETS, "runs": runs}))
        return
    for name, value in medians.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else f"target {target}: {'met' if value <= target else 'MISSED'}"
        print(f"{name:24} {value:10.3f}   {verdict}")


def measure() -> dict[str, float]:
    """One fresh endpoint, used step by step."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        server, url = start(Path(folder) / "root")
        ready_s = time.perf_counter() - began
        try:
            return {"ready_s": ready_s} | use(url, server.pid)
        finally:
            server.terminate()
            server.wait(30)


def start(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    ready, ready_fd = os.pipe()
    command = [
        sys.executable,
        "-m",
        "launcher.local.server",
        "--root",
        str(root),
        "--ready-fd",
        str(ready_fd),
    ]
    server = subprocess.Popen(command, pass_fds=[ready_fd], stderr=subprocess.DEVNULL)
    os.close(ready_fd)
    with os.fdopen(ready) as pipe:
        url = pipe.read()
    if not url:
        sys.exit("The endpoint did not start.")
    return server, url


def use(url: str, pid: int) -> dict[str, float]:
    found = {"fresh_mb": memory_mb(pid)}
    s3, sagemaker = make_client(url, "s3"), make_client(url, "sagemaker")
    s3.create_bucket(Bucket="bench")
    s3.put_object(Bucket="bench", Key="key", Body=b"x" * MB)
    found["first_call_s"] = timed(sagemaker.list_training_jobs)
    found["warm_call_s"] = timed(sagemaker.list_training_jobs)
    found["first_moto_call_s"] = timed(make_client(url, "sts").get_caller_identity)
    make_client(url, "iam").list_roles()
    make_client(url, "secretsmanager").list_secrets()
    found["idle_mb"] = memory_mb(pid)
    cloudformation = make_client(url, "cloudformation")
    body = json.dumps(TEMPLATE)
    found["first_stack_s"] = timed(lambda: cloudformation.create_stack(StackName="bench", TemplateBody=body))
    make_client(url, "scheduler").list_schedules()
    make_client(url, "events").list_rules()
    found["idle_cloudformation_mb"] = memory_mb(pid)
    return found


def make_client(url: str, service: str) -> Any:
    import boto3

    session = boto3.Session("local", "local", region_name="us-east-1")
    return session.client(service, endpoint_url=url)


def timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB


if __name__ == "__main__":
    main()
