"""What is wrong with a submit to AWS is one error, and leaves no object and no job; and what the endpoint refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError

from launcher.aws import estimator, s3
from launcher.aws.session import Session, open_session
from launcher.aws.site import find_site
from launcher.errors import LauncherError, RecipeError, RunError
from launcher.plan import Plan, make_plan
from launcher.recipe import load_recipe
from launcher.submission import check_base_model, start, submit, upload

BUCKET = "refusing"


@pytest.fixture(scope="module")
def sdk() -> None:
    """Imported once: a refused submit leaves its thread importing, under filters of a test that is over by then."""
    estimator.preload()


@pytest.fixture
def signed_in(endpoint: Path, sdk: None, monkeypatch: pytest.MonkeyPatch) -> Session:
    """AWS, as far as the local endpoint plays it under AWS_ENDPOINT_URL."""
    for name, value in (
        ("AWS_ENDPOINT_URL", open_session("local").service_url),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("LAUNCHER_ROLE", "trainer"),
        ("LAUNCHER_BUCKET", BUCKET),
    ):
        monkeypatch.setenv(name, value)
    session = open_session("aws")
    session.client("s3").create_bucket(Bucket=BUCKET)
    return session


def plan_with(**overrides: Any) -> Plan:
    given = {"compute.instance": "ml.g5.xlarge"} | {key.replace("__", "."): value for key, value in overrides.items()}
    return make_plan(load_recipe("qwen2.5-1.5b-medical", given, smoke=True), "refused-on-aws")


@pytest.mark.parametrize(
    ("overrides", "code", "says"),
    [
        ({"compute__role": "arn:aws:iam::999999999999:role/theirs"}, 3, "belongs to account 999999999999"),
        ({"image__uri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1"}, 3, "which lies in eu-west-1"),
        ({"output__bucket": "nobody-has-made-this"}, 3, "looking for the bucket nobody-has-made-this"),
        ({"compute__region": "eu-west-1"}, 3, "lies in us-east-1; the job runs in eu-west-1"),
        ({"image__uri": "mine:1", "output__kms_key": "no key!"}, 2, "kmsKeyId"),
    ],
    ids=["role", "image", "no bucket", "bucket region", "key"],
)
def test_nothing_is_created(signed_in: Session, overrides: dict[str, Any], code: int, says: str) -> None:
    before = list(s3.iter_keys(signed_in, BUCKET, ""))
    with pytest.raises(LauncherError) as caught:
        submit(plan_with(**overrides))
    assert says in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == code
    assert list(s3.iter_keys(signed_in, BUCKET, "")) == before
    found = signed_in.client("sagemaker").list_training_jobs(NameContains="refused-on-aws")
    assert found["TrainingJobSummaries"] == []


@contextmanager
def hub_with_a_gated_model() -> Iterator[str]:
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"gated": "manual"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_gated_model_goes_with_a_secret_and_is_refused_without(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"compute.instance": "ml.g5.xlarge", "model.id": "org/gated"}
    said: list[str] = []
    with hub_with_a_gated_model() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(RecipeError, match="is gated on the Hub without a token") as caught:
            check_base_model(make_plan(load_recipe("qwen2.5-1.5b-medical", given)))
        assert "secrets.hf_token" in caught.value.hint
        check_base_model(
            make_plan(load_recipe("qwen2.5-1.5b-medical", given | {"secrets.hf_token": "hub"})), said.append
        )
    assert "the token in the secret hub" in said[0]
    assert "doctor" in said[0]


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        ({"InstanceCount": 1, "InstanceType": "ml.g5.xlarge"}, "mutually exclusive"),
        ({}, "Give InstanceCount in ResourceConfig, or in each"),
        ({"InstanceCount": 1, "twice": True}, "only once in InstancePreferences"),
    ],
)
def test_the_endpoint_refuses_a_list_of_types_as_aws_does(
    signed_in: Session, resources: dict[str, Any], says: str
) -> None:
    types = ["ml.g5.xlarge", "ml.g5.xlarge" if resources.pop("twice", False) else "ml.g6.xlarge"]
    with pytest.raises(ClientError, match=says):
        _create(signed_in, "listed-refused", types, resources)


def test_the_endpoint_takes_the_first_of_the_types_and_says_so(signed_in: Session) -> None:
    _create(signed_in, "listed-types", ["ml.g6.xlarge", "ml.g5.xlarge"], {"InstanceCount": 1})
    described = signed_in.client("sagemaker").describe_training_job(TrainingJobName="listed-types")
    assert described["ResourceConfig"]["SelectedInstanceType"] == "ml.g6.xlarge"
    assert described["ResourceConfig"]["SelectedInstanceCount"] == 1


def _create(session: Session, name: str, types: list[str], resources: dict[str, Any]) -> None:
    session.client("sagemaker").create_training_job(
        TrainingJobName=name,
        RoleArn="arn:aws:iam::123456789012:role/trainer",
        AlgorithmSpecification={
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["bash", "-c", "exit 0"],
        },
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/output"},
        ResourceConfig={
            "VolumeSizeInGB": 30,
            "InstancePreferences": [{"InstanceType": kind} for kind in types],
            **resources,
        },
        StoppingCondition={"MaxRuntimeInSeconds": 300},
    )


def test_a_job_whose_first_answer_was_lost_is_taken_for_started(signed_in: Session) -> None:
    plan = plan_with()
    site = find_site(signed_in, plan.recipe)
    upload(plan, site, signed_in)
    start(plan, site, signed_in)
    start(plan, site, signed_in)  # as when the answer never came, and the request is sent again
    other = dataclasses.replace(plan_with(training__seed=7), stamp=plan.stamp)
    with pytest.raises(RunError, match="exists already|in use|ResourceInUse"):
        start(other, site, signed_in)
    signed_in.client("sagemaker").stop_training_job(TrainingJobName=plan.job_name)
