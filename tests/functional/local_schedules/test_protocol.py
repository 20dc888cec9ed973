"""EventBridge Scheduler's operations, as boto3 meets them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

ROLE = "arn:aws:iam::123456789012:role/scheduler"
AWS_SDK = "arn:aws:scheduler:::aws-sdk:"
CREATE_JOB = f"{AWS_SDK}sagemaker:createTrainingJob"


def test_a_schedule_is_described_as_it_was_created(client: Any) -> None:
    given = client.make_schedule(
        "full-1.0_x",
        "rate(2 hours)",
        Description="words",
        State="DISABLED",
        StartDate=datetime(2026, 3, 2, 0, 30, tzinfo=UTC),
        EndDate=datetime(2026, 4, 1, tzinfo=UTC),
        ScheduleExpressionTimezone="Europe/Berlin",
        ActionAfterCompletion="DELETE",
        FlexibleTimeWindow={"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15},
        Target=client.make_target(RetryPolicy={"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 600}),
    )
    assert client.scheduler.create_schedule(**given)["ScheduleArn"].endswith(":schedule/default/full-1.0_x")
    found = client.scheduler.get_schedule(Name="full-1.0_x", GroupName="default")
    assert {key: found[key] for key in given} == given
    assert found["CreationDate"] == found["LastModificationDate"] == datetime(2026, 3, 2, tzinfo=UTC)


def test_an_update_resets_what_it_is_not_given(client: Any) -> None:
    client.create("changed", Description="words", State="DISABLED", ScheduleExpressionTimezone="Europe/Berlin")
    client.move_clock(advance_s=3600)
    client.scheduler.update_schedule(**client.make_schedule("changed", "cron(0 4 ? * MON *)"))
    found = client.scheduler.get_schedule(Name="changed")
    assert "Description" not in found
    assert (found["State"], found["ScheduleExpressionTimezone"]) == ("ENABLED", "UTC")
    assert found["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
    assert found["LastModificationDate"] - found["CreationDate"] == datetime(1, 1, 1, 1) - datetime(1, 1, 1)
    client.move_clock(advance_s=86_400)
    assert [row["scheduled_time"] for row in client.executions("changed")] == ["2026-03-02T04:00:00Z"]


def test_names_are_taken_unknown_or_given_back(client: Any) -> None:
    client.create("one")
    assert client.refusal(client.create, "one") == ("ConflictException", "Schedule one already exists.")
    not_found = ("ResourceNotFoundException", "Schedule two does not exist.")
    assert client.refusal(client.scheduler.get_schedule, Name="two") == not_found
    assert client.refusal(client.scheduler.delete_schedule, Name="two") == not_found
    assert client.refusal(client.scheduler.update_schedule, **client.make_schedule("two")) == not_found
    assert client.refusal(client.create, "two", GroupName="nowhere")[0] == "ResourceNotFoundException"
    assert client.refusal(client.scheduler.list_schedules, GroupName="nowhere")[0] == "ResourceNotFoundException"
    client.scheduler.delete_schedule(Name="one")
    assert client.scheduler.list_schedules()["Schedules"] == []
    client.create("one")


def test_a_request_with_the_same_token_is_one_request(client: Any) -> None:
    arn = client.create("once", ClientToken="token-1")
    assert client.create("once", ClientToken="token-1") == arn
    code, message = client.refusal(client.create, "other", ClientToken="token-1")
    assert code == "ConflictException"
    assert "ClientToken" in message
    for _ in range(2):
        client.scheduler.delete_schedule(Name="once", ClientToken="token-2")
    assert client.scheduler.list_schedules()["Schedules"] == []


TARGET = {"Arn": CREATE_JOB, "RoleArn": ROLE, "Input": "{}"}
LARGE = json.dumps({"Environment": {"K": "x" * 300_000}})
BAD_SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "five fields": ({"ScheduleExpression": "cron(0 3 * * MON)"}, "Add the year: cron(0 3 ? * MON *)"),
    "never": ({"ScheduleExpression": "cron(0 0 30 2 ? *)"}, "never fires"),
    "past": ({"ScheduleExpression": "at(2020-01-01T00:00:00)"}, "lies in the past"),
    "zone": ({"ScheduleExpressionTimezone": "Berlin"}, "Did you mean Europe/Berlin?"),
    "start": ({"StartDate": datetime(2026, 3, 1, tzinfo=UTC)}, "StartDate"),
    "end": ({"EndDate": datetime(2026, 3, 1, tzinfo=UTC)}, "EndDate"),
    "name": ({"Name": "a b"}, "Value 'a b' at 'name'"),
    "window": ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "MaximumWindowInMinutes"),
    "role": ({"Target": TARGET | {"RoleArn": "me"}}, "at 'target.roleArn'"),
    "target": ({"Target": TARGET | {"Arn": f"{AWS_SDK}lambda:invoke"}}, f"{AWS_SDK}sns:publish"),
    "queue as target": ({"Target": TARGET | {"Arn": "arn:aws:sqs:us-east-1:123456789012:q"}}, "cannot call"),
    "large": ({"Target": TARGET | {"Input": LARGE}}, "262,144 are allowed"),
    "no input": ({"Target": {"Arn": CREATE_JOB, "RoleArn": ROLE}}, "needs an Input"),
    "no json": ({"Target": TARGET | {"Input": "{"}}, "not JSON"),
    "no object": ({"Target": TARGET | {"Input": "[]"}}, "not a JSON object"),
    "retries": ({"Target": TARGET | {"RetryPolicy": {"MaximumRetryAttempts": 186}}}, "less than or equal to 185"),
}


@pytest.mark.parametrize("case", BAD_SCHEDULES)
def test_a_bad_schedule_is_refused_with_its_place(shared: Any, case: str) -> None:
    change, words = BAD_SCHEDULES[case]
    code, message = shared.refusal(shared.scheduler.create_schedule, **shared.make_schedule("bad") | change)
    assert code == "ValidationException"
    assert words in message
    assert shared.scheduler.list_schedules()["Schedules"] == []


def test_an_input_of_the_largest_size_is_taken(client: Any) -> None:
    request = json.dumps(client.job)
    largest = request + " " * (256 * 1024 - len(request))
    client.create("large", Target=client.make_target(Input=largest))
    assert client.scheduler.get_schedule(Name="large")["Target"]["Input"] == largest


def test_lists_filter_and_page(client: Any) -> None:
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
    assert client.refusal(client.scheduler.list_schedules, NextToken="x")[0] == "ValidationException"


def test_groups_hold_schedules_and_tags(client: Any) -> None:
    arn = client.scheduler.create_schedule_group(Name="team", Tags=[{"Key": "k", "Value": "v"}])["ScheduleGroupArn"]
    assert client.scheduler.get_schedule_group(Name="team")["Arn"] == arn
    assert client.refusal(client.scheduler.create_schedule_group, Name="team")[0] == "ConflictException"
    groups = client.scheduler.list_schedule_groups()["ScheduleGroups"]
    assert [(group["Name"], group["State"]) for group in groups] == [("default", "ACTIVE"), ("team", "ACTIVE")]
    assert client.scheduler.list_schedule_groups(NamePrefix="t")["ScheduleGroups"] == groups[1:]
    client.scheduler.tag_resource(ResourceArn=arn, Tags=[{"Key": "Ort", "Value": "Köln"}])
    client.scheduler.untag_resource(ResourceArn=arn, TagKeys=["k", "absent"])
    assert client.scheduler.list_tags_for_resource(ResourceArn=arn)["Tags"] == [{"Key": "Ort", "Value": "Köln"}]
    client.create("mine", GroupName="team")
    client.scheduler.delete_schedule_group(Name="team")
    assert client.scheduler.list_schedules()["Schedules"] == []
    assert client.refusal(client.scheduler.get_schedule_group, Name="team")[0] == "ResourceNotFoundException"
    assert client.refusal(client.scheduler.list_tags_for_resource, ResourceArn=arn)[0] == "ResourceNotFoundException"
    assert "default" in client.refusal(client.scheduler.delete_schedule_group, Name="default")[1]
