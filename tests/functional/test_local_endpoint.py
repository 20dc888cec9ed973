"""The endpoint as clients meet it: boto3, awscli and bare HTTP against the real process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from launcher.errors import LocalEndpointError
from launcher.local import lifecycle
from launcher.local.jobs import JobBook, RunnerId
from launcher.local.lifecycle import Endpoint
from launcher.local.processes import find_processes_with, send_signal, wait_for_end
from launcher.local.server import LocalServer
from launcher.local.settings import Settings, load_settings

BUCKET = "bucket"
GROUP = "/aws/sagemaker/TrainingJobs"
ROLE = "arn:aws:iam::123456789012:role/trainer"
DEADLINE_S = 40.0
QUICK = Config(retries={"total_max_attempts": 1}, read_timeout=60)
FOR_EVER = "trap 'exit 0' TERM; echo started; while :; do sleep 0.05; done"


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

    def make_bucket(self) -> None:
        self.service("s3").create_bucket(Bucket=BUCKET)

    def create(self, name: str, shell: str = "exit 0", **request: Any) -> str:
        answer = self.sagemaker.create_training_job(**make_request(name, shell, **request))
        return str(answer["TrainingJobArn"])

    def describe(self, name: str) -> dict[str, Any]:
        return dict(self.sagemaker.describe_training_job(TrainingJobName=name))

    def wait(self, name: str, *states: str) -> dict[str, Any]:
        """Until the job's status or secondary status is one of these."""
        return poll(
            lambda: self.describe(name),
            lambda job: bool({job["TrainingJobStatus"], job["SecondaryStatus"]} & set(states)),
        )

    def wait_for_line(self, name: str, text: str) -> None:
        poll(lambda: self.read_lines(name), lambda lines: text in lines)

    def read_lines(self, name: str) -> list[str]:
        try:
            events = self.logs.filter_log_events(logGroupName=GROUP, logStreamNamePrefix=f"{name}/")["events"]
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in events]

    def list_names(self, **filters: Any) -> list[str]:
        answer = self.sagemaker.list_training_jobs(**filters)
        return [job["TrainingJobName"] for job in answer["TrainingJobSummaries"]]


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


def poll(read: Callable[[], Any], is_done: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not is_done(value := read()):
        assert time.monotonic() < end, f"still {value}"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One endpoint for the tests that leave it as they found it."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("shared")
        patch.setenv("LAUNCHER_HOME", str(home))
        patch.setenv("LAUNCHER_LOCAL_JOBS", "3")
        endpoint = lifecycle.ensure_endpoint()
        Client(endpoint.url).make_bucket()
        yield endpoint
        patch.setenv("LAUNCHER_HOME", str(home))
        lifecycle.reset(force=True)


@pytest.fixture
def client(shared: Endpoint) -> Client:
    return Client(shared.url)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An endpoint that the test may kill; what is left of it goes at the end."""
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    client = Client(lifecycle.ensure_endpoint().url)
    client.make_bucket()
    yield client
    lifecycle.reset(force=True)


def refusal(act: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        act(*args, **kwargs)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


# A training job


def test_a_job_goes_through_its_states_to_its_artifact(client: Client) -> None:
    arn = client.create("Whole-Story", "echo one; echo two; echo data > $SAGEMAKER_BASE_DIR/model/file")
    assert arn == "arn:aws:sagemaker:us-east-1:123456789012:training-job/whole-story"
    job = client.wait("Whole-Story", "Completed", "Failed")
    assert job["TrainingJobStatus"] == "Completed", job
    steps = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert steps == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert all("EndTime" in step for step in job["SecondaryStatusTransitions"])
    assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"]
    assert job["EnableNetworkIsolation"] is job["EnableManagedSpotTraining"] is False
    bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    assert client.service("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    assert [line for line in client.read_lines("Whole-Story") if line in ("one", "two")] == ["one", "two"]


def test_describe_gives_back_the_request_and_nothing_of_ours(client: Client) -> None:
    request = make_request("echo-request", HyperParameters={"lr": "1"}, Environment={"A": "b"})
    client.sagemaker.create_training_job(**request, Tags=[{"Key": "k", "Value": "v"}])
    job = client.describe("echo-request")
    assert {key: job[key] for key in request if key != "OutputDataConfig"} == {
        key: value for key, value in request.items() if key != "OutputDataConfig"
    }
    members = client.sagemaker.meta.service_model.operation_model("DescribeTrainingJob").output_shape.members
    assert set(job) - set(members) == {"ResponseMetadata"}
    raw = fetch_json(client.url, "/_local/jobs/echo-request/request")
    assert raw == {**request, "Tags": [{"Key": "k", "Value": "v"}]}


def test_awscli_reads_and_starts_jobs(client: Client, tmp_path: Path) -> None:
    client.create("for-the-cli")
    command = [Path(sys.executable).with_name("aws"), "--endpoint-url", client.url, "--region", "us-east-1"]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}

    def aws(*words: str) -> Any:
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    described = aws("sagemaker", "describe-training-job", "--training-job-name", "for-the-cli")
    assert described["TrainingJobArn"].endswith("/for-the-cli")
    made = aws("sagemaker", "create-training-job", "--cli-input-json", json.dumps(make_request("from-the-cli")))
    assert made["TrainingJobArn"].endswith("/from-the-cli")


def test_an_unknown_job_is_not_found_in_the_words_of_aws(client: Client) -> None:
    expected = ("ValidationException", "Requested resource not found.")
    for act in (client.sagemaker.describe_training_job, client.sagemaker.stop_training_job):
        assert refusal(act, TrainingJobName="nobody") == expected
    arn = "arn:aws:sagemaker:us-east-1:123456789012:training-job/nobody"
    assert refusal(client.sagemaker.list_tags, ResourceArn=arn) == expected


def test_a_name_is_taken_also_when_its_job_is_deleted(client: Client) -> None:
    client.create("once")
    code, message = refusal(client.create, "once")
    assert code == "ResourceInUse"
    assert "training-job/once" in message
    client.wait("once", "Completed")
    client.sagemaker.delete_training_job(TrainingJobName="once")
    assert refusal(client.describe, "once")[1] == "Requested resource not found."
    assert refusal(client.create, "once")[0] == "ResourceInUse"


BAD_REQUESTS = {
    "pattern": ({"TrainingJobName": "a_b"}, "Value 'a_b' at 'trainingJobName' failed to satisfy constraint"),
    "too long": ({"TrainingJobName": "a" * 64}, "length less than or equal to 63"),
    "enum": (
        {"ResourceConfig": {"InstanceType": "ml.huge", "InstanceCount": 1, "VolumeSizeInGB": 1}},
        "Value 'ml.huge' at 'resourceConfig.instanceType'",
    ),
    "map": ({"HyperParameters": {"k": "v" * 2501}}, "at 'hyperParameters.k.member'"),
    "many": ({"HyperParameters": {f"k{i}": "" for i in range(101)}}, "length less than or equal to 100"),
    "role": ({"RoleArn": "arn:aws:iam::1:user/somebody"}, "at 'roleArn'"),
    "spot": ({"EnableManagedSpotTraining": True}, "Invalid MaxWaitTimeInSeconds"),
    "spot too short": (
        {
            "EnableManagedSpotTraining": True,
            "StoppingCondition": {"MaxRuntimeInSeconds": 9, "MaxWaitTimeInSeconds": 8},
        },
        "greater than or equal to MaxRuntimeInSeconds",
    ),
    "wait without spot": (
        {"StoppingCondition": {"MaxRuntimeInSeconds": 9, "MaxWaitTimeInSeconds": 10}},
        "EnableManagedSpotTraining",
    ),
    "tags": ({"Tags": [{"Key": "a", "Value": ""}, {"Key": "a", "Value": ""}]}, "Duplicate tag keys"),
    "no image": ({"AlgorithmSpecification": {"TrainingInputMode": "File"}}, "training image"),
    "channels": (
        {
            "InputDataConfig": [
                {
                    "ChannelName": "train",
                    "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/k"}},
                }
            ]
            * 2
        },
        "Channel names must be unique",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_request_that_aws_refuses_is_refused_with_its_place(client: Client, case: str) -> None:
    change, words = BAD_REQUESTS[case]
    request = make_request("refused") | change
    code, message = refusal(client.sagemaker.create_training_job, **request)
    assert code == "ValidationException"
    assert words in message
    assert "refused" not in client.list_names(NameContains="refused")


def test_a_member_that_does_not_exist_is_refused(client: Client) -> None:
    """boto3 itself would not send it; a schedule's request comes by another way."""
    body = make_request("misspelt") | {"EnableManagedSpotTrainign": True}
    status, answer = post(client.url, "SageMaker.CreateTrainingJob", json.dumps(body).encode())
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert "EnableManagedSpotTrainign" in answer["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_what_is_no_json_object_is_refused(client: Client, body: bytes) -> None:
    status, answer = post(client.url, "SageMaker.CreateTrainingJob", body)
    assert (status, answer["__type"]) == (400, "SerializationException")


# Lists and tags


def test_lists_filter_sort_and_page(own: Client) -> None:
    for name in ("alpha-1", "beta-1", "alpha-2", "beta-2", "alpha-3"):
        own.create(name, "exit 1" if name == "alpha-2" else "exit 0")
    for name in own.list_names():
        own.wait(name, "Completed", "Failed")
    assert own.list_names() == ["alpha-1", "beta-1", "alpha-2", "beta-2", "alpha-3"]
    assert own.list_names(NameContains="Alpha", SortOrder="Descending") == ["alpha-3", "alpha-2", "alpha-1"]
    assert own.list_names(SortBy="Name", SortOrder="Ascending", MaxResults=2) == ["alpha-1", "alpha-2"]
    assert own.list_names(StatusEquals="Failed") == ["alpha-2"]
    assert own.list_names(SortBy="Status")[-1] == "alpha-2"
    middle = own.describe("alpha-2")["CreationTime"]
    assert own.list_names(CreationTimeAfter=middle) == ["beta-2", "alpha-3"]
    assert own.list_names(CreationTimeBefore=middle) == ["alpha-1", "beta-1"]
    assert own.list_names(LastModifiedTimeBefore=middle) == ["alpha-1"] or not own.list_names(
        LastModifiedTimeBefore=own.describe("alpha-1")["CreationTime"]
    )


def test_a_page_goes_on_where_the_last_one_ended_whatever_came_in_between(own: Client) -> None:
    for number in range(5):
        own.create(f"job-{number}")
    ask = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 2}
    first = own.sagemaker.list_training_jobs(**ask)
    own.create("newcomer")
    second = own.sagemaker.list_training_jobs(**ask, NextToken=first["NextToken"])
    third = own.sagemaker.list_training_jobs(**ask, NextToken=second["NextToken"])
    names = [job["TrainingJobName"] for page in (first, second, third) for job in page["TrainingJobSummaries"]]
    assert names == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    assert "NextToken" not in third
    for token in ("2", "x" * 40, first["NextToken"][:-4]):
        assert refusal(own.sagemaker.list_training_jobs, NextToken=token)[0] == "ValidationException"
    assert "SortBy" in refusal(own.list_names, SortBy="Name", NextToken=first["NextToken"])[1]


def test_tags_are_added_replaced_and_deleted(client: Client) -> None:
    arn = client.create("tagged", Tags=[{"Key": "Owner", "Value": "me"}])
    added = client.sagemaker.add_tags(
        ResourceArn=arn, Tags=[{"Key": "Owner", "Value": "you"}, {"Key": "Ort", "Value": "Köln"}]
    )
    expected = [{"Key": "Owner", "Value": "you"}, {"Key": "Ort", "Value": "Köln"}]
    assert added["Tags"] == client.sagemaker.list_tags(ResourceArn=arn)["Tags"] == expected
    client.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["Owner", "Absent"])
    assert client.sagemaker.list_tags(ResourceArn=arn)["Tags"] == expected[1:]
    many = [{"Key": f"k{number}", "Value": ""} for number in range(50)]
    assert "50 tags" in refusal(client.sagemaker.add_tags, ResourceArn=arn, Tags=many)[1]
    reserved = [{"Key": "aws:x", "Value": ""}]
    assert "reserved" in refusal(client.sagemaker.add_tags, ResourceArn=arn, Tags=reserved)[1]


# Stop, queue, interruption


def test_a_running_job_is_stopped_and_keeps_what_it_made(client: Client) -> None:
    client.create("stopped", FOR_EVER.replace("exit 0", "echo saved > $SAGEMAKER_BASE_DIR/model/m; exit 0"))
    client.wait_for_line("stopped", "started")
    client.sagemaker.stop_training_job(TrainingJobName="stopped")
    assert client.describe("stopped")["TrainingJobStatus"] in ("Stopping", "Stopped")
    job = client.wait("stopped", "Stopped")
    assert job["SecondaryStatus"] == "Stopped"
    assert "Stopping" in [step["Status"] for step in job["SecondaryStatusTransitions"]]
    code, message = refusal(client.sagemaker.stop_training_job, TrainingJobName="stopped")
    assert (code, "in status Stopped" in message) == ("ValidationException", True)


def test_a_stop_right_after_the_start_is_heard(client: Client) -> None:
    for number in range(3):
        name = f"hasty-{number}"
        client.create(name, FOR_EVER)
        client.sagemaker.stop_training_job(TrainingJobName=name)
    for number in range(3):
        assert client.wait(f"hasty-{number}", "Stopped", "Failed")["TrainingJobStatus"] == "Stopped"


def test_jobs_wait_for_their_turn(own: Client) -> None:
    own.create("first", FOR_EVER)
    own.create("second")
    own.create("third")
    own.wait_for_line("first", "started")
    waiting = own.wait("second", "Pending")
    assert waiting["TrainingJobStatus"] == "InProgress"
    assert "first" in waiting["SecondaryStatusTransitions"][-1]["StatusMessage"]
    own.sagemaker.stop_training_job(TrainingJobName="second")
    stopped = own.describe("second")
    assert (stopped["TrainingJobStatus"], "TrainingStartTime" in stopped) == ("Stopped", False)
    assert refusal(own.sagemaker.delete_training_job, TrainingJobName="third")[0] == "ResourceInUse"
    own.sagemaker.stop_training_job(TrainingJobName="first")
    own.wait("third", "Completed")
    assert own.describe("first")["TrainingEndTime"] <= own.describe("third")["TrainingStartTime"]


def test_only_a_spot_job_in_training_is_interrupted(own: Client) -> None:
    own.create("on-demand", FOR_EVER)
    own.wait_for_line("on-demand", "started")
    with pytest.raises(LocalEndpointError, match="EnableManagedSpotTraining"):
        lifecycle.interrupt_job("on-demand")
    with pytest.raises(LocalEndpointError, match="no job nobody"):
        lifecycle.interrupt_job("nobody")
    spot = {"MaxRuntimeInSeconds": 300, "MaxWaitTimeInSeconds": 300}
    own.create("spot", FOR_EVER, EnableManagedSpotTraining=True, StoppingCondition=spot)
    own.wait("spot", "Pending")
    with pytest.raises(LocalEndpointError, match="in Training"):
        lifecycle.interrupt_job("spot")
    own.sagemaker.stop_training_job(TrainingJobName="on-demand")
    own.wait_for_line("spot", "started")
    lifecycle.interrupt_job("spot")
    poll(lambda: own.read_lines("spot").count("started"), lambda count: count == 2)
    own.sagemaker.stop_training_job(TrainingJobName="spot")
    steps = [step["Status"] for step in own.wait("spot", "Stopped")["SecondaryStatusTransitions"]]
    assert steps.count("Training") == 2
    assert steps.index("Interrupted") < steps.index("Stopped")


# Logs


@pytest.fixture(scope="module")
def talkative(shared: Endpoint) -> str:
    """A stream of 3000 numbered lines between a few others; long enough for several blocks on disk."""
    client = Client(shared.url)
    client.create("talkative", "for i in $(seq -w 3000); do echo line-$i ERROR tail é; done; echo the end")
    job = client.wait("talkative", "Completed", "Failed")
    assert job["TrainingJobStatus"] == "Completed", job
    (stream,) = client.logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix="talkative/")["logStreams"]
    return str(stream["logStreamName"])


def read_pages(client: Client, stream: str, direction: str, **ask: Any) -> list[list[str]]:
    """Pages until the token comes back unchanged, which is CloudWatch's way to say that it was the last."""
    pages: list[list[str]] = []
    token: dict[str, str] = {}
    while True:
        answer = client.logs.get_log_events(logGroupName=GROUP, logStreamName=stream, **ask, **token)
        if answer[direction] == token.get("nextToken"):
            assert answer["events"] == []
            return pages
        pages.append([event["message"] for event in answer["events"]])
        token = {"nextToken": answer[direction]}


def test_log_pages_forward_hold_every_line_once(client: Client, talkative: str) -> None:
    pages = read_pages(client, talkative, "nextForwardToken", startFromHead=True, limit=700)
    lines = [line for page in pages for line in page]
    assert [line for line in lines if line.startswith("line-")] == [
        f"line-{number:04} ERROR tail é" for number in range(1, 3001)
    ]
    assert lines[-1] == "the end"
    assert all(len(page) == 700 for page in pages[:-1])


def test_log_pages_backward_hold_every_line_once(client: Client, talkative: str) -> None:
    forward = read_pages(client, talkative, "nextForwardToken", startFromHead=True)
    backward = read_pages(client, talkative, "nextBackwardToken", limit=701)
    assert backward[0][-1] == "the end"
    assert [line for page in backward[::-1] for line in page] == [line for page in forward for line in page]


def test_log_times_bound_a_page(client: Client, talkative: str) -> None:
    events = client.logs.get_log_events(logGroupName=GROUP, logStreamName=talkative, startFromHead=True)["events"]
    cut = events[len(events) // 2]["timestamp"]
    before = read_pages(client, talkative, "nextForwardToken", startFromHead=True, endTime=cut)
    after = read_pages(client, talkative, "nextForwardToken", startFromHead=True, startTime=cut)
    assert sum(map(len, before)) == len([event for event in events if event["timestamp"] < cut])
    assert sum(map(len, before + after)) == len(events)


def test_a_page_of_logs_is_at_most_a_mebibyte(client: Client) -> None:
    client.create("wide", "for i in $(seq 25); do head -c 60000 /dev/zero | tr '\\0' x; echo; done")
    client.wait("wide", "Completed", "Failed")
    names = client.logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix="wide/")["logStreams"]
    pages = read_pages(client, names[0]["logStreamName"], "nextForwardToken", startFromHead=True)
    assert len(pages) > 1
    assert max(sum(len(line) + 26 for line in page) for page in pages) <= 1 << 20
    assert sum(line.startswith("xxx") for page in pages for line in page) == 25


def test_filters_find_lines_in_order_over_pages(client: Client, talkative: str) -> None:
    paginator = client.logs.get_paginator("filter_log_events")

    def find(pattern: str, **ask: Any) -> list[str]:
        pages = paginator.paginate(logGroupName=GROUP, logStreamNames=[talkative], filterPattern=pattern, **ask)
        return [event["message"] for page in pages for event in page["events"]]

    assert len(find("ERROR", PaginationConfig={"PageSize": 999})) == 3000
    assert find('"line-0042 ERROR"') == ["line-0042 ERROR tail é"]
    assert find("?line-0001 ?line-3000") == ["line-0001 ERROR tail é", "line-3000 ERROR tail é"]
    assert find("-ERROR end") == ["the end"]
    code, _ = refusal(client.logs.filter_log_events, logGroupName=GROUP, filterPattern="{ $.x = 1 }")
    assert code == "InvalidParameterException"


def test_streams_are_listed_by_prefix_and_page(client: Client, talkative: str) -> None:
    names = [f"stream-{number}" for number in range(3)]
    for name in names:
        client.create(name, "echo x")
    for name in names:
        client.wait(name, "Completed")
    pages = client.logs.get_paginator("describe_log_streams").paginate(
        logGroupName=GROUP, logStreamNamePrefix="stream-", PaginationConfig={"PageSize": 2}
    )
    streams = [stream for page in pages for stream in page["logStreams"]]
    assert [stream["logStreamName"].partition("/")[0] for stream in streams] == names
    assert all(stream["firstEventTimestamp"] <= stream["lastEventTimestamp"] for stream in streams)
    by_time = client.logs.describe_log_streams(logGroupName=GROUP, orderBy="LastEventTime", descending=True)[
        "logStreams"
    ]
    times = [stream.get("lastEventTimestamp", 0) for stream in by_time]
    assert times == sorted(times, reverse=True)
    groups = client.logs.describe_log_groups(logGroupNamePrefix="/aws/sage")["logGroups"]
    assert [group["logGroupName"] for group in groups] == [GROUP]


@pytest.mark.parametrize("stream", ["nobody/algo-1-1", "nobody", "../jobs.sqlite", "x/..", "a/b/c"])
def test_an_unknown_stream_is_not_found(client: Client, talkative: str, stream: str) -> None:
    code, _ = refusal(client.logs.get_log_events, logGroupName=GROUP, logStreamName=stream)
    assert code == "ResourceNotFoundException"


def test_the_group_is_not_there_before_the_first_job(own: Client) -> None:
    code, _ = refusal(own.logs.describe_log_streams, logGroupName=GROUP)
    assert code == "ResourceNotFoundException"
    assert own.logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"] == []


# Other services


def test_moto_answers_for_the_other_services(client: Client) -> None:
    assert client.service("sts").get_caller_identity()["Account"] == "123456789012"
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    client.service("iam").create_role(RoleName="trainer", AssumeRolePolicyDocument=trust)
    secret = client.service("secretsmanager").create_secret(Name="token", SecretString="x")
    assert secret["ARN"].startswith("arn:aws:secretsmanager:us-east-1:123456789012:")
    template = json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})
    client.service("cloudformation").create_stack(StackName="stack", TemplateBody=template)
    assert len(client.service("sqs").list_queues()["QueueUrls"]) == 1
    client.logs.create_log_group(logGroupName="other")
    assert client.logs.describe_log_streams(logGroupName="other")["logStreams"] == []


def test_an_operation_that_nobody_knows_is_refused_at_once(client: Client) -> None:
    status, answer = post(client.url, "SageMaker.TrainJobs", b"{}")
    assert (status, answer["__type"]) == (400, "UnknownOperationException")
    code, _ = refusal(client.sagemaker.list_ai_benchmark_jobs)
    assert code == "NotImplementedException"


def test_s3_is_ours_by_every_way_in(client: Client) -> None:
    client.service("s3").put_object(Bucket=BUCKET, Key="known", Body=b"ours")
    url = client.service("s3").generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "known"})
    v2 = Config(signature_version="s3")
    old = boto3.client(
        "s3",
        endpoint_url=client.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=v2,
    )
    assert old.get_object(Bucket=BUCKET, Key="known")["Body"].read() == b"ours"
    for address in (url, f"{client.url}/{BUCKET}/known"):
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"ours"
    # moto takes what it cannot place for a request to its own S3.
    status, _, _ = send(client.url, "PUT", f"/{BUCKET}/unsigned", body=b"x")
    assert status == 200
    assert client.service("s3").get_object(Bucket=BUCKET, Key="unsigned")["Body"].read() == b"x"
    assert send(client.url, "POST", "/moto-api/reset", body=b"x=1")[0] == 501
    assert send(client.url, "GET", "/moto-api/data.json")[0] == 404


# HTTP


def split(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def send(
    url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*split(url), timeout=30)
    try:
        connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def post(url: str, target: str, body: bytes) -> tuple[int, dict[str, Any]]:
    status, _, answer = send(url, "POST", "/", body, {"X-Amz-Target": target, **sign("sagemaker")})
    return status, json.loads(answer)


def sign(service: str) -> dict[str, str]:
    scope = f"AWS4-HMAC-SHA256 Credential=x/20300101/us-east-1/{service}/aws4_request"
    return {"Authorization": f"{scope}, SignedHeaders=host, Signature=x"}


def fetch_json(url: str, path: str) -> Any:
    return json.loads(send(url, "GET", path)[2])


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "", "localhost.evil"])
def test_a_host_name_that_is_not_loopback_is_refused(client: Client, host: str) -> None:
    for path in ("/_local/health", f"/{BUCKET}/known", "/"):
        assert send(client.url, "GET", path, headers={"Host": host})[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:5", "bucket.localhost"])
def test_loopback_names_are_accepted(client: Client, host: str) -> None:
    assert send(client.url, "GET", "/_local/health", headers={"Host": host})[0] == 200


def test_a_page_of_another_site_cannot_write(client: Client) -> None:
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert send(client.url, "POST", "/_local/shutdown", b"", headers)[0] == 403
    assert send(client.url, "GET", "/_local/health", headers={"Origin": client.url})[0] == 200


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_this_machine_is_not_let_in(client: Client) -> None:
    script = (
        "import os, sys, http.client, encodings.idna; os.setuid(65534);"
        "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=10);"
        "c.request('GET', '/_local/health'); c.getresponse()"
    )
    command = [sys.executable, "-c", script, str(split(client.url)[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "RemoteDisconnected" in done.stderr or "ConnectionResetError" in done.stderr


def test_a_connection_serves_many_requests(client: Client) -> None:
    connection = http.client.HTTPConnection(*split(client.url), timeout=30)
    connection.connect()
    first = connection.sock
    for body in (b"", b"x" * 100_000):  # the second is not read by the route that refuses it
        for _ in range(3):
            connection.request("POST", "/_local/nothing", body)
            answer = connection.getresponse()
            assert answer.read()
            assert answer.status == 404
            assert connection.sock is first
    connection.close()


def test_a_chunked_body_arrives_whole(client: Client) -> None:
    chunks = [b"a" * 10, b"b" * 300_000, b"c"]
    headers = {"Transfer-Encoding": "chunked", **sign("s3")}
    assert send(client.url, "PUT", f"/{BUCKET}/chunked", iter(chunks), headers)[0] == 200
    assert client.service("s3").get_object(Bucket=BUCKET, Key="chunked")["Body"].read() == b"".join(chunks)


def talk(url: str, data: bytes, until: bytes) -> bytes:
    """Send bytes as they are, and read the answer up to a mark or the end."""
    with socket.create_connection(split(url), timeout=30) as connection:
        connection.sendall(data)
        answer = b""
        while until not in answer and (more := connection.recv(65536)):
            answer += more
    return answer


def test_a_client_that_expects_it_is_told_to_go_on(client: Client) -> None:
    head = f"PUT /{BUCKET}/expected HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(split(client.url), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_refused_upload_is_not_asked_for(client: Client) -> None:
    head = b"POST /_local/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    answer = talk(client.url, head, b"No route")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 100\r\n\r\nonly this",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
    ],
)
def test_a_broken_body_leaves_nothing(client: Client, body: bytes) -> None:
    with socket.create_connection(split(client.url), timeout=30) as connection:
        connection.sendall(f"PUT /{BUCKET}/broken HTTP/1.1\r\nHost: localhost\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert not answer.startswith(b"HTTP/1.1 2")
    assert "Contents" not in client.service("s3").list_objects_v2(Bucket=BUCKET, Prefix="broken")


def test_big_bodies_stream_through_bounded_memory(client: Client, shared: Endpoint, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        for number in range(200):
            file.write(number.to_bytes(1, "big") * 1_000_000)
    before = read_peak_memory(shared.pid)
    with source.open("rb") as file:
        client.service("s3").put_object(Bucket=BUCKET, Key="big", Body=file)
    with copy.open("wb") as file:
        for chunk in client.service("s3").get_object(Bucket=BUCKET, Key="big")["Body"].iter_chunks(1 << 20):
            file.write(chunk)
    assert source.read_bytes() == copy.read_bytes()
    assert read_peak_memory(shared.pid) - before < 100_000_000


def read_peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


# Lifecycle


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    poll(lambda: lifecycle.find_endpoint(), lambda endpoint: endpoint is None)


def find_runner(name: str) -> RunnerId:
    book = JobBook(lifecycle.local_root() / "jobs.sqlite")
    try:
        found: RunnerId = poll(lambda: book.runner(name), lambda runner: runner is not None)
        return found
    finally:
        book.close()


def restart(client: Client) -> None:
    """At the same address, so that clients go on."""
    assert lifecycle.ensure_endpoint().url == client.url


def test_two_commands_at_once_start_one_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path))
    script = "from launcher.local.lifecycle import ensure_endpoint; print(ensure_endpoint().pid)"
    commands = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {command.communicate()[0] for command in commands}
    assert len(pids) == 1
    endpoint = lifecycle.find_endpoint()
    assert endpoint
    assert pids == {f"{endpoint.pid}\n"}
    assert lifecycle.stop_endpoint()
    assert not lifecycle.stop_endpoint()
    assert lifecycle.find_endpoint() is None
    lifecycle.reset()
    assert list(tmp_path.iterdir()) == [tmp_path / "local.lock"]


def test_a_job_survives_the_kill_of_the_endpoint(own: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    own.create("survivor", f"echo started; until [ -e {gate} ]; do sleep 0.05; done; echo ended")
    own.create("queued", "echo ran")
    own.wait_for_line("survivor", "started")
    runner = find_runner("survivor")
    kill(lifecycle.ensure_endpoint().pid)
    restart(own)
    assert own.describe("survivor")["TrainingJobStatus"] == "InProgress"
    assert own.wait("queued", "Pending")
    assert find_runner("survivor") == runner
    gate.touch()
    assert own.wait("survivor", "Completed", "Failed")["TrainingJobStatus"] == "Completed"
    assert own.wait("queued", "Completed", "Failed")["TrainingJobStatus"] == "Completed"
    assert own.read_lines("survivor").count("started") == 1


def test_a_job_that_ends_while_no_endpoint_runs_has_its_result(own: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    own.create("alone", f"echo started; until [ -e {gate} ]; do sleep 0.05; done")
    own.create("next", "echo ran")
    own.wait_for_line("alone", "started")
    runner = find_runner("alone")
    lifecycle.stop_endpoint()
    gate.touch()
    assert wait_for_end(runner, DEADLINE_S)
    restart(own)
    assert own.describe("alone")["TrainingJobStatus"] == "Completed"
    assert own.wait("next", "Completed", "Failed")["TrainingJobStatus"] == "Completed"


def test_a_job_whose_runner_is_killed_fails_with_a_sentence(own: Client) -> None:
    own.create("bereft", FOR_EVER)
    own.create("heir", "echo ran")
    own.wait_for_line("bereft", "started")
    runner = find_runner("bereft")
    assert send_signal(runner, signal.SIGKILL)
    job = own.wait("bereft", "Failed")
    assert f"the local runner (pid {runner.pid}) ended without a result: " in job["FailureReason"]
    assert job["FailureReason"].startswith("InternalServerError: ")
    assert "Submit again" in job["FailureReason"]
    own.wait("heir", "Completed")
    folder = lifecycle.local_root() / "jobs" / "bereft"
    assert find_processes_with("SAGEMAKER_BASE_DIR", f"{folder}/") == []
    assert not (folder / "opt").exists()


def test_a_job_fails_when_endpoint_and_runner_are_killed(own: Client) -> None:
    own.create("lost", FOR_EVER)
    own.wait_for_line("lost", "started")
    runner = find_runner("lost")
    kill(lifecycle.ensure_endpoint().pid)
    assert send_signal(runner, signal.SIGKILL)
    restart(own)
    job = own.describe("lost")
    assert job["TrainingJobStatus"] == "Failed"
    assert "ended without a result" in job["FailureReason"]
    folder = lifecycle.local_root() / "jobs" / "lost"
    assert find_processes_with("SAGEMAKER_BASE_DIR", f"{folder}/") == []


def test_a_stop_asked_of_a_killed_endpoint_is_not_lost(own: Client) -> None:
    own.create("asked", FOR_EVER)
    own.create("behind", FOR_EVER)
    own.wait_for_line("asked", "started")
    own.wait("behind", "Pending")
    kill(lifecycle.ensure_endpoint().pid)
    book = JobBook(lifecycle.local_root() / "jobs.sqlite")
    book.ask("asked", "stop")  # as far as the endpoint came
    book.ask("behind", "stop")
    book.close()
    restart(own)
    assert own.wait("asked", "Stopped", "Failed")["TrainingJobStatus"] == "Stopped"
    assert own.wait("behind", "Stopped", "Failed")["TrainingJobStatus"] == "Stopped"


def test_another_program_on_the_old_port_is_not_taken_for_the_endpoint(own: Client) -> None:
    endpoint = lifecycle.ensure_endpoint()
    kill(endpoint.pid)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", endpoint.port))
        taken.listen()
        assert lifecycle.find_endpoint() is None
        moved = lifecycle.ensure_endpoint()
    assert moved.port != endpoint.port
    assert Client(moved.url).service("s3").list_buckets()["Buckets"][0]["Name"] == BUCKET


def test_a_port_that_is_set_and_taken_is_an_error_that_says_so(
    own: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAUNCHER_LOCAL_PORT", str(split(own.url)[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_HOME", str(tmp_path / "second"))
        with pytest.raises(LocalEndpointError, match="Address already in use") as caught:
            lifecycle.ensure_endpoint()
        assert "endpoint.log" in caught.value.hint


def test_settings_come_from_the_environment_and_senseless_ones_are_refused() -> None:
    assert load_settings({}) == Settings()
    given = {"LAUNCHER_LOCAL_JOBS": "2", "LAUNCHER_LOCAL_GRACE_S": "0.5", "LAUNCHER_LOCAL_PORT": "8080"}
    assert load_settings(given) == Settings(jobs_at_once=2, grace_s=0.5, port=8080)
    for name, text in [
        ("JOBS", "0"),
        ("JOBS", "many"),
        ("GRACE_S", "-1"),
        ("GRACE_S", "nan"),
        ("PORT", "1.5"),
    ]:
        with pytest.raises(LocalEndpointError, match=f"LAUNCHER_LOCAL_{name}='{text}'"):
            load_settings({f"LAUNCHER_LOCAL_{name}": text})


def test_status_tells_what_people_ask_for(own: Client) -> None:
    own.create("done")
    own.wait("done", "Completed")
    status = lifecycle.find_status()
    assert status
    assert status.jobs == {"Completed": 1}
    assert 0 < status.uptime_s < 60
    assert 10_000_000 < status.memory_bytes < 150_000_000
    assert status.disk_bytes > 0
    assert not status.is_moto_loaded
    own.service("sts").get_caller_identity()
    status = lifecycle.find_status()
    assert status
    assert status.is_moto_loaded


def test_the_endpoint_keeps_to_itself_what_the_command_had(own: Client) -> None:
    """A profile of the user's must not lead a job or a moto backend to a real account."""
    environment = Path(f"/proc/{lifecycle.ensure_endpoint().pid}/environ").read_bytes().split(b"\0")
    assert not [entry for entry in environment if entry.startswith(b"AWS_")]
    assert [entry for entry in environment if entry.startswith(b"NO_PROXY=") and b"127.0.0.1" in entry]


def test_a_reset_spares_a_live_job_unless_forced(own: Client) -> None:
    own.create("alive", FOR_EVER)
    own.wait_for_line("alive", "started")
    runner = find_runner("alive")
    with pytest.raises(LocalEndpointError, match="alive would be lost"):
        lifecycle.reset()
    assert lifecycle.find_endpoint()
    lifecycle.reset(force=True)
    assert not runner.is_alive()
    assert find_processes_with("SAGEMAKER_BASE_DIR", f"{lifecycle.local_root()}/") == []
    assert not lifecycle.local_root().exists()


def test_shutdown_answers_the_request_that_asks_for_it(own: Client) -> None:
    endpoint = lifecycle.ensure_endpoint()
    assert send(own.url, "POST", "/_local/shutdown", b"")[0] == 200
    poll(lifecycle.find_endpoint, lambda found: found is None)
    log = (endpoint.root / "endpoint.log").read_text()
    assert "Traceback" not in log
    assert "runners go on" in log


# The dispatcher with runners of the test's own


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Client]]:
    """An endpoint inside this process, whose runners are small scripts."""
    servers = []

    def start(script: str) -> Client:
        root = tmp_path / "root"
        prelude = "import sys, os, signal, pathlib; from launcher.local.jobs import *; name = sys.argv[2]\n"
        prelude += "book = JobBook(pathlib.Path(sys.argv[1]) / 'jobs.sqlite')\n"

        def command(job: str) -> list[str]:
            return [sys.executable, "-c", prelude + script, str(root), job]

        servers.append(LocalServer(root, Settings(), runner_command=command))
        servers[-1].start()
        return Client(servers[-1].url)

    yield start
    for server in servers:
        server.close()


def test_a_runner_that_dies_at_once_has_its_last_line_in_the_reason(serve: Callable[[str], Client]) -> None:
    client = serve("print('noise'); sys.exit('the last word')")
    client.create("short")
    job = client.wait("short", "Failed")
    assert "ended without a result: the last word. Its log is " in job["FailureReason"]


def test_a_runner_is_not_signalled_before_it_can_take_a_signal(serve: Callable[[str], Client]) -> None:
    client = serve(
        "import time\n"
        "book.transition(name, 'InProgress', 'Starting', 'deaf')\n"
        "while book.asked(name) is None: time.sleep(0.01)\n"
        "book.transition(name, 'Stopped', 'Stopped', 'read it')\n"
    )
    client.create("deaf")
    poll(
        lambda: client.describe("deaf"),
        lambda job: job["SecondaryStatusTransitions"][-1]["StatusMessage"] == "deaf",
    )
    client.sagemaker.stop_training_job(TrainingJobName="deaf")
    job = client.wait("deaf", "Stopped", "Failed")
    assert job["SecondaryStatusTransitions"][-1]["StatusMessage"] == "read it"


def test_many_clients_at_once_lose_nothing(serve: Callable[[str], Client]) -> None:
    client = serve("book.transition(name, 'Completed', 'Completed', '')")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = Client(client.url)
            for step in range(5):
                mine.create(f"job-{number}-{step}")
                mine.describe(f"job-{number}-{step}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    poll(lambda: client.list_names(StatusEquals="Completed", MaxResults=100), lambda names: len(names) == 20)
