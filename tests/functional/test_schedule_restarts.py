"""What schedules need on this machine, through a restart of the endpoint, and on a clock that a test moves."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from launcher import attach_schedule
from launcher.aws import schedules
from launcher.aws.session import Session, find_now, open_session
from launcher.local import lifecycle

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday, and not today


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAUNCHER_LOCAL_CLOCK", f"{START:%Y-%m-%dT%H:%M:%SZ}")
    yield open_session("local")
    lifecycle.reset(force=True)


def _create(session: Session, name: str, expression: str) -> str:
    """A schedule whose every firing is refused; answers the topic that its jobs would tell."""
    home = schedules.find_home(session)
    request: dict[str, Any] = {
        "TrainingJobName": f"{name}-<aws.scheduler.execution-id>",
        "RoleArn": home.role,
        "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/output"},
        "ResourceConfig": {"InstanceType": "ml.none", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 300},
        "HyperParameters": {"notify_topic": json.dumps(home.topic)},
    }
    schedules.create(
        session,
        {
            "Name": name,
            "GroupName": schedules.GROUP,
            "ScheduleExpression": expression,
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": schedules.make_target(home, request, 2),
        },
    )
    return home.topic


def _advance(session: Session, seconds: int) -> None:
    body = json.dumps({"advance_s": seconds}).encode()
    request = urllib.request.Request(f"{session.service_url}/_local/clock", body, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["is_simulated"]


def test_failed_firings_are_in_the_history_and_letters_find_a_queue_after_a_restart(place: Session) -> None:
    topic = _create(place, "daily", "cron(0 3 * * ? *)")
    _create(place, "other", "cron(0 4 1 * ? *)")
    _advance(place, 28 * 86_400)
    assert lifecycle.stop_endpoint()

    session = open_session("local")
    daily = attach_schedule("daily", "local")
    found = list(daily.executions())
    assert [(one.status, one.job) for one in found] == [("not created", "")] * 28
    assert f"{found[0].time:%Y-%m-%d %H:%M}" == "2026-03-29 03:00"
    assert all(one.outcome.startswith("ValidationException: ") for one in found)
    assert list(attach_schedule("other", "local").executions()) == []
    session.client("sns").publish(TopicArn=topic, Message="a verdict")
    _advance(session, 86_400)
    assert lifecycle.list_executions("launcher", "daily")[-1]["dead_letter"] == "launcher-schedules-dead"
    assert len(list(daily.executions())) == 29


def test_the_next_firing_goes_by_the_endpoints_own_clock(place: Session) -> None:
    _create(place, "weekly", "cron(0 3 ? * MON *)")
    weekly = attach_schedule("weekly", "local")
    assert weekly.next_firings(1) == [datetime(2026, 3, 2, 3, tzinfo=UTC)]
    _advance(place, 86_400)
    assert find_now("local") == datetime(2026, 3, 3, tzinfo=UTC)
    assert weekly.next_firings(1) == [datetime(2026, 3, 9, 3, tzinfo=UTC)]
    assert "2026-03-09 03:00" in dict(weekly.rows())["next"]
    # by the real clock its only time has passed
    _create(place, "once", "at(2026-03-05T03:00:00)")
    assert attach_schedule("once", "local").pause().resume().next_firings() == [datetime(2026, 3, 5, 3, tzinfo=UTC)]


def test_the_letters_of_a_schedule_are_all_read_and_all_left(endpoint: Path) -> None:
    """As on AWS, against a queue that hides what was read."""
    here = open_session("local")
    session = Session("aws", here.region, here.service_url, here.credentials)
    sqs = session.client("sqs")
    url = sqs.create_queue(QueueName="many-letters")["QueueUrl"]
    for number in range(29):
        arn = "b" if number == 28 else "a"
        attributes = {"SCHEDULE_ARN": {"DataType": "String", "StringValue": arn}}
        sqs.send_message(QueueUrl=url, MessageBody=str(number), MessageAttributes=attributes)
    queue = "arn:aws:sqs:us-east-1:123456789012:many-letters"
    said: list[str] = []
    for _ in range(2):
        assert len(schedules.list_dead(session, queue, "a", said.append)) == 28
        assert len(schedules.list_dead(session, queue, "b", said.append)) == 1
    assert said == []
    sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=5, VisibilityTimeout=600)
    assert len(schedules.list_dead(session, queue, "a", said.append)) == 23
    assert "24 of about 29 dead letters" in said[0]
