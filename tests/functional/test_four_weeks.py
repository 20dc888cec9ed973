"""Four simulated weeks of a schedule: real jobs, on a clock that the test moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import (
    create_schedule,
    find_champion,
    list_moves,
    load_recipe,
    make_plan,
    promote_job,
    publish,
    roll_back_champion,
)
from launcher.aws.session import Session, open_session
from launcher.errors import ArtifactError, JobFailed, RunError
from launcher.job import Job
from launcher.recipe import Recipe
from launcher.retraining.executions import Execution
from launcher.retraining.schedule import Schedule

RECIPE = """
name = "weekly"
[data]
train = "train.jsonl"
eval = "eval.jsonl"
max_length = 64
[compute]
instance = "local"
[training]
save_strategy = "epoch"
[schedule]
promote = "if-better"
"""
WORDS = ("red", "green", "blue", "black", "white", "grey", "pink", "brown")


def _rows(start: int, count: int, answer: Callable[[int], str]) -> list[dict[str, str]]:
    return [
        {"prompt": f"Colour {number} of {WORDS[number % 8]}?\nAnswer:", "completion": f" {answer(number)}"}
        for number in range(start, start + count)
    ]


def _right(number: int) -> str:
    return f"It is {WORDS[number % 8]}, as you said."


def _half_right(number: int) -> str:
    return _right(number) if number % 4 == 0 else f"Ask {number % 7} of them."


def _poison(number: int) -> str:
    return "zzz qqq xxx vvv kkk jjj " * 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("four-weeks")
    env = {**os.environ, "LAUNCHER_HOME": str(folder), "LAUNCHER_LOCAL_CLOCK": "2026-03-01T00:00:00Z"}
    words = [sys.executable, "-m", "launcher", "local"]
    subprocess.run([*words, "up"], env=env, check=True, capture_output=True)
    yield folder
    subprocess.run([*words, "reset", "--force"], env=env, check=True, capture_output=True)


@pytest.fixture
def session(home: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("LAUNCHER_HOME", str(home))
    monkeypatch.setenv("LAUNCHER_LOCAL_CLOCK", "2026-03-01T00:00:00Z")
    return open_session("local")


@pytest.fixture
def recipe(tmp_path: Path, write_rows: Callable[..., Path]) -> Recipe:
    write_rows("eval.jsonl", _rows(1000, 40, _right))
    write_rows("train.jsonl", _rows(0, 60, _half_right))
    path = tmp_path / "weekly.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return load_recipe(path, smoke=True)


def _go_to(session: Session, time: str) -> None:
    body = json.dumps({"to": time}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{session.service_url}/_local/clock", body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["is_simulated"]


def _fire(schedule: Schedule, time: str) -> Execution:
    """Let the clock pass a firing, and wait for the job that it made."""
    before = {execution.job for execution in schedule.executions()}
    _go_to(schedule.session, time)
    (made,) = [execution for execution in schedule.executions() if execution.job not in before]
    job = Job(made.job, schedule.session)
    try:
        job.wait(timeout=120)
    except JobFailed as error:
        pytest.fail("\n".join([str(error), *job.logs()]))
    return next(iter(schedule.executions()))


def _listen(session: Session, topic: str) -> str:
    sqs = session.client("sqs")
    url = sqs.create_queue(QueueName="told")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    session.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return str(url)


def _notices(session: Session, url: str) -> list[dict[str, Any]]:
    sqs, found = session.client("sqs"), []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            found.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def test_only_what_is_better_becomes_champion(session, recipe, write_rows, launch, tmp_path) -> None:
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), "cron(0 3 ? * MON *)", "Europe/Berlin")
    told = _listen(session, json.loads(schedule.request["HyperParameters"]["notify_topic"]))

    # the first week trains, and what it trained is better than the base
    first = _fire(schedule, "2026-03-02T03:00:00Z")
    assert first.outcome.startswith("promoted: "), "\n".join(Job(first.job, session).logs())
    assert find_champion(recipe).check().job == first.job

    # the second has nothing new, and ends at once
    second = _fire(schedule, "2026-03-09T03:00:00Z")
    assert (second.status, second.outcome.partition(":")[0]) == ("completed", "unchanged")
    assert first.job in second.outcome
    assert "Training:" not in "\n".join(Job(second.job, session).logs())
    with pytest.raises(ArtifactError, match=f"unchanged.*{first.job}"):
        Job(second.job, session).fetch(tmp_path / "nothing")

    # the third has better data
    write_rows("train.jsonl", _rows(0, 120, _right))
    publish(make_plan(recipe))
    third = _fire(schedule, "2026-03-16T03:00:00Z")
    assert third.outcome.startswith("promoted: The challenger lowered the loss"), third.outcome
    assert find_champion(recipe).job == third.job

    # the fourth has been poisoned
    write_rows("train.jsonl", _rows(0, 120, _poison))
    publish(make_plan(recipe))
    fourth = _fire(schedule, "2026-03-23T03:00:00Z")
    assert fourth.outcome.startswith("refused: The challenger raised the loss"), fourth.outcome
    assert find_champion(recipe).check().job == third.job
    subjects = [notice["Subject"] for notice in _notices(session, told)]
    assert subjects == ["weekly: promoted", "weekly: promoted", "weekly: refused"]

    # the whole story, and going back
    assert [(move.before, move.after) for move in reversed(list_moves(recipe))] == [
        ("", first.job),
        (first.job, third.job),
    ]
    history = json.loads(launch("schedule", "history", "weekly", "--place", "local", "--json").stdout)
    assert [line["job"] for line in history] == [fourth.job, third.job, second.job, first.job]
    paid = next(iter(schedule.executions(lambda instance, region: 3600.0)))
    assert paid.cost == paid.billed_s > 0
    assert history[0]["cost"] is None  # this machine sends no bill
    with pytest.raises(RunError, match="refused"):
        promote_job(fourth.job, "local")
    assert roll_back_champion(recipe).check().job == first.job
    by_hand = promote_job(third.job, "local").check()
    assert (by_hand.job, by_hand.record["by"]) == (third.job, "hand")
    assert by_hand.record["previous"].endswith(f"/{first.job}/")

    # a firing that made no job is in the history too
    broken = {**schedule.request, "ResourceConfig": {"InstanceType": "ml.none", "InstanceCount": 1}}
    schedule.put(Target={**schedule.params["Target"], "Input": json.dumps(broken)})
    _go_to(session, "2026-03-30T03:00:00Z")
    (dead,) = [execution for execution in schedule.executions() if not execution.job]
    assert dead.status == "not created"
    assert dead.outcome.startswith("ValidationException: ")
    assert f"{dead.time:%Y-%m-%d %H:%M}" == "2026-03-30 01:00"  # Berlin's clocks went forward on the 29th
