"""CloudWatch's logs, page by page."""

from __future__ import annotations

from typing import Any

import pytest

GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.fixture(scope="module")
def talkative(client: Any) -> str:
    """A stream of 3000 numbered lines between a few others; long enough for several blocks on disk."""
    client.create("talkative", "for i in $(seq -w 3000); do echo line-$i ERROR tail é; done; echo the end")
    job = client.wait("talkative", "Completed", "Failed")
    assert job["TrainingJobStatus"] == "Completed", job
    (stream,) = client.logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix="talkative/")["logStreams"]
    return str(stream["logStreamName"])


def read_pages(client: Any, stream: str, direction: str, **ask: Any) -> list[list[str]]:
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


def test_log_pages_forward_hold_every_line_once(client: Any, talkative: str) -> None:
    pages = read_pages(client, talkative, "nextForwardToken", startFromHead=True, limit=700)
    lines = [line for page in pages for line in page]
    assert [line for line in lines if line.startswith("line-")] == [
        f"line-{number:04} ERROR tail é" for number in range(1, 3001)
    ]
    assert lines[-1] == "the end"
    assert all(len(page) == 700 for page in pages[:-1])


def test_log_pages_backward_hold_every_line_once(client: Any, talkative: str) -> None:
    forward = read_pages(client, talkative, "nextForwardToken", startFromHead=True)
    backward = read_pages(client, talkative, "nextBackwardToken", limit=701)
    assert backward[0][-1] == "the end"
    assert [line for page in backward[::-1] for line in page] == [line for page in forward for line in page]


def test_log_times_bound_a_page(client: Any, talkative: str) -> None:
    events = client.logs.get_log_events(logGroupName=GROUP, logStreamName=talkative, startFromHead=True)["events"]
    cut = events[len(events) // 2]["timestamp"]
    before = read_pages(client, talkative, "nextForwardToken", startFromHead=True, endTime=cut)
    after = read_pages(client, talkative, "nextForwardToken", startFromHead=True, startTime=cut)
    assert sum(map(len, before)) == len([event for event in events if event["timestamp"] < cut])
    assert sum(map(len, before + after)) == len(events)


def test_a_page_of_logs_is_at_most_a_mebibyte(client: Any) -> None:
    client.create("wide", "for i in $(seq 25); do head -c 60000 /dev/zero | tr '\\0' x; echo; done")
    client.wait("wide", "Completed", "Failed")
    names = client.logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix="wide/")["logStreams"]
    pages = read_pages(client, names[0]["logStreamName"], "nextForwardToken", startFromHead=True)
    assert len(pages) > 1
    assert max(sum(len(line) + 26 for line in page) for page in pages) <= 1 << 20
    assert sum(line.startswith("xxx") for page in pages for line in page) == 25


def test_filters_find_lines_in_order_over_pages(client: Any, talkative: str) -> None:
    paginator = client.logs.get_paginator("filter_log_events")

    def find(pattern: str, **ask: Any) -> list[str]:
        pages = paginator.paginate(logGroupName=GROUP, logStreamNames=[talkative], filterPattern=pattern, **ask)
        return [event["message"] for page in pages for event in page["events"]]

    assert len(find("ERROR", PaginationConfig={"PageSize": 999})) == 3000
    assert find('"line-0042 ERROR"') == ["line-0042 ERROR tail é"]
    assert find("?line-0001 ?line-3000") == ["line-0001 ERROR tail é", "line-3000 ERROR tail é"]
    assert find("-ERROR end") == ["the end"]
    code, _ = client.refusal(client.logs.filter_log_events, logGroupName=GROUP, filterPattern="{ $.x = 1 }")
    assert code == "InvalidParameterException"


def test_streams_are_listed_by_prefix_and_page(client: Any, talkative: str) -> None:
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
def test_an_unknown_stream_is_not_found(client: Any, talkative: str, stream: str) -> None:
    code, _ = client.refusal(client.logs.get_log_events, logGroupName=GROUP, logStreamName=stream)
    assert code == "ResourceNotFoundException"


def test_the_group_is_not_there_before_the_first_job(own: Any) -> None:
    code, _ = own.refusal(own.logs.describe_log_streams, logGroupName=GROUP)
    assert code == "ResourceNotFoundException"
    assert own.logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"] == []
