"""One job that tells what it was given: folders, arguments, environment, channels."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BUCKET = "bucket"
NO_ENDPOINT = "http://127.0.0.1:9"


@dataclasses.dataclass
class Reported:
    site: Any
    document: dict[str, Any]
    report: dict[str, Any]
    before: dict[str, Any]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, make_site: Callable[[Path], Any]) -> Iterator[Reported]:
    site = make_site(tmp_path_factory.mktemp("reported") / "local")
    for key in (
        "train/a.jsonl",
        "train/deep/b.jsonl",
        "train/",
        "eval.jsonl",
        "eval-old.jsonl",
        "m/x",
        "m/y/z",
    ):
        site.put(f"data/{key}", key)
    manifest = [{"prefix": f"s3://{BUCKET}/data/m/"}, "x", "y/z"]
    site.put("data/current.manifest", json.dumps(manifest))
    job = site.add_training(
        "report",
        "report.py",
        files={"requirements.txt": "pytest>=1\n"},
        HyperParameters={"lora_r": "16", "text": '"a b"', "bf16": "true"},
        Environment={
            "GREETING": "hello",
            "SAGEMAKER_BASE_DIR": "/nowhere",
            "PIP_NO_INDEX": "0",
            "TZ": "UTC+7",
        },
        InputDataConfig=[
            site.channel("train", f"s3://{BUCKET}/data/train/", ContentType="application/jsonlines"),
            site.channel("slash", f"s3://{BUCKET}/data/train"),
            site.channel("eval", f"s3://{BUCKET}/data/eval", InputMode="FastFile"),
            site.channel("file", f"s3://{BUCKET}/data/eval.jsonl"),
            site.channel("listed", f"s3://{BUCKET}/data/current.manifest", "ManifestFile"),
        ],
    )
    before = site.book.get(job)
    private = {"MY_SECRET": "s3cr3t", "AWS_PROFILE": "mine", "AWS_SECRET_ACCESS_KEY": "real", "TZ": "UTC"}
    document = site.run(job, env=os.environ | private)
    assert document["TrainingJobStatus"] == "Completed", (document, site.log(job), site.runner_log(job))
    report = json.loads(site.read_archive("output/report/output/model.tar.gz")["report.json"])
    yield Reported(site, document, report, before)
    site.close()


def test_job_completes_with_artifacts_and_aws_fields(reported: Reported) -> None:
    document = reported.document
    assert reported.site.statuses(document) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    uri = document["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/output/report/output/model.tar.gz"
    side = reported.site.read_archive("output/report/output/output.tar.gz")
    assert side == {"notes.txt": "a side result"}
    assert "FailureReason" not in document
    assert reported.report["environment"]["AWS_ENDPOINT_URL"] == NO_ENDPOINT
    assert "127.0.0.1" in reported.report["environment"]["NO_PROXY"].split(",")


def test_network_isolation_takes_the_hub_away(site: Any) -> None:
    site.run(site.add_shell("isolated", "echo offline: $HF_HUB_OFFLINE", EnableNetworkIsolation=True))
    assert "offline: 1" in site.log("isolated")


def test_arguments_without_an_entrypoint_go_to_the_images_own(site: Any) -> None:
    algorithm = {"ContainerArguments": ["echo", "one", "'two  three'"]}
    site.run(site.add("argued", AlgorithmSpecification=algorithm))
    assert "one two  three" in site.log("argued")


def test_times_are_those_of_the_run(reported: Reported) -> None:
    document = reported.document
    seconds = document["TrainingEndTime"] - document["TrainingStartTime"]
    assert 0 < seconds <= document["TrainingTimeInSeconds"] < seconds + 1
    assert document["BillableTimeInSeconds"] == document["TrainingTimeInSeconds"]


def test_stages_are_measured(reported: Reported) -> None:
    stages = json.loads((reported.site.root / "jobs/report/stages.json").read_text())
    assert [stage["stage"] for stage in stages] == ["Starting", "Downloading", "Training", "Uploading"]
    assert stages[2]["seconds"] > 0.5
    assert f"Training took {stages[2]['seconds']} s" in reported.site.runner_log("report")


def test_hyperparameters_become_arguments(reported: Reported) -> None:
    assert reported.report["arguments"] == ["--bf16", "True", "--lora_r", "16", "--text", "a b"]


def test_describe_keeps_the_address_of_the_code(reported: Reported) -> None:
    assert reported.document["HyperParameters"] == reported.before["HyperParameters"]
    inside = reported.report["config"]["hyperparameters.json"]["sagemaker_submit_directory"]
    assert inside.endswith('/opt/sourcedir.tar.gz"') and "s3://" not in inside


def test_request_environment_wins_but_not_over_what_the_toolkit_needs(reported: Reported) -> None:
    environment = reported.report["environment"]
    assert environment["GREETING"] == "hello"
    assert environment["TZ"] == "UTC+7"
    assert environment["SAGEMAKER_BASE_DIR"].endswith("/jobs/report/opt/ml")
    assert environment["PIP_NO_INDEX"] == "1"
    assert environment["TRAINING_JOB_NAME"] == "report"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_users_environment_does_not_leak(reported: Reported) -> None:
    environment = reported.report["environment"]
    assert "MY_SECRET" not in environment
    assert "AWS_PROFILE" not in environment
    assert environment["AWS_SECRET_ACCESS_KEY"] == "local"
    assert "s3cr3t" not in json.dumps(environment)
    assert "HF_HUB_OFFLINE" not in environment


def test_temporary_folder_leaves_room_for_a_sockets_path(reported: Reported) -> None:
    temporary = reported.report["environment"]["TMPDIR"]
    assert len(temporary) + len("/pymp-abcdefgh/listener-abcdefgh") < 108
    assert not os.path.lexists(temporary)


def test_links_of_killed_runners_are_removed(site: Any, tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    (temporary / "launcher-job-dead").symlink_to(tmp_path / "gone")
    (temporary / "launcher-job-alive").symlink_to(tmp_path)
    job = site.add_shell("tidy", "echo $TMPDIR; [ -d $TMPDIR ]")
    assert site.run(job, env=os.environ | {"TMPDIR": str(temporary)})["TrainingJobStatus"] == "Completed"
    assert any(line.startswith(str(temporary)) for line in site.log(job))
    assert [path.name for path in temporary.iterdir()] == ["launcher-job-alive"]


def test_channels_hold_what_s3_has_under_their_names(reported: Reported) -> None:
    channels = reported.report["channels"]
    assert channels == {
        "train/a.jsonl": "train/a.jsonl",
        "train/deep/b.jsonl": "train/deep/b.jsonl",
        "slash/a.jsonl": "train/a.jsonl",
        "slash/deep/b.jsonl": "train/deep/b.jsonl",
        "eval/eval.jsonl": "eval.jsonl",
        "eval/eval-old.jsonl": "eval-old.jsonl",
        "file/eval.jsonl": "eval.jsonl",
        "listed/x": "m/x",
        "listed/y/z": "m/y/z",
    }


def test_container_is_told_its_channels_and_host(reported: Reported) -> None:
    config = reported.report["config"]
    assert config["inputdataconfig.json"]["train"]["ContentType"] == "application/jsonlines"
    assert config["inputdataconfig.json"]["eval"]["TrainingInputMode"] == "File"
    assert config["resourceconfig.json"]["current_host"] == "algo-1"
    assert config["resourceconfig.json"]["current_instance_type"] == "ml.g5.xlarge"


def test_log_has_the_jobs_lines_and_says_what_is_different_here(reported: Reported) -> None:
    lines = reported.site.log("report")
    assert lines[0].startswith("[launcher] This machine is not the image 2.8.0-transformers4.56.2")
    assert any("eval is FastFile" in line and line.startswith("[launcher]") for line in lines)
    assert "100%" in lines and not any("50%" in line for line in lines)
    assert "caf\N{REPLACEMENT CHARACTER}" in lines
    assert " " in lines and "" not in lines


def test_last_value_of_each_metric_is_final(reported: Reported) -> None:
    (metric,) = reported.document["FinalMetricDataList"]
    assert (metric["MetricName"], metric["Value"]) == ("loss", 0.25)
