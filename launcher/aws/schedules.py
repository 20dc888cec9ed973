"""EventBridge Scheduler as AWS has it, and what a schedule needs around it: a group, a role, a queue, a topic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from launcher.aws.errors import explained
from launcher.aws.session import LOCAL_ACCOUNT, Session
from launcher.aws.shapes import find_violations
from launcher.errors import InputError, RunError, SiteError
from launcher.progress import Say, silent

TARGET = "arn:aws:scheduler:::aws-sdk:sagemaker:createTrainingJob"
GROUP = "launcher"
STACK = "launcher-schedule"
MAX_EVENT_AGE_S = 3600
# What UpdateSchedule takes; whatever it is not given it resets.
UPDATABLE = (
    "Name", "GroupName", "ScheduleExpression", "StartDate", "EndDate", "Description", "ScheduleExpressionTimezone",
    "State", "KmsKeyArn", "Target", "FlexibleTimeWindow", "ActionAfterCompletion",
)  # fmt: skip
ABSENT = "ResourceNotFoundException"
LETTERS_A_READ = 10  # as many as SQS hands out at once
MOST_READS = 100
HIDDEN_S = 60  # longer than reading takes; only a reader that is killed hides them for so long
LETTER_COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]


@dataclass(frozen=True)
class Home:
    """What schedules act with. `topic` is empty where nobody is to be told."""

    role: str
    queue: str
    topic: str = ""


def find_home(session: Session, *, role: str = "", queue: str = "", told: str = "") -> Home:
    """As given, else the outputs of the stack of infra/schedule.yaml; the local endpoint gets what it needs.

    `told` is the topic where role and queue are given and the stack cannot be read.
    """
    if session.place == "local":
        made = _make_local_home(session)
        return replace(made, role=role or made.role, queue=queue or made.queue)
    if role and queue:
        return Home(role, queue, _find_topic(session, told))
    found = _stack_outputs(session)
    if found is None:
        raise SiteError(
            f"A schedule needs a role and a dead-letter queue, and there is no stack {STACK} that has them.",
            hint="`launcher bootstrap --schedules` deploys it; or name your own with --role and --queue.",
        )
    if (group := found.get("GroupName", GROUP)) != GROUP:
        raise SiteError(
            f"The stack {STACK} made the group {group}, and schedules are looked for in {GROUP} alone.",
            hint="`launcher bootstrap --schedules` updates it.",
        )
    try:
        return Home(role or found["RoleArn"], queue or found["QueueArn"], found["TopicArn"])
    except KeyError as error:
        raise SiteError(
            f"The stack {STACK} has no output {error}.", hint="`launcher bootstrap --schedules` updates it."
        ) from error


def _find_topic(session: Session, told: str) -> str:
    try:
        return (_stack_outputs(session) or {}).get("TopicArn", "")
    except SiteError:  # who brings role and queue need not be allowed to read stacks
        return told


def _stack_outputs(session: Session) -> dict[str, str] | None:
    from botocore.exceptions import ClientError

    with explained(f"looking for the stack {STACK}"):
        try:
            stacks = session.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
    return {output["OutputKey"]: output["OutputValue"] for output in stacks[0].get("Outputs", [])}


def _make_local_home(session: Session) -> Home:
    from botocore.exceptions import ClientError

    with explained("making the local group, queue and topic of schedules"):
        try:
            session.client("scheduler").create_schedule_group(Name=GROUP)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConflictException":
                raise
        session.client("sqs").create_queue(QueueName=f"{GROUP}-schedules-dead")
        topic = session.client("sns").create_topic(Name=f"{GROUP}-notices")["TopicArn"]
    account = f"{session.region}:{LOCAL_ACCOUNT}"
    role = f"arn:aws:iam::{LOCAL_ACCOUNT}:role/{GROUP}-scheduler"
    return Home(role, f"arn:aws:sqs:{account}:{GROUP}-schedules-dead", topic)


def make_target(home: Home, request: dict[str, Any], retries: int) -> dict[str, Any]:
    return {
        "Arn": TARGET,
        "RoleArn": home.role,
        "Input": json.dumps(request, separators=(",", ":")),
        "RetryPolicy": {"MaximumRetryAttempts": retries, "MaximumEventAgeInSeconds": MAX_EVENT_AGE_S},
        "DeadLetterConfig": {"Arn": home.queue},
    }


def create(session: Session, params: dict[str, Any]) -> None:
    check_params("CreateSchedule", params)
    from botocore.exceptions import ClientError

    with explained(f"creating the schedule {params['Name']}"):
        try:
            session.client("scheduler").create_schedule(**params)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConflictException":
                raise
            raise _taken(params["Name"]) from error


def check_free(session: Session, name: str) -> None:
    if find(session, name):
        raise _taken(name)


def _taken(name: str) -> RunError:
    return RunError(
        f"The schedule {name} exists already.",
        hint=f"`launcher schedule update {name}` changes it, --name makes another one.",
    )


def update(session: Session, params: dict[str, Any]) -> None:
    check_params("UpdateSchedule", params)
    with explained(f"updating the schedule {params['Name']}"):
        session.client("scheduler").update_schedule(**params)


def check_params(operation: str, params: dict[str, Any]) -> None:
    if violations := find_violations(operation, params, "scheduler"):
        raise InputError(
            "EventBridge Scheduler would refuse this schedule:\n  " + "\n  ".join(violations),
            hint="Change what it names; `launcher schedule show NAME --json` shows a deployed one.",
        )


def find(session: Session, name: str) -> dict[str, Any] | None:
    """The schedule as it is deployed."""
    from botocore.exceptions import ClientError

    with explained(f"looking for the schedule {name}"):
        try:
            answer: dict[str, Any] = session.client("scheduler").get_schedule(Name=name, GroupName=GROUP)
        except ClientError as error:
            if error.response["Error"]["Code"] == ABSENT:
                return None
            raise
    answer.pop("ResponseMetadata", None)
    return answer


def iter_names(session: Session, group: str = GROUP) -> Iterator[str]:
    from botocore.exceptions import ClientError

    with explained("listing schedules"):
        try:
            for page in session.client("scheduler").get_paginator("list_schedules").paginate(GroupName=group):
                yield from (str(entry["Name"]) for entry in page["Schedules"])
        except ClientError as error:
            if error.response["Error"]["Code"] != ABSENT:  # no group, so no schedules
                raise


def delete(session: Session, name: str) -> None:
    with explained(f"deleting the schedule {name}"):
        session.client("scheduler").delete_schedule(Name=name, GroupName=GROUP)


def list_dead(session: Session, queue_arn: str, schedule_arn: str, say: Say = silent) -> list[dict[str, str]]:
    """What the dead-letter queue holds of one schedule, among those of others; reading leaves it there."""
    from botocore.exceptions import ClientError

    with explained("reading the dead-letter queue"):
        sqs = session.client("sqs")
        try:
            url = sqs.get_queue_url(QueueName=queue_arn.rpartition(":")[2])["QueueUrl"]
        except ClientError as error:
            if "NonExistentQueue" in error.response["Error"]["Code"]:
                return []
            raise
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=LETTER_COUNTS)["Attributes"]
        held, letters = sum(map(int, counts.values())), _read_letters(sqs, url)
    if len(letters) < held:
        say(
            f"note: {len(letters)} of about {held} dead letters could be read, so firings that made no job may be "
            "missing here; somebody else may be reading them at this moment"
        )
    return [letter for letter in letters if letter.get("SCHEDULE_ARN") == schedule_arn]


def _read_letters(sqs: Any, url: str) -> list[dict[str, str]]:
    """Every letter once: what was read is hidden until all are, then given back."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for _ in range(MOST_READS):
            # by a wait every server of the queue is asked, and without one only some
            answer = sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=LETTERS_A_READ,
                VisibilityTimeout=HIDDEN_S,
                WaitTimeSeconds=1,
                MessageAttributeNames=["All"],
            )
            if not answer.get("Messages"):
                break
            found |= {message["MessageId"]: message for message in answer["Messages"]}
    finally:
        handles = iter([message["ReceiptHandle"] for message in found.values()])
        while batch := list(islice(handles, LETTERS_A_READ)):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                for number, handle in enumerate(batch)
            ]
            sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
    return [
        {key: value["StringValue"] for key, value in message.get("MessageAttributes", {}).items()}
        for message in found.values()
    ]
