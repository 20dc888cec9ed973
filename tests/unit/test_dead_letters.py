"""The dead-letter queue, read by a stubbed SQS: all of it, left as it was, and honest about what it did not see."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore.stub import ANY, Stubber

from launcher.aws.schedules import list_dead
from launcher.aws.session import Session
from launcher.errors import SiteError

QUEUE = "arn:aws:sqs:us-east-1:123456789012:dead"
URL = "https://sqs.us-east-1.amazonaws.com/123456789012/dead"
A, B = "arn:aws:scheduler:us-east-1:1:schedule/launcher/a", "arn:aws:scheduler:us-east-1:1:schedule/launcher/b"


@pytest.fixture
def sqs() -> Stubber:
    client = botocore.session.get_session().create_client(
        "sqs", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    stubber = Stubber(client)
    stubber.add_response("get_queue_url", {"QueueUrl": URL}, {"QueueName": "dead"})
    stubber.activate()
    return stubber


def _session(sqs: Stubber) -> Session:
    return Session("aws", "us-east-1", _clients={"sqs": sqs.client})


def _letter(number: int, schedule: str) -> dict[str, Any]:
    attributes = {"SCHEDULE_ARN": schedule, "ERROR_CODE": "ValidationException"}
    return {
        "MessageId": str(number),
        "ReceiptHandle": f"handle-{number}",
        "MessageAttributes": {key: {"DataType": "String", "StringValue": value} for key, value in attributes.items()},
    }


def _hold(sqs: Stubber, letters: list[dict[str, Any]], *, hidden: int = 0) -> None:
    """What a queue with these letters answers, one read after the other; `hidden` ones another reader has."""
    counts = {"ApproximateNumberOfMessages": str(len(letters)), "ApproximateNumberOfMessagesNotVisible": str(hidden)}
    sqs.add_response("get_queue_attributes", {"Attributes": counts}, {"QueueUrl": URL, "AttributeNames": ANY})
    pages = [letters[start : start + 10] for start in range(0, len(letters), 10)]
    for page in [*pages, []]:
        asked = {"VisibilityTimeout": 60, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1}
        asked |= {"QueueUrl": URL, "MessageAttributeNames": ["All"]}
        sqs.add_response("receive_message", {"Messages": page} if page else {}, asked)
    for page in pages:
        entries = [
            {"Id": str(place), "ReceiptHandle": letter["ReceiptHandle"], "VisibilityTimeout": 0}
            for place, letter in enumerate(page)
        ]
        sqs.add_response(
            "change_message_visibility_batch", {"Successful": [], "Failed": []}, {"QueueUrl": URL, "Entries": entries}
        )


@pytest.mark.parametrize(("schedule", "count"), [(A, 28), (B, 1)])
def test_the_letters_of_one_schedule_are_found_behind_those_of_others(sqs: Stubber, schedule: str, count: int) -> None:
    said: list[str] = []
    _hold(sqs, [*(_letter(number, A) for number in range(28)), _letter(28, B)])
    found = list_dead(_session(sqs), QUEUE, schedule, said.append)
    assert [letter["SCHEDULE_ARN"] for letter in found] == [schedule] * count
    assert said == []
    sqs.assert_no_pending_responses()  # the empty read was reached, and every letter was given back


def test_letters_that_another_reader_holds_are_spoken_of(sqs: Stubber) -> None:
    said: list[str] = []
    _hold(sqs, [_letter(0, A)], hidden=3)
    assert len(list_dead(_session(sqs), QUEUE, A, said.append)) == 1
    assert "1 of about 4 dead letters" in said[0]
    assert "may be missing" in said[0]


def test_letters_are_given_back_when_reading_is_refused_midway(sqs: Stubber) -> None:
    counts = {"ApproximateNumberOfMessages": "20"}
    sqs.add_response("get_queue_attributes", {"Attributes": counts})
    sqs.add_response("receive_message", {"Messages": [_letter(0, A)]})
    sqs.add_client_error("receive_message", "AccessDenied", "not any more")
    sqs.add_response("change_message_visibility_batch", {"Successful": [], "Failed": []})
    with pytest.raises(SiteError, match="reading the dead-letter queue"):
        list_dead(_session(sqs), QUEUE, A)
    sqs.assert_no_pending_responses()
