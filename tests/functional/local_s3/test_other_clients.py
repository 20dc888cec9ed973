"""awscli and the SageMaker SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MIB = 1 << 20


@pytest.fixture
def aws(url: str, tmp_path: Path) -> Callable[..., str]:
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "awscli", *arguments]
        env = {**os.environ, **environment}
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_awscli(aws: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_text("1")
    (folder / "sub" / "zwei ü").write_bytes(b"2" * 9 * MIB)
    aws("s3", "mb", "s3://fresh")
    aws("s3", "sync", "folder", "s3://fresh/f")
    lines = aws("s3", "ls", "--recursive", "s3://fresh").splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == ["1 f/one", f"{9 * MIB} f/sub/zwei ü"]
    assert aws("s3", "sync", "folder", "s3://fresh/f") == ""
    aws("s3", "cp", "--recursive", "s3://fresh/f", "back")
    assert (tmp_path / "back" / "sub" / "zwei ü").read_bytes() == b"2" * 9 * MIB
    aws("s3", "rb", "--force", "s3://fresh")
    assert "fresh" not in aws("s3", "ls")


SAGEMAKER_SCRIPT = """
import sys, boto3
from sagemaker import Session
from sagemaker.s3 import S3Downloader, S3Uploader
session = Session(boto3.Session(region_name="us-east-1"), default_bucket="made-by-the-sdk")
assert session.default_bucket() == "made-by-the-sdk"
uri = session.upload_data("data", key_prefix="prefix", extra_args={"ServerSideEncryption": "aws:kms"})
S3Uploader.upload_string_as_file_body("text", uri + "/text", sagemaker_session=session)
assert sorted(S3Downloader.list(uri, sagemaker_session=session)) == [uri + "/a", uri + "/text"]
S3Downloader.download(uri, "down", sagemaker_session=session)
"""


def test_sagemaker_sdk_uploads_and_downloads(url: str, tmp_path: Path) -> None:
    pytest.importorskip("sagemaker", reason="comes with the aws and local extras")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("bytes")
    settings = {"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_S3": url, "NO_PROXY": "127.0.0.1"}
    secrets = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    command = [sys.executable, "-c", SAGEMAKER_SCRIPT]
    env = {**os.environ, **settings, **secrets}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in (tmp_path / "down").iterdir()} == {"a": "bytes", "text": "text"}
