"""EventBridge Scheduler on the local endpoint, as boto3, awscli and bare HTTP meet it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from launcher.errors import LocalEndpointError
from launcher.local import lifecycle
from launcher.local.processes import ProcessId, find_process, send_signal, wait_for_end
from launcher.local.server import LocalServer
from launcher.local.settings import Settings, load_settings

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

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = boto3.Session("local", "local", region_name="us-east-1")
        self.scheduler = self.service("scheduler")

    def service(self, name: str) -> Any:
        return self.session.client(name, endpoint_url=self.url, config=QUICK)

    def create(self, name: str, expression: str = "cron(0 3 ? * MON *)", **fields: Any) -> str:
        answer = self.scheduler.create_schedule(**make_schedule(name, expression, **fields))
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


def make_schedule(name: str, expression: str = "cron(0 3 ? * MON *)", **fields: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "ScheduleExpression": expression,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": make_target(),
    } | fields


def make_target(request: Any = JOB, **fields: Any) -> dict[str, Any]:
    return {"Arn": CREATE_JOB, "RoleArn": ROLE, "Input": json.dumps(request)} | fields


def poll(read: Callable[[], Any], is_done: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not is_done(value := read()):
        assert time.monotonic() < end, f"still {value}"
        time.sleep(0.02)
    return value


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


# Firing


def test_four_weeks_pass_in_a_moment_and_make_four_jobs(client: Client) -> None:
    job = JOB | {
        "CheckpointConfig": {"S3Uri": "s3://bucket/runs/<aws.scheduler.execution-id>/checkpoints"},
        "Tags": [
            {"Key": "time", "Value": "<aws.scheduler.scheduled-time>"},
            {"Key": "schedule", "Value": "<aws.scheduler.schedule-arn>"},
            {"Key": "attempt", "Value": "<aws.scheduler.attempt-number>"},
        ],
    }
    arn = client.create("weekly", ScheduleExpressionTimezone="Europe/Berlin", Target=make_target(job))
    for week in range(1, 5):
        assert client.move_clock(advance_s=7 * 86_400)["is_simulated"] is True
        assert len(client.job_names()) == week
    executions = client.executions("weekly")
    # Summer time begins on 29 March, behind these four; in winter three o'clock in Berlin is two in UTC.
    times = [f"2026-03-{day:02}T02:00:00Z" for day in (2, 9, 16, 23)]
    assert [execution["scheduled_time"] for execution in executions] == times
    assert {execution["outcome"] for execution in executions} == {"started"}
    assert [execution["result"] for execution in executions] == client.job_names()
    first = executions[0]
    request = client.ask("GET", f"/_local/jobs/{first['result']}/request")
    assert request["TrainingJobName"] == f"weekly-{first['execution_id']}"
    assert request["CheckpointConfig"]["S3Uri"] == f"s3://bucket/runs/{first['execution_id']}/checkpoints"
    assert [tag["Value"] for tag in request["Tags"]] == [times[0], arn, "1"]
    client.move_clock(to="2026-03-30T01:00:00Z")
    assert client.executions("weekly")[-1]["scheduled_time"] == "2026-03-30T01:00:00Z"


def test_a_schedule_fires_by_the_clock_of_this_machine(tmp_path: Path) -> None:
    place = Endpoint(tmp_path / "root")
    try:
        soon = datetime.fromtimestamp(int(time.time()) + 2, UTC)
        place.client.create("soon", f"at({soon:%Y-%m-%dT%H:%M:%S})")
        place.client.create("now", "rate(1 day)")
        poll(place.client.executions, lambda found: [row["outcome"] for row in found] == ["started"] * 2)
        assert len(place.client.job_names()) == 2
        with pytest.raises(urllib.error.HTTPError) as caught:
            place.client.move_clock(advance_s=1)
        assert caught.value.code == 403
        caught.value.close()
    finally:
        place.close()


def test_messages_are_sent_to_topics_and_queues(client: Client) -> None:
    url, arn = client.make_queue("told")
    sns = client.service("sns")
    topic = sns.create_topic(Name="told")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    to_topic = make_target(
        {"TopicArn": topic, "Message": "at <aws.scheduler.scheduled-time>"}, Arn=f"{AWS_SDK}sns:publish"
    )
    to_queue = make_target({"QueueUrl": url, "MessageBody": "directly"}, Arn=f"{AWS_SDK}sqs:sendMessage")
    client.create("topic", "at(2026-03-02T01:00:00)", Target=to_topic)
    client.create("queue", "at(2026-03-02T02:00:00)", Target=to_queue)
    client.move_clock(advance_s=86_400)
    bodies = [message["Body"] for message in client.read_queue(url)]
    assert json.loads(bodies[0])["Message"] == "at 2026-03-02T01:00:00Z"
    assert bodies[1] == "directly"


def test_what_cannot_be_created_goes_to_the_dead_letter_queue(client: Client) -> None:
    """The same checks as over HTTP, with the same words."""
    url, dead = client.make_queue("dead")
    bad = JOB | {"ResourceConfig": {"InstanceType": "ml.huge", "InstanceCount": 1, "VolumeSizeInGB": 30}}
    arn = client.create("bad", Target=make_target(bad, DeadLetterConfig={"Arn": dead}))
    client.move_clock(advance_s=86_400)
    (execution,) = client.executions("bad")
    assert (execution["outcome"], execution["attempts"], execution["dead_letter"]) == ("failed", 1, "dead")
    (message,) = client.read_queue(url)
    assert json.loads(message["Body"])["TrainingJobName"] == f"weekly-{execution['execution_id']}"
    found = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    code, words = refusal(client.service("sagemaker").create_training_job, **bad | {"TrainingJobName": "direct"})
    assert found == {
        "ERROR_CODE": code,
        "ERROR_MESSAGE": words,
        "EXECUTION_ID": execution["execution_id"],
        "IS_PAYLOAD_TRUNCATED": "false",
        "RETRY_ATTEMPTS": "0",
        "SCHEDULED_TIME": "2026-03-02T03:00:00Z",
        "SCHEDULE_ARN": arn,
        "TARGET_ARN": CREATE_JOB,
    }


# The clock


def test_the_clock_goes_forward_only_and_takes_nothing_else(shared: Client) -> None:
    assert shared.ask("GET", "/_local/clock") == {"now": START, "is_simulated": True}
    senseless = [{"advance_s": value} for value in (1e300, math.nan, math.inf, 10**400, 252e9)]
    senseless += [{"to": "2026-03-01T00:00:00Z"}, {"to": "soon"}, {"to": "9999-06-01T00:00:00Z"}, {"to": math.nan}]
    for body in (*senseless, {}, {"by": 1}, {"to": START, "advance_s": 1}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            shared.move_clock(**body)
        assert caught.value.code == 400
        caught.value.close()
    assert shared.ask("GET", "/_local/clock")["now"] == START


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500)
        self.end_headers()
        self.wfile.write(b"<h1>Internal Server Error</h1>")

    def log_message(self, *_: Any) -> None: ...


def test_an_answer_that_cannot_be_read_is_an_error_of_ours() -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(LocalEndpointError, match="Asking for the time: .* cannot be read") as refused:
            lifecycle._read("Asking for the time", server.server_port, "GET", "/_local/clock")
        thread.join()
    assert "local status" in refused.value.hint


def test_a_senseless_clock_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("tomorrow", "2026-03-02T00:00:00"):
        monkeypatch.setenv("LAUNCHER_LOCAL_CLOCK", text)
        with pytest.raises(LocalEndpointError, match="LAUNCHER_LOCAL_CLOCK"):
            load_settings()


# The protocol


def test_a_schedule_is_described_as_it_was_created(client: Client) -> None:
    given = make_schedule(
        "full-1.0_x",
        "rate(2 hours)",
        Description="words",
        State="DISABLED",
        StartDate=datetime(2026, 3, 2, 0, 30, tzinfo=UTC),
        EndDate=datetime(2026, 4, 1, tzinfo=UTC),
        ScheduleExpressionTimezone="Europe/Berlin",
        ActionAfterCompletion="DELETE",
        FlexibleTimeWindow={"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15},
        Target=make_target(RetryPolicy={"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 600}),
    )
    assert client.scheduler.create_schedule(**given)["ScheduleArn"].endswith(":schedule/default/full-1.0_x")
    found = client.scheduler.get_schedule(Name="full-1.0_x", GroupName="default")
    assert {key: found[key] for key in given} == given
    assert found["CreationDate"] == found["LastModificationDate"] == datetime(2026, 3, 2, tzinfo=UTC)


def test_an_update_resets_what_it_is_not_given(client: Client) -> None:
    client.create("changed", Description="words", State="DISABLED", ScheduleExpressionTimezone="Europe/Berlin")
    client.move_clock(advance_s=3600)
    client.scheduler.update_schedule(**make_schedule("changed", "cron(0 4 ? * MON *)"))
    found = client.scheduler.get_schedule(Name="changed")
    assert "Description" not in found
    assert (found["State"], found["ScheduleExpressionTimezone"]) == ("ENABLED", "UTC")
    assert found["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
    assert found["LastModificationDate"] - found["CreationDate"] == datetime(1, 1, 1, 1) - datetime(1, 1, 1)
    client.move_clock(advance_s=86_400)
    assert [row["scheduled_time"] for row in client.executions("changed")] == ["2026-03-02T04:00:00Z"]


def test_names_are_taken_unknown_or_given_back(client: Client) -> None:
    client.create("one")
    assert refusal(client.create, "one") == ("ConflictException", "Schedule one already exists.")
    not_found = ("ResourceNotFoundException", "Schedule two does not exist.")
    assert refusal(client.scheduler.get_schedule, Name="two") == not_found
    assert refusal(client.scheduler.delete_schedule, Name="two") == not_found
    assert refusal(client.scheduler.update_schedule, **make_schedule("two")) == not_found
    assert refusal(client.create, "two", GroupName="nowhere")[0] == "ResourceNotFoundException"
    assert refusal(client.scheduler.list_schedules, GroupName="nowhere")[0] == "ResourceNotFoundException"
    client.scheduler.delete_schedule(Name="one")
    assert client.scheduler.list_schedules()["Schedules"] == []
    client.create("one")


def test_a_request_with_the_same_token_is_one_request(client: Client) -> None:
    arn = client.create("once", ClientToken="token-1")
    assert client.create("once", ClientToken="token-1") == arn
    code, message = refusal(client.create, "other", ClientToken="token-1")
    assert code == "ConflictException"
    assert "ClientToken" in message
    for _ in range(2):
        client.scheduler.delete_schedule(Name="once", ClientToken="token-2")
    assert client.scheduler.list_schedules()["Schedules"] == []


LARGE = {"Environment": {"K": "x" * 300_000}}
BAD_SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "five fields": ({"ScheduleExpression": "cron(0 3 * * MON)"}, "Add the year: cron(0 3 ? * MON *)"),
    "never": ({"ScheduleExpression": "cron(0 0 30 2 ? *)"}, "never fires"),
    "past": ({"ScheduleExpression": "at(2020-01-01T00:00:00)"}, "lies in the past"),
    "zone": ({"ScheduleExpressionTimezone": "Berlin"}, "Did you mean Europe/Berlin?"),
    "start": ({"StartDate": datetime(2026, 3, 1, tzinfo=UTC)}, "StartDate"),
    "end": ({"EndDate": datetime(2026, 3, 1, tzinfo=UTC)}, "EndDate"),
    "name": ({"Name": "a b"}, "Value 'a b' at 'name'"),
    "window": ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "MaximumWindowInMinutes"),
    "role": ({"Target": make_target(RoleArn="me")}, "at 'target.roleArn'"),
    "target": ({"Target": make_target(Arn=f"{AWS_SDK}lambda:invoke")}, f"{AWS_SDK}sns:publish"),
    "queue as target": ({"Target": make_target(Arn="arn:aws:sqs:us-east-1:123456789012:q")}, "cannot call"),
    "large": ({"Target": make_target(JOB | LARGE)}, "262,144 are allowed"),
    "no input": ({"Target": {"Arn": CREATE_JOB, "RoleArn": ROLE}}, "needs an Input"),
    "no json": ({"Target": make_target(Input="{")}, "not JSON"),
    "no object": ({"Target": make_target(Input="[]")}, "not a JSON object"),
    "retries": ({"Target": make_target(RetryPolicy={"MaximumRetryAttempts": 186})}, "less than or equal to 185"),
}


@pytest.mark.parametrize("case", BAD_SCHEDULES)
def test_a_bad_schedule_is_refused_with_its_place(shared: Client, case: str) -> None:
    change, words = BAD_SCHEDULES[case]
    code, message = refusal(shared.scheduler.create_schedule, **make_schedule("bad") | change)
    assert code == "ValidationException"
    assert words in message
    assert shared.scheduler.list_schedules()["Schedules"] == []


def test_an_input_of_the_largest_size_is_taken(client: Client) -> None:
    request = json.dumps(JOB)
    largest = request + " " * (256 * 1024 - len(request))
    client.create("large", Target=make_target(Input=largest))
    assert client.scheduler.get_schedule(Name="large")["Target"]["Input"] == largest


def test_lists_filter_and_page(client: Client) -> None:
    client.scheduler.create_schedule_group(Name="team")
    for number in range(5):
        client.create(f"a-{number}")
    client.create("b", State="DISABLED")
    client.create("a-0", GroupName="team")

    def names(**filters: Any) -> list[str]:
        pages = client.scheduler.get_paginator("list_schedules").paginate(**filters, PaginationConfig={"PageSize": 2})
        return [f"{row['GroupName']}/{row['Name']}" for page in pages for row in page["Schedules"]]

    every = [f"default/a-{number}" for number in range(5)]
    assert names() == [*every, "default/b", "team/a-0"]
    assert names(GroupName="default", NamePrefix="a") == every
    assert names(State="DISABLED") == ["default/b"]
    first = client.scheduler.list_schedules(MaxResults=3)
    assert set(first["Schedules"][0]["Target"]) == {"Arn"}
    client.create("a-00")
    second = client.scheduler.list_schedules(MaxResults=3, NextToken=first["NextToken"])
    assert [row["Name"] for row in second["Schedules"]] == ["a-3", "a-4", "b"]
    assert refusal(client.scheduler.list_schedules, NextToken="x")[0] == "ValidationException"


def test_groups_hold_schedules_and_tags(client: Client) -> None:
    arn = client.scheduler.create_schedule_group(Name="team", Tags=[{"Key": "k", "Value": "v"}])["ScheduleGroupArn"]
    assert client.scheduler.get_schedule_group(Name="team")["Arn"] == arn
    assert refusal(client.scheduler.create_schedule_group, Name="team")[0] == "ConflictException"
    groups = client.scheduler.list_schedule_groups()["ScheduleGroups"]
    assert [(group["Name"], group["State"]) for group in groups] == [("default", "ACTIVE"), ("team", "ACTIVE")]
    assert client.scheduler.list_schedule_groups(NamePrefix="t")["ScheduleGroups"] == groups[1:]
    client.scheduler.tag_resource(ResourceArn=arn, Tags=[{"Key": "Ort", "Value": "Köln"}])
    client.scheduler.untag_resource(ResourceArn=arn, TagKeys=["k", "absent"])
    assert client.scheduler.list_tags_for_resource(ResourceArn=arn)["Tags"] == [{"Key": "Ort", "Value": "Köln"}]
    client.create("mine", GroupName="team")
    client.scheduler.delete_schedule_group(Name="team")
    assert client.scheduler.list_schedules()["Schedules"] == []
    assert refusal(client.scheduler.get_schedule_group, Name="team")[0] == "ResourceNotFoundException"
    assert refusal(client.scheduler.list_tags_for_resource, ResourceArn=arn)[0] == "ResourceNotFoundException"
    assert "default" in refusal(client.scheduler.delete_schedule_group, Name="default")[1]


# Told when a job ends


def make_rule(client: Client, name: str, topic: str, **target: Any) -> None:
    pattern = {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Training Job State Change"],
        "detail": {"TrainingJobStatus": ["Failed", "Stopped"], "TrainingJobName": [{"prefix": name}]},
    }
    events = client.service("events")
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=name, Targets=[{"Id": "topic", "Arn": topic, **target}])


def test_a_topic_is_told_of_a_failed_job(client: Client) -> None:
    url, queue = client.make_queue("notices")
    sns = client.service("sns")
    topic = sns.create_topic(Name="failures")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
    paths = {"job": "$.detail.TrainingJobName", "why": "$.detail.FailureReason"}
    make_rule(client, "plain", topic)
    make_rule(client, "words", topic, InputTransformer={"InputPathsMap": paths, "InputTemplate": '"<job>: <why>"'})
    make_rule(client, "off", topic)
    client.service("events").disable_rule(Name="off")
    sagemaker = client.service("sagemaker")
    for name in ("off-1", "other-1", "plain-1", "words-1"):
        sagemaker.create_training_job(**JOB | {"TrainingJobName": name, "Tags": [{"Key": "run", "Value": name}]})
    found: list[str] = []
    poll(
        lambda: found.extend(json.loads(one["Body"])["Message"] for one in client.read_queue(url)),
        lambda _: len(found) >= 2,
    )
    event, words = json.loads(found[0]), found[1]
    assert event["source"] == "aws.sagemaker"
    detail = event["detail"]
    assert (detail["TrainingJobName"], detail["TrainingJobStatus"]) == ("plain-1", "Failed")
    assert detail["Tags"] == {"run": "plain-1"}
    assert isinstance(detail["CreationTime"], int)
    assert event["resources"] == [detail["TrainingJobArn"]]
    assert words.startswith("words-1: InternalServerError: the local runner")
    poll(
        lambda: sagemaker.describe_training_job(TrainingJobName="words-1")["TrainingJobStatus"],
        lambda status: status == "Failed",
    )
    assert len(found) == 2
    assert client.read_queue(url) == []
    client.service("events").remove_targets(Rule="plain", Ids=["topic"])
    client.service("events").remove_targets(Rule="words", Ids=["topic"])


# Over restarts


def test_schedules_are_kept_when_the_endpoint_is_stopped(place: Endpoint) -> None:
    place.client.scheduler.create_schedule_group(Name="team")
    place.client.create("kept", GroupName="team")
    place.client.move_clock(advance_s=4 * 3600)
    before = place.client.scheduler.get_schedule(Name="kept", GroupName="team")
    executions = place.client.executions()
    place.close()
    client = place.open()
    after = client.scheduler.get_schedule(Name="kept", GroupName="team")
    assert {**after, "ResponseMetadata": 0} == {**before, "ResponseMetadata": 0}
    assert client.executions() == executions
    assert client.ask("GET", "/_local/clock")["now"] == "2026-03-02T04:00:00Z"
    client.move_clock(advance_s=7 * 86_400)
    assert len(client.job_names()) == 2


def test_a_killed_endpoint_has_its_schedules_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: Any
) -> None:
    """The process itself, awscli and `local status` with it; and moto is not loaded for any of that."""
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAUNCHER_LOCAL_CLOCK", START)
    endpoint = lifecycle.ensure_endpoint()
    try:
        Client(endpoint.url).create("kept")
        process = find_process(endpoint.pid)
        assert isinstance(process, ProcessId)
        send_signal(process, 9)
        assert wait_for_end(process, DEADLINE_S)
        endpoint = lifecycle.ensure_endpoint()
        command = [Path(sys.executable).with_name("aws"), "--endpoint-url", endpoint.url, "--region", "us-east-1"]
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        done = subprocess.run(
            [*command, "scheduler", "list-schedules"], env=environment, capture_output=True, text=True
        )
        assert [row["Name"] for row in json.loads(done.stdout)["Schedules"]] == ["kept"]
        client = Client(endpoint.url)
        client.move_clock(advance_s=86_400)
        poll(lambda: client.ask("GET", "/_local/health")["jobs"], lambda jobs: jobs.get("Failed") == 1)
        assert [row["outcome"] for row in lifecycle.list_executions("default", "kept")] == ["started"]
        listed = launch("local", "firings").stdout.splitlines()
        assert listed[1].split() == ["2026-03-02T03:00:00Z", "default/kept", "started", *client.job_names()]
        status = json.loads(launch("local", "status", "--json").stdout)
        assert (status["schedules"], status["next_firing"]) == (1, "2026-03-09T03:00:00Z")
        assert client.ask("GET", "/_local/health")["is_moto_loaded"] is False
    finally:
        lifecycle.reset(force=True)
    assert not (tmp_path / "home" / "local").exists()
