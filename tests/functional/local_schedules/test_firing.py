"""Schedules that fire: by the clock, into topics and queues, over restarts."""

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
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LocalEndpointError
from launcher.local import lifecycle
from launcher.local.processes import ProcessId, find_process, send_signal, wait_for_end
from launcher.local.settings import load_settings

START = "2026-03-02T00:00:00Z"  # a Monday
AWS_SDK = "arn:aws:scheduler:::aws-sdk:"
CREATE_JOB = f"{AWS_SDK}sagemaker:createTrainingJob"
DEADLINE_S = 40.0


# Firing


def test_four_weeks_pass_in_a_moment_and_make_four_jobs(client: Any) -> None:
    job = client.job | {
        "CheckpointConfig": {"S3Uri": "s3://bucket/runs/<aws.scheduler.execution-id>/checkpoints"},
        "Tags": [
            {"Key": "time", "Value": "<aws.scheduler.scheduled-time>"},
            {"Key": "schedule", "Value": "<aws.scheduler.schedule-arn>"},
            {"Key": "attempt", "Value": "<aws.scheduler.attempt-number>"},
        ],
    }
    arn = client.create("weekly", ScheduleExpressionTimezone="Europe/Berlin", Target=client.make_target(job))
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


def test_a_schedule_fires_by_the_clock_of_this_machine(tmp_path: Path, make_endpoint: Callable[..., Any]) -> None:
    place = make_endpoint(tmp_path / "root")
    try:
        soon = datetime.fromtimestamp(int(time.time()) + 5, UTC)
        place.client.create("soon", f"at({soon:%Y-%m-%dT%H:%M:%S})")
        place.client.create("now", "rate(1 day)")
        place.client.poll(place.client.executions, lambda found: [row["outcome"] for row in found] == ["started"] * 2)
        assert len(place.client.job_names()) == 2
        with pytest.raises(urllib.error.HTTPError) as caught:
            place.client.move_clock(advance_s=1)
        assert caught.value.code == 403
        caught.value.close()
    finally:
        place.close()


def test_messages_are_sent_to_topics_and_queues(client: Any) -> None:
    url, arn = client.make_queue("told")
    sns = client.service("sns")
    topic = sns.create_topic(Name="told")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    to_topic = client.make_target(
        {"TopicArn": topic, "Message": "at <aws.scheduler.scheduled-time>"}, Arn=f"{AWS_SDK}sns:publish"
    )
    to_queue = client.make_target({"QueueUrl": url, "MessageBody": "directly"}, Arn=f"{AWS_SDK}sqs:sendMessage")
    client.create("topic", "at(2026-03-02T01:00:00)", Target=to_topic)
    client.create("queue", "at(2026-03-02T02:00:00)", Target=to_queue)
    client.move_clock(advance_s=86_400)
    bodies = [message["Body"] for message in client.read_queue(url)]
    assert json.loads(bodies[0])["Message"] == "at 2026-03-02T01:00:00Z"
    assert bodies[1] == "directly"


def test_what_cannot_be_created_goes_to_the_dead_letter_queue(client: Any) -> None:
    """The same checks as over HTTP, with the same words."""
    url, dead = client.make_queue("dead")
    bad = client.job | {"ResourceConfig": {"InstanceType": "ml.huge", "InstanceCount": 1, "VolumeSizeInGB": 30}}
    arn = client.create("bad", Target=client.make_target(bad, DeadLetterConfig={"Arn": dead}))
    client.move_clock(advance_s=86_400)
    (execution,) = client.executions("bad")
    assert (execution["outcome"], execution["attempts"], execution["dead_letter"]) == ("failed", 1, "dead")
    (message,) = client.read_queue(url)
    assert json.loads(message["Body"])["TrainingJobName"] == f"weekly-{execution['execution_id']}"
    found = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    code, words = client.refusal(client.service("sagemaker").create_training_job, **bad | {"TrainingJobName": "direct"})
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


def test_the_clock_goes_forward_only_and_takes_nothing_else(shared: Any) -> None:
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


# Told when a job ends


def make_rule(client: Any, name: str, topic: str, **target: Any) -> None:
    pattern = {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Training Job State Change"],
        "detail": {"TrainingJobStatus": ["Failed", "Stopped"], "TrainingJobName": [{"prefix": name}]},
    }
    events = client.service("events")
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=name, Targets=[{"Id": "topic", "Arn": topic, **target}])


def test_a_topic_is_told_of_a_failed_job(client: Any) -> None:
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
        sagemaker.create_training_job(**client.job | {"TrainingJobName": name, "Tags": [{"Key": "run", "Value": name}]})
    found: list[str] = []
    client.poll(
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
    client.poll(
        lambda: sagemaker.describe_training_job(TrainingJobName="words-1")["TrainingJobStatus"],
        lambda status: status == "Failed",
    )
    assert len(found) == 2
    assert client.read_queue(url) == []
    client.service("events").remove_targets(Rule="plain", Ids=["topic"])
    client.service("events").remove_targets(Rule="words", Ids=["topic"])


# Over restarts


def test_schedules_are_kept_when_the_endpoint_is_stopped(place: Any) -> None:
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: Any, make_client: Callable[[str], Any]
) -> None:
    """The process itself, awscli and `local status` with it; and moto is not loaded for any of that."""
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAUNCHER_LOCAL_CLOCK", START)
    endpoint = lifecycle.ensure_endpoint()
    try:
        make_client(endpoint.url).create("kept")
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
        client = make_client(endpoint.url)
        client.move_clock(advance_s=86_400)
        client.poll(lambda: client.ask("GET", "/_local/health")["jobs"], lambda jobs: jobs.get("Failed") == 1)
        assert [row["outcome"] for row in lifecycle.list_executions("default", "kept")] == ["started"]
        listed = launch("local", "firings").stdout.splitlines()
        assert listed[1].split() == ["2026-03-02T03:00:00Z", "default/kept", "started", *client.job_names()]
        status = json.loads(launch("local", "status", "--json").stdout)
        assert (status["schedules"], status["next_firing"]) == (1, "2026-03-09T03:00:00Z")
        assert client.ask("GET", "/_local/health")["is_moto_loaded"] is False
    finally:
        lifecycle.reset(force=True)
    assert not (tmp_path / "home" / "local").exists()
