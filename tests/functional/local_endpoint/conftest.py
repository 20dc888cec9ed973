"""The endpoint as a process of its own, and what tests do with it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from launcher.local import lifecycle

BUCKET = "bucket"
GROUP = "/aws/sagemaker/TrainingJobs"
ROLE = "arn:aws:iam::123456789012:role/trainer"
DEADLINE_S = 40.0
QUICK = Config(retries={"total_max_attempts": 1}, read_timeout=60)


class Client:
    """boto3 clients of one endpoint, and the little that tests do with them."""

    def __init__(self, url: str) -> None:
        self.url = url
        session = boto3.Session("local", "local", region_name="us-east-1")
        self._client = lambda service: session.client(service, endpoint_url=url, config=QUICK)
        self.sagemaker = self._client("sagemaker")
        self.logs = self._client("logs")

    def service(self, name: str) -> Any:
        return self._client(name)

    # training jobs

    @staticmethod
    def make_request(name: str, shell: str = "exit 0", **request: Any) -> dict[str, Any]:
        return {
            "TrainingJobName": name,
            "RoleArn": ROLE,
            "AlgorithmSpecification": {
                "TrainingImage": "image",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["/bin/bash", "-c", shell],
            },
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
            "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 300},
        } | request

    def create(self, name: str, shell: str = "exit 0", **request: Any) -> str:
        answer = self.sagemaker.create_training_job(**self.make_request(name, shell, **request))
        return str(answer["TrainingJobArn"])

    def describe(self, name: str) -> dict[str, Any]:
        return dict(self.sagemaker.describe_training_job(TrainingJobName=name))

    def wait(self, name: str, *states: str) -> dict[str, Any]:
        """Until the job's status or secondary status is one of these."""
        return self.poll(
            lambda: self.describe(name),
            lambda job: bool({job["TrainingJobStatus"], job["SecondaryStatus"]} & set(states)),
        )

    def wait_for_line(self, name: str, text: str) -> None:
        self.poll(lambda: self.read_lines(name), lambda lines: text in lines)

    def read_lines(self, name: str) -> list[str]:
        try:
            events = self.logs.filter_log_events(logGroupName=GROUP, logStreamNamePrefix=f"{name}/")["events"]
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in events]

    def list_names(self, **filters: Any) -> list[str]:
        answer = self.sagemaker.list_training_jobs(**filters)
        return [job["TrainingJobName"] for job in answer["TrainingJobSummaries"]]

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

    # bare HTTP

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def post(self, target: str, body: bytes) -> tuple[int, dict[str, Any]]:
        status, _, answer = self.send("POST", "/", body, {"X-Amz-Target": target, **self.sign("sagemaker")})
        return status, json.loads(answer)

    @staticmethod
    def sign(service: str) -> dict[str, str]:
        scope = f"AWS4-HMAC-SHA256 Credential=x/20300101/us-east-1/{service}/aws4_request"
        return {"Authorization": f"{scope}, SignedHeaders=host, Signature=x"}

    def fetch_json(self, path: str) -> Any:
        return json.loads(self.send("GET", path)[2])


@pytest.fixture(scope="session")
def make_client() -> Callable[[str], Client]:
    return Client


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lifecycle.Endpoint]:
    """One endpoint for the tests that leave it as they found it."""
    home = str(tmp_path_factory.mktemp("shared"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_HOME", home)
        patch.setenv("LAUNCHER_LOCAL_JOBS", "3")
        endpoint = lifecycle.ensure_endpoint()
    Client(endpoint.url).service("s3").create_bucket(Bucket=BUCKET)
    yield endpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_HOME", home)
        lifecycle.reset(force=True)


@pytest.fixture(scope="session")
def client(shared: lifecycle.Endpoint) -> Client:
    return Client(shared.url)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An endpoint that the test may kill; what is left of it goes at the end."""
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    client = Client(lifecycle.ensure_endpoint().url)
    client.service("s3").create_bucket(Bucket=BUCKET)
    yield client
    lifecycle.reset(force=True)
