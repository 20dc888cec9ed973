"""Input that cannot be had, and a full disk."""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BUCKET = "bucket"


# Input that cannot be had


def test_channel_without_objects_fails_in_the_words_of_aws(site: Any) -> None:
    source = f"s3://{BUCKET}/data/nothing/"
    document = site.run(site.add_shell("empty", "echo never", InputDataConfig=[site.channel("train", source)]))
    assert document["TrainingJobStatus"] == "Failed"
    assert document["FailureReason"].startswith(
        f'ClientError: Data download failed:No S3 objects found under S3 URL "{source}"'
    )
    assert "never" not in site.log("empty")


@pytest.mark.parametrize("key", ["data/../../../escape", "data//etc/passwd", "data/a/../../../../escape"])
def test_key_that_would_leave_the_channel_is_refused(site: Any, key: str) -> None:
    site.put(key, "evil")
    job = site.add_shell("evil", "echo never", InputDataConfig=[site.channel("train", f"s3://{BUCKET}/data/")])
    reason = site.run(job)["FailureReason"]
    assert "does not stay inside the folder" in reason
    assert not list(site.root.rglob("escape"))


@pytest.mark.parametrize("manifest", ["{}", "[]", '["x"]', '[{"prefix": 1}]', "not json", '[{"prefix": "s3://b/"}, 3]'])
def test_malformed_manifest_is_refused(site: Any, manifest: str) -> None:
    site.put("data/list.manifest", manifest)
    source = site.channel("train", f"s3://{BUCKET}/data/list.manifest", "ManifestFile")
    reason = site.run(site.add_shell("malformed", "echo never", InputDataConfig=[source]))["FailureReason"]
    assert reason.startswith("ClientError: Data download failed:the manifest s3://")


def test_keys_that_cannot_be_files_side_by_side_are_refused(site: Any) -> None:
    site.put("data/a", "a file")
    site.put("data/a/b", "and a folder")
    job = site.add_shell("clash", "echo never", InputDataConfig=[site.channel("train", f"s3://{BUCKET}/data/")])
    assert "uses a part of its name as a file or a folder" in site.run(job)["FailureReason"]


def test_missing_code_is_a_client_error(site: Any) -> None:
    hyperparameters = {"sagemaker_submit_directory": f'"s3://{BUCKET}/no/sourcedir.tar.gz"'}
    reason = site.run(site.add_shell("codeless", "echo never", HyperParameters=hyperparameters))["FailureReason"]
    assert reason.startswith("ClientError: the code cannot be fetched")


@pytest.mark.parametrize("damage", [lambda data: b"text", lambda data: data[:-20], lambda data: data[:60]])
def test_damaged_code_is_a_client_error(site: Any, damage: Callable[[bytes], bytes]) -> None:
    hyperparameters = {"sagemaker_submit_directory": site.pack({"train.py": "pass\n" * 1000})}
    site.store.put(BUCKET, "source/sourcedir.tar.gz", io.BytesIO(damage(site.read("source/sourcedir.tar.gz"))))
    reason = site.run(site.add_shell("damaged", "echo never", HyperParameters=hyperparameters))["FailureReason"]
    assert reason.startswith("ClientError: the code in s3://") and "is not a tar.gz archive" in reason


def test_unmet_requirements_fail_before_anything_is_installed(site: Any) -> None:
    requirements = "# ours\nno-such-package-here>=2\n-r more.txt\n"
    files = {"requirements.txt": requirements, "more.txt": "pytest==0.1 ; python_version > '3'\npytest\n"}
    document = site.run(site.add_training("unmet", "report.py", files=files))
    reason = document["FailureReason"]
    assert reason.startswith("ClientError: the code has a requirements.txt")
    assert "no-such-package-here>=2 is not installed" in reason
    assert "pytest==0.1" in reason and reason.count("pytest") == 1
    assert "Training" not in site.statuses(document)


# A full disk


def limit_file_size() -> None:
    """The nearest thing to a full disk that needs no rights: writing past it fails with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


@pytest.mark.parametrize(
    ("stage", "script"),
    [
        ("Downloading", "echo never"),
        ("Training", "yes a line of the log | head -n 100000; sleep 300"),
        ("Uploading", "for i in 1 2 3; do head -c 900000 /dev/urandom > model/$i; done"),
    ],
)
def test_full_disk_is_said_and_leaves_nothing_behind(site: Any, stage: str, script: str) -> None:
    channels = []
    if stage == "Downloading":
        site.store.put(BUCKET, "data/big", io.BytesIO(bytes(3 << 20)))
        channels = [site.channel("train", f"s3://{BUCKET}/data/")]
    job = site.add_shell("full", f"cd $SAGEMAKER_BASE_DIR; {script}", InputDataConfig=channels)
    document = site.run(job, preexec_fn=limit_file_size)
    assert document["TrainingJobStatus"] == "Failed"
    reason = document["FailureReason"]
    assert reason.startswith("InternalServerError: no disk space left") and f"stage {stage}" in reason
    assert "Make room" in reason
    assert site.keys("output/") == []


def test_disk_that_is_really_full(tmp_path: Path, make_site: Callable[[Path], Any]) -> None:
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(root)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own takes the right to mount")
    try:
        site = make_site(root / "local")
        site.store.put(BUCKET, "data/big", io.BytesIO(bytes(4 << 20)))
        job = site.add_shell("full", "echo never", InputDataConfig=[site.channel("train", f"s3://{BUCKET}/data/")])
        reason = site.run(job)["FailureReason"]
        assert os.strerror(errno.ENOSPC) in reason and "Make room" in reason
        site.close()
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
