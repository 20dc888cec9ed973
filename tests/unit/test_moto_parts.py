"""Queues and topics in this process's memory, made again for schedules that outlived them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.local.json_protocol import ApiError
from launcher.local.moto_parts import MotoParts
from launcher.local.schedule_book import ScheduleBook
from launcher.local.settings import Settings

ACCOUNT = "210987654321"  # moto keeps one set of everything for the whole process; here nobody else has any


def test_what_stored_schedules_name_is_made_again_and_nothing_else(tmp_path: Path) -> None:
    parts = MotoParts(Settings(account=ACCOUNT))
    topic = f"arn:aws:sns:us-east-1:{ACCOUNT}:told"
    request = {"HyperParameters": {"notify_topic": json.dumps(topic)}}
    target = {
        "Input": json.dumps(request),
        "DeadLetterConfig": {"Arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:dead"},
        "RoleArn": "arn:aws:sqs:eu-west-1:999999999999:elsewhere",
    }
    book = ScheduleBook(tmp_path / "book.sqlite")
    book.add_group({"Name": "g"}, {})
    book.add({"GroupName": "g", "Name": "s", "Target": target}, 0.0, None)
    stored = "\n".join(json.dumps(schedule.document) for schedule in book.schedules())
    book.close()
    with pytest.raises(ApiError):
        parts.send_message("dead", "lost")
    for _ in range(2):
        parts.make_again(stored)
        parts.send_message("dead", "kept")
        parts.publish(topic, "heard")
    backend = parts._find_backend("sqs")
    assert list(backend.queues) == ["dead"]
    assert len(backend.queues["dead"].messages) == 2  # one that is there stays as it is
