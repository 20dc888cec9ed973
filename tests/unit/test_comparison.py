"""Jobs side by side: from folders, from archives in S3, below the base that each was weighed against."""

from __future__ import annotations

import io
import json
import random
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from launcher.aws.session import Session
from launcher.cli import main
from launcher.errors import ArtifactError
from launcher.job import Job
from launcher.results.comparison import HEAD, Results, compare, load_results

NAME = "exp-001-20260102-000000"
ETAG = '"etag"'


def measures(loss: float, perplexity: float, accuracy: float) -> dict[str, Any]:
    found = {"loss": loss, "perplexity": perplexity, "token_accuracy": accuracy}
    return {name: {"value": value, "low": value * 0.9, "high": value * 1.1} for name, value in found.items()}


def notes(loss: float = 1.8, base: float = 2.15, evaluated: bool = True, **manifest: Any) -> dict[str, Any]:
    """What train.py leaves beside an adapter."""
    found: dict[str, Any] = {
        "manifest.json": {
            "recipe_name": "exp-001",
            "outcome": "completed",
            "reason": "",
            "steps_done": 908,
            "base_model": {"held_as": "4 bits"},
            "config": {"model_name_or_path": "org/tiny", "smoke": False},
        }
        | manifest,
        "metrics.json": {"peak_memory_gib": 6.571, "seconds": 1234.5, "loss": 1.7},
    }
    if evaluated:
        found["evaluation.json"] = {
            "evaluated_on": "test",
            "rows": 29,
            "tokens": 2977,
            "verdict": "better",
            "base": measures(base, 8.6, 0.5),
            "tuned": measures(loss, 6.05, 0.55),
        }
    return found


def write(folder: Path, found: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, content in found.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def encoded(found: dict[str, Any]) -> dict[str, bytes]:
    return {name: json.dumps(content).encode() for name, content in found.items()}


def fetch(packed: bytes, folder: Path, status: str = "Completed", reads: bool = True) -> tuple[Results, int]:
    """The results of a job whose archive lies in S3, and how many bytes of it were taken."""
    taken: list[int] = []

    class Track:
        def __init__(self, name: str, size: int) -> None:
            assert size == len(packed)

        def __enter__(self) -> Any:
            return taken.append

        def __exit__(self, *args: Any) -> None:
            pass

    session = Session("aws", "us-east-1", credentials=("key", "secret"))
    described = {
        "TrainingJobName": NAME,
        "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{NAME}",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/out/model.tar.gz"},
        "TrainingJobStatus": status,
        "SecondaryStatus": status,
        "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "CreationTime": datetime(2026, 1, 2, tzinfo=UTC),
    }
    place = {"Bucket": "b", "Key": "out/model.tar.gz"}
    with Stubber(session.client("sagemaker")) as sagemaker, Stubber(session.client("s3")) as s3:
        sagemaker.add_response("describe_training_job", described, {"TrainingJobName": NAME})
        if status == "Completed":
            for _ in range(2):
                s3.add_response("head_object", {"ContentLength": len(packed), "ETag": ETAG}, place)
        if reads:
            body = StreamingBody(io.BytesIO(packed), len(packed))
            s3.add_response("get_object", {"Body": body}, {**place, "Range": "bytes=0-", "IfMatch": ETAG})
        found = Job(NAME, session).results(folder, Track)
        s3.assert_no_pending_responses()
    return found, sum(taken)


def test_three_jobs_stand_below_the_base_they_share(tmp_path: Path) -> None:
    losses = {"one": 1.8, "two": 1.7, "three": 1.75}
    # padding to another width moves a loss in bfloat16 a little
    bases = {"one": 2.15, "two": 2.1504, "three": 2.15}
    found = compare([load_results(write(tmp_path / name, notes(losses[name], bases[name]))) for name in losses])
    assert found.rows() == [
        ("base org/tiny, 4 bits, 29 test rows", "", "0", "", "", "", "2.1500", "8.6", "50.0%", ""),
        ("one", "completed", "908", "6.57", "1,234", "1.7000", "1.8000", "6.05", "55.0%", "better"),
        ("two", "completed", "908", "6.57", "1,234", "1.7000", "1.7000", "6.05", "55.0%", "better"),
        ("three", "completed", "908", "6.57", "1,234", "1.7000", "1.7500", "6.05", "55.0%", "better"),
    ]
    assert {len(row) for row in found.rows()} == {len(HEAD)}
    assert found.notes() == []
    assert "<td" in found._repr_html_()


@pytest.mark.parametrize(
    "other",
    [
        notes(base=2.3),
        notes(base_model={"held_as": "float16"}),
        notes(config={"model_name_or_path": "org/other", "smoke": False}),
        notes(config={"model_name_or_path": "org/tiny", "smoke": True}),
    ],
    ids=["another loss", "held otherwise", "another model", "a stand-in"],
)
def test_what_cannot_be_compared_has_a_base_of_its_own(tmp_path: Path, other: dict[str, Any]) -> None:
    folders = [write(tmp_path / "a", notes()), write(tmp_path / "b", other), write(tmp_path / "c", notes())]
    found = compare([load_results(folder) for folder in folders])
    names = [row[0].partition(" ")[0] for row in found.rows()]
    assert names == ["base", "a", "c", "base", "b"]
    assert [found.place(job) for job in found.jobs] == [0, 1, 0]
    assert "weighed against 2 bases" in found.notes()[0]


def test_a_job_without_a_final_evaluation_says_why(tmp_path: Path) -> None:
    stopped = notes(evaluated=False, outcome="stopped", reason="the time limit is near")
    folders = [write(tmp_path / "stopped", stopped), write(tmp_path / "whole", notes())]
    found = compare([load_results(folder) for folder in folders])
    assert [row[0].partition(" ")[0] for row in found.rows()] == ["base", "whole", "stopped"]
    assert found.rows()[-1][-4:] == ("-", "-", "-", "")
    assert found.notes() == ["stopped stopped without a final evaluation (the time limit is near)"]


def test_an_adapter_chosen_by_the_rows_it_is_scored_on_is_told(tmp_path: Path) -> None:
    chosen = notes()
    chosen["evaluation.json"]["chosen_by_these_rows"] = True
    folders = [write(tmp_path / "a", notes()), write(tmp_path / "b", chosen)]
    found = compare([load_results(folder) for folder in folders])
    assert [note.split()[0] for note in found.notes()] == ["b"]


@pytest.mark.parametrize("written", ["Infinity", "null", '"inf"'])
def test_a_number_that_json_has_not_is_no_obstacle(tmp_path: Path, written: str) -> None:
    folder = write(tmp_path / "a", notes())
    text = (folder / "evaluation.json").read_text().replace("6.05", written, 1)
    (folder / "evaluation.json").write_text(text)
    found = compare([load_results(folder)])
    assert found.rows()[1][7] in ("-", "inf")
    json.dumps(found.describe(), allow_nan=False)


def test_an_archive_is_read_no_further_than_its_numbers(tmp_path: Path) -> None:
    weights = random.Random(0).randbytes(6_000_000)
    found, taken = fetch(archive({**encoded(notes()), "adapter_model.safetensors": weights}), tmp_path / "none")
    assert found.job == NAME
    assert found.row()[1:4] == ("completed", "908", "6.57")
    assert 0 < taken < 3_000_000
    assert not (tmp_path / "none").exists()


def test_numbers_at_the_end_of_an_archive_are_found(tmp_path: Path) -> None:
    files = {"./adapter_model.safetensors": random.Random(0).randbytes(2_500_000)}
    files |= {f"./{name}": content for name, content in encoded(notes(evaluated=False)).items()}
    found, _ = fetch(archive(files), tmp_path)
    assert (found.base, found.verdict) == (None, "")


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", notes(loss=1.5))
    (folder / ".fetched.json").write_text(json.dumps({"uri": "s3://b/out/model.tar.gz", "etag": ETAG}))
    found, _ = fetch(b"", folder, reads=False)
    assert (found.job, found.measures["loss"]["value"]) == (NAME, 1.5)
    (folder / ".fetched.json").write_text(json.dumps({"uri": "s3://b/out/model.tar.gz", "etag": "older"}))
    assert fetch(archive(encoded(notes())), folder)[0].measures["loss"]["value"] == 1.8


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"no archive", "damaged"),
        (archive(encoded(notes()))[:-40], "damaged"),
        (archive({"adapter_config.json": b"{}"}), "holds no manifest.json"),
        (archive({**encoded(notes()), "metrics.json": b"{"}), "cannot be read"),
        (archive({**encoded(notes()), "manifest.json": b"{}"}), "cannot be read"),
    ],
)
def test_an_archive_without_numbers_is_refused(tmp_path: Path, packed: bytes, says: str) -> None:
    with pytest.raises(ArtifactError, match=says) as caught:
        fetch(packed, tmp_path)
    assert caught.value.hint


def test_a_job_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="its model comes at the end"):
        fetch(b"", tmp_path, status="InProgress", reads=False)


def test_the_command_takes_folders_and_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(write(tmp_path / name, notes(loss))) for name, loss in (("one", 1.8), ("two", 1.7))]
    assert main(["compare", *folders]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["JOB", "base", "one", "two"]
    assert "PERPLEXITY" in lines[0]
    assert main(["compare", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bases"][0]["perplexity"]["value"] == 8.6
    assert [(job["job"], job["base"], job["loss"]["value"]) for job in found["jobs"]] == [
        ("one", 0, 1.8),
        ("two", 0, 1.7),
    ]
    assert found["jobs"][0]["peak_memory_gib"] == 6.571


def test_a_folder_without_numbers_is_taken_for_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "empty"), "--at", "aws"]) == 3
    assert "error:" in capsys.readouterr().err
