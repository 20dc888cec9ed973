"""From Enter to CreateTrainingJob accepted: `launcher submit` beside a plain SDK v2 script that checks nothing.

    python tests/bench/submit.py [--json] [--runs 7]

Both send the same job to the same local endpoint, warm (data and code are there already), in alternating runs; the
figure is the ratio of the medians. The clock stops when the endpoint has the job, by its own CreationTime; each job is
stopped before the next run.
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

LIMIT = 1.1
# What a user would write by hand: no check of rows, no plan, no look at earlier jobs.
PLAIN = """
import boto3, sagemaker, sys
from sagemaker.huggingface import HuggingFace
from sagemaker.inputs import TrainingInput
name, bucket, role, code, train, hub = sys.argv[1:]
session = sagemaker.Session(default_bucket=bucket)
estimator = HuggingFace(
    entry_point="train.py", source_dir=code, role=role, instance_type="ml.g5.xlarge", instance_count=1,
    pytorch_version="2.8.0", transformers_version="4.56.2", py_version="py312", output_path=f"s3://{bucket}/launcher/output",
    checkpoint_s3_uri=f"s3://{bucket}/launcher/checkpoints/{name}/", disable_profiler=True, debugger_hook_config=False,
    volume_size=100, max_run=86400, sagemaker_session=session, container_entry_point=["true"],
    hyperparameters={"model_name_or_path": hub, "smoke": True, "max_steps": 20},
)
estimator.fit({"train": TrainingInput(train)}, job_name=name, wait=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.runs)
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':<18} {'median s':>9}  all runs")
    for name in ("launcher submit", "plain SDK script"):
        runs = result[name]
        print(f"{name:<18} {statistics.median(runs):>9.3f}  {' '.join(f'{seconds:.2f}' for seconds in sorted(runs))}")
    print(f"ratio {result['ratio']:.2f}, at most {LIMIT}")


def measure(runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        env = _environment(folder)
        try:
            client = _prepare(folder, env)
            ours, plain = [], []
            for number in range(runs + 1):
                ours.append(_time_ours(number, folder, env, client))
                plain.append(_time_plain(number, folder, env, client))
            ours, plain = ours[1:], plain[1:]  # the first of each uploads, and warms the disk's cache
        finally:
            _launch(["local", "reset", "--force"], folder, env)
    ratio = statistics.median(ours) / statistics.median(plain)
    return {"launcher submit": ours, "plain SDK script": plain, "ratio": ratio, "limit": LIMIT}


def _environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LAUNCHER_"))}
    return clean | {
        "LAUNCHER_HOME": str(folder / "home"),
        "LAUNCHER_LOCAL_GRACE_S": "1",
        "LAUNCHER_ROLE": "bench",
        "LAUNCHER_BUCKET": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }


def _prepare(folder: Path, env: dict[str, str]) -> Any:
    """An endpoint with a bucket. moto answers STS there, and is loaded before the clock runs."""
    import boto3

    url = _launch(["local", "up"], folder, env).strip()
    env["AWS_ENDPOINT_URL"] = url
    session = boto3.Session("bench", "bench", region_name="us-east-1")
    session.client("s3", endpoint_url=url).create_bucket(Bucket="bench")
    session.client("sts", endpoint_url=url).get_caller_identity()
    return session.client("sagemaker", endpoint_url=url)


def _time_ours(number: int, folder: Path, env: dict[str, str], client: Any) -> float:
    words = ["submit", "--instance", "ml.g5.xlarge", "--smoke", "--name", f"ours{number}", "--detach"]
    began = time.time()
    name = _launch(words, folder, env).strip()
    seconds = _accepted_at(client, name) - began
    _end(client)
    return seconds


def _time_plain(number: int, folder: Path, env: dict[str, str], client: Any) -> float:
    ours = client.describe_training_job(TrainingJobName=_newest(client))
    channels = {item["ChannelName"]: item["DataSource"]["S3DataSource"]["S3Uri"] for item in ours["InputDataConfig"]}
    hyperparameters = {key: json.loads(value) for key, value in ours["HyperParameters"].items()}
    name = f"plain{number}"
    words = [
        name,
        "bench",
        ours["RoleArn"],
        hyperparameters["sagemaker_submit_directory"],
        channels["train"],
        hyperparameters["model_name_or_path"],
    ]
    began = time.time()
    _run([sys.executable, "-c", PLAIN, *words], folder, env)
    seconds = _accepted_at(client, name) - began
    _end(client)
    return seconds


def _newest(client: Any) -> str:
    found = client.list_training_jobs(SortBy="CreationTime", SortOrder="Descending", NameContains="ours")
    return str(found["TrainingJobSummaries"][0]["TrainingJobName"])


def _accepted_at(client: Any, name: str) -> float:
    return float(client.describe_training_job(TrainingJobName=name)["CreationTime"].timestamp())


def _end(client: Any) -> None:
    """Stop the jobs, so that none trains while the next one is timed."""
    live = [
        job["TrainingJobName"] for job in client.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]
    ]
    for name in live:
        client.stop_training_job(TrainingJobName=name)
    deadline = time.monotonic() + 60
    while (
        client.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]
        or client.list_training_jobs(StatusEquals="Stopping")["TrainingJobSummaries"]
    ):
        if time.monotonic() > deadline:
            raise SystemExit("jobs of the benchmark do not end")
        time.sleep(0.2)


def _launch(words: list[str], folder: Path, env: dict[str, str]) -> str:
    return _run([sys.executable, "-m", "launcher", *words], folder, env)


def _run(words: list[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words[1:4]} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
