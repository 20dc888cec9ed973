"""Other people's tools against the local endpoint: a plain boto3 script, the SDK's own estimator, awscli."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.local.lifecycle import ensure_endpoint

ROLE = "arn:aws:iam::123456789012:role/anyone"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:mine"
# One write for a line: the toolkit breaks it between two.
TRAIN = """
import os, pathlib
os.write(1, f"hello from {os.environ['SM_CURRENT_HOST']}\\n".encode())
pathlib.Path(os.environ["SM_MODEL_DIR"], "result.txt").write_text("done")
"""


@pytest.fixture
def signed_in(endpoint: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What anybody sets to point AWS tools at the endpoint."""
    url = ensure_endpoint().url
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anything")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    return url


def bundle() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("train.py")
        entry.size = len(TRAIN.encode())
        archive.addfile(entry, io.BytesIO(TRAIN.encode()))
    return buffer.getvalue()


def test_a_plain_boto3_script_trains_and_downloads(signed_in: str) -> None:
    import boto3

    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    s3.create_bucket(Bucket="plain")
    s3.put_object(Bucket="plain", Key="code/sourcedir.tar.gz", Body=bundle())
    s3.put_object(Bucket="plain", Key="rows/rows.jsonl", Body=b"{}\n")
    source: dict[str, Any] = {"S3DataType": "S3Prefix", "S3Uri": "s3://plain/rows/"}
    sagemaker.create_training_job(
        TrainingJobName="plain-boto3",
        RoleArn=ROLE,
        AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        HyperParameters={
            "sagemaker_program": json.dumps("train.py"),
            "sagemaker_submit_directory": json.dumps("s3://plain/code/sourcedir.tar.gz"),
        },
        InputDataConfig=[{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": "s3://plain/output"},
        ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 600},
    )
    deadline = time.monotonic() + 120
    while (job := sagemaker.describe_training_job(TrainingJobName="plain-boto3"))["TrainingJobStatus"] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    model = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(model)) as archive:
        assert archive.getnames() == ["result.txt"]


def test_the_sdks_own_estimator_waits_and_follows(signed_in: str, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(TRAIN)
    script = f"""
import boto3, sagemaker
from sagemaker.huggingface import HuggingFace
boto3.client("s3").create_bucket(Bucket="sdk")
estimator = HuggingFace(
    entry_point="train.py", source_dir="src", role={ROLE!r}, instance_type="ml.g5.xlarge", instance_count=1,
    transformers_version="4.56.2", pytorch_version="2.8.0", py_version="py312",
    sagemaker_session=sagemaker.Session(default_bucket="sdk", sagemaker_config={{
        "SchemaVersion": "1.0", "SageMaker": {{"PythonSDK": {{"Modules": {{"TelemetryOptOut": True}}}}}}}}),
)
estimator.fit(wait=True)
print("MODEL", estimator.model_data)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hello from algo-1" in done.stdout
    assert "MODEL s3://sdk/" in done.stdout


def test_awscli_describes_the_job(signed_in: str, launch, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "hello"}\n')
    words = ("--instance", "local", "--name", "for-awscli", "--train", "rows.jsonl", "--set", "data.eval=")
    started = launch("submit", *words, "--detach")
    assert started.returncode == 0, started.stderr
    name = started.stdout.strip()
    aws = [str(Path(sys.executable).with_name("aws")), "--endpoint-url", signed_in, "--output", "json"]
    done = subprocess.run(
        [*aws, "sagemaker", "describe-training-job", "--training-job-name", name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["TrainingJobName"] == name
    assert launch("stop", name).returncode == 0
