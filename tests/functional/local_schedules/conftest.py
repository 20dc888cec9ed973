"""EventBridge Scheduler on an endpoint inside this process."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from launcher.local.server import LocalServer
from launcher.local.settings import Settings

START = "2026-03-02T00:00:00Z"  # a Monday
ROLE = "arn:aws:iam::123456789012:role/scheduler"
AWS_SDK = "arn:aws:scheduler:::aws-sdk:"
CREATE_JOB = f"{AWS_SDK}sagemaker:createTrainingJob"
QUICK = Config(retries={"total_max_attempts": 1}, read_timeout=60)
DEADLINE_S = 40.0
JOB: dict[str, Any] = {
    "TrainingJobName": "weekly-<aws.scheduler.execution-id>",
    "RoleArn": ROLE,
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/output"},
    "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 300},
}


class Client:
    """boto3's scheduler, and the routes of the endpoint's own."""

    job = JOB

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = boto3.Session("local", "local", region_name="us-east-1")
        self.scheduler = self.service("scheduler")

    def service(self, name: str) -> Any:
        return self.session.client(name, endpoint_url=self.url, config=QUICK)

    def create(self, name: str, expression: str = "cron(0 3 ? * MON *)", **fields: Any) -> str:
        answer = self.scheduler.create_schedule(**self.make_schedule(name, expression, **fields))
        return str(answer["ScheduleArn"])

    def executions(self, name: str = "") -> list[dict[str, Any]]:
        path = f"/_local/executions/default/{name}" if name else "/_local/executions"
        return list(self.ask("GET", path)["executions"])

    def move_clock(self, **where: Any) -> dict[str, Any]:
        return self.ask("POST", "/_local/clock", where)

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return dict(json.load(response))

    def job_names(self) -> list[str]:
        jobs = self.service("sagemaker").list_training_jobs()["TrainingJobSummaries"]
        return [job["TrainingJobName"] for job in jobs]

    def make_queue(self, name: str) -> tuple[str, str]:
        """Its URL and its ARN."""
        sqs = self.service("sqs")
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return url, arn

    def read_queue(self, url: str, *, wait_s: int = 0) -> list[dict[str, Any]]:
        answer = self.service("sqs").receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=wait_s
        )
        return list(answer.get("Messages", []))

    @staticmethod
    def make_schedule(name: str, expression: str = "cron(0 3 ? * MON *)", **fields: Any) -> dict[str, Any]:
        return {
            "Name": name,
            "ScheduleExpression": expression,
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": Client.make_target(),
        } | fields

    @staticmethod
    def make_target(request: Any = JOB, **fields: Any) -> dict[str, Any]:
        return {"Arn": CREATE_JOB, "RoleArn": ROLE, "Input": json.dumps(request)} | fields

    @staticmethod
    def poll(read: Callable[[], Any], is_done: Callable[[Any], bool]) -> Any:
        end = time.monotonic() + DEADLINE_S
        while not is_done(value := read()):
            assert time.monotonic() < end, f"still {value}"
            time.sleep(0.02)
        return value

    @staticmethod
    def refusal(act: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as caught:
            act(*args, **kwargs)
        error = caught.value.response["Error"]
        return error["Code"], error["Message"]


class Endpoint:
    """An endpoint inside this process, which a test can close and open again; its jobs end without a result."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self._root = root
        self._settings = Settings(**settings)
        self.open()

    def open(self) -> Client:
        self._server = LocalServer(self._root, self._settings, runner_command=lambda job: ["true"])
        self._server.start()
        self.client = Client(self._server.url)
        return self.client

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Endpoint]:
    endpoint = Endpoint(tmp_path / "root", clock=START)
    yield endpoint
    endpoint.close()


@pytest.fixture
def client(place: Endpoint) -> Client:
    return place.client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """For the tests that leave it as they found it."""
    endpoint = Endpoint(tmp_path_factory.mktemp("shared"), clock=START)
    yield endpoint.client
    endpoint.close()


@pytest.fixture
def make_client() -> Callable[[str], Client]:
    return Client


@pytest.fixture
def make_endpoint() -> Callable[..., Endpoint]:
    return Endpoint
