"""Firing on an injected clock: retries, crashes, missed firings, and clocks that go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.local.jobs import JobBook
from launcher.local.json_protocol import ApiError
from launcher.local.moto_parts import MotoParts
from launcher.local.schedule_book import ScheduleBook
from launcher.local.schedule_loop import ScheduleLoop
from launcher.local.schedules import Schedules
from launcher.local.settings import Settings
from launcher.local.targets import Targets
from launcher.local.training import TrainingJobs

HOUR, DAY = 3600, 86_400
START = 1_767_225_600.0  # 2026-01-01T00:00:00Z, a Thursday
ROLE = "arn:aws:iam::123456789012:role/scheduler"
CREATE_JOB = "arn:aws:scheduler:::aws-sdk:sagemaker:createTrainingJob"
JOB = {
    "TrainingJobName": "job-<aws.scheduler.execution-id>",
    "RoleArn": ROLE,
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/output"},
    "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 300},
    "Tags": [{"Key": "attempt", "Value": "<aws.scheduler.attempt-number>"}],
}


class Hands:
    """A clock that a test sets as it likes, backwards too."""

    is_simulated = True

    def __init__(self) -> None:
        self.time_s = START

    def now(self) -> float:
        return self.time_s


class NoRunners:
    def wake(self) -> None: ...

    def stop(self, name: str) -> None: ...


class Breaking(Targets):
    """The real targets, behind a fault that a test puts before or after them."""

    before: Exception | None = None
    after: BaseException | None = None

    def call(self, arn: str, payload: str, *, is_repeated: bool) -> str:
        if self.before:
            raise self.before
        made = super().call(arn, payload, is_repeated=is_repeated)
        if self.after:
            raise self.after
        return made


class Place:
    """Everything about schedules in one folder, and nothing that runs by itself."""

    def __init__(self, root: Path, clock: Hands) -> None:
        self.root = root
        self.clock = clock
        self.open()

    def open(self) -> None:
        root, clock, settings = self.root, self.clock, Settings()
        self.jobs = JobBook(root / "jobs.sqlite")
        self.book = ScheduleBook(root / "schedules.sqlite")
        self.targets = Breaking(TrainingJobs(self.jobs, NoRunners(), settings), self.jobs, MotoParts(settings))
        self.loop = ScheduleLoop(self.book, self.targets, clock)
        self.schedules = Schedules(self.book, self.targets, self.loop, clock, settings)
        self.book.recover(clock.now())

    def create(self, expression: str, name: str = "nightly", **target: Any) -> None:
        self.schedules.call("CreateSchedule", make_schedule(expression, name, **target))

    def run(self, seconds: float = 0) -> None:
        self.clock.time_s += seconds
        self.loop.run_due()

    def job_names(self) -> list[str]:
        return [job["TrainingJobName"] for job in self.jobs.all()]

    def outcomes(self) -> list[tuple[float, str]]:
        return [((row["scheduled_at"] - START) / HOUR, row["outcome"]) for row in self.book.executions()]

    def reopen(self) -> None:
        """As after a kill: nothing is left but the files."""
        self.close()
        self.open()

    def close(self) -> None:
        self.book.close()
        self.jobs.close()


def make_schedule(expression: str, name: str = "nightly", **target: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "ScheduleExpression": expression,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"Arn": CREATE_JOB, "RoleArn": ROLE, "Input": json.dumps(JOB)} | target,
    }


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, Hands())
    yield place
    place.close()


# Firing


def test_a_schedule_fires_at_its_time_and_not_before(place: Place) -> None:
    place.create("cron(0 3 * * ? *)")
    place.run(3 * HOUR - 1)
    assert place.job_names() == []
    place.run(1)
    (execution,) = place.book.executions()
    assert execution["outcome"] == "started"
    assert place.job_names() == [f"job-{execution['id']}"] == [execution["result"]]
    assert len(execution["id"]) == 36
    place.run(0)
    place.run(DAY - 1)
    assert len(place.job_names()) == 1
    place.run(1)
    assert place.outcomes() == [(3.0, "started"), (27.0, "started")]


def test_a_rate_fires_at_once_and_then_keeps_its_distance(place: Place) -> None:
    place.create("rate(2 hours)")
    for _ in range(5):
        place.run()
        place.run(HOUR)
    assert place.outcomes() == [(0.0, "started"), (2.0, "started"), (4.0, "started")]


def test_a_refused_request_is_not_tried_again(place: Place) -> None:
    place.create("cron(0 3 * * ? *)", Input=json.dumps(JOB | {"TrainingJobName": "no_underscores"}))
    place.run(3 * HOUR)
    (execution,) = place.book.executions()
    assert (execution["outcome"], execution["attempts"]) == ("failed", 1)
    assert "ValidationException" in execution["error"]
    assert "at 'trainingJobName'" in execution["error"]


# Faults of the target


def test_a_passing_fault_is_tried_again_later_and_later_with_one_id(place: Place) -> None:
    place.create("cron(0 3 * * ? *)", RetryPolicy={"MaximumRetryAttempts": 3})
    place.targets.before = ApiError("ThrottlingException", "slow down")
    place.run(3 * HOUR)
    place.run(29)
    assert place.book.executions()[0]["attempts"] == 1
    place.run(1)
    assert place.book.executions()[0]["attempts"] == 2
    place.targets.before = None
    place.run(60)
    (execution,) = place.book.executions()
    assert (execution["outcome"], execution["attempts"], execution["error"]) == ("started", 3, None)
    assert place.jobs.tags(f"job-{execution['id']}") == {"attempt": "3"}


@pytest.mark.parametrize("fault", [OSError("no space left"), ApiError("InternalFailure", "oops", 500)])
def test_the_attempts_come_to_an_end(place: Place, fault: Exception) -> None:
    place.create("cron(0 3 * * ? *)", RetryPolicy={"MaximumRetryAttempts": 2}, DeadLetterConfig={"Arn": DEAD})
    place.targets.before = fault
    place.run(3 * HOUR)
    for _ in range(5):
        place.run(2 * HOUR)
    (execution,) = place.book.executions()
    assert (execution["outcome"], execution["attempts"]) == ("failed", 3)
    assert execution["dead_letter"].startswith("lost: AWS.SimpleQueueService.NonExistentQueue")


DEAD = "arn:aws:sqs:us-east-1:123456789012:none-ever-made"  # moto keeps one set of queues for the whole process


def test_the_attempts_end_with_the_age_of_the_event(place: Place) -> None:
    place.create("cron(0 3 * * ? *)", RetryPolicy={"MaximumEventAgeInSeconds": 60})
    place.targets.before = ApiError("ThrottlingException", "slow down")
    place.run(3 * HOUR)
    place.run(30)
    assert place.outcomes() == [(3.0, "failed")]
    assert place.book.executions()[0]["attempts"] == 2


# Doubled firings


def test_an_endpoint_killed_after_the_job_was_made_makes_no_second_one(place: Place) -> None:
    place.create("cron(0 3 * * ? *)", Input=json.dumps({k: v for k, v in JOB.items() if k != "Tags"}))
    place.targets.after = SystemExit()
    with pytest.raises(SystemExit):
        place.run(3 * HOUR)
    place.reopen()
    place.run(10)
    assert len(place.job_names()) == 1
    assert place.outcomes() == [(3.0, "started")]


def test_an_endpoint_killed_before_the_job_was_made_makes_it_later(place: Place) -> None:
    place.create("cron(0 3 * * ? *)")
    place.targets.before = place.targets.after = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        place.run(3 * HOUR)
    place.reopen()
    place.run(10)
    assert place.outcomes() == [(3.0, "started")]
    assert len(place.job_names()) == 1


def test_a_job_name_without_the_id_is_refused_the_second_time(place: Place) -> None:
    place.create("cron(0 3 * * ? *)", Input=json.dumps(JOB | {"TrainingJobName": "always-the-same"}))
    place.run(3 * HOUR)
    place.run(DAY)
    assert place.outcomes() == [(3.0, "started"), (27.0, "failed")]
    assert "ResourceInUse" in place.book.executions()[1]["error"]


def test_two_loops_over_one_book_hand_each_firing_over_once(place: Place, tmp_path: Path) -> None:
    place.create("cron(0 3 * * ? *)")
    other = Place(tmp_path, place.clock)
    place.clock.time_s += 3 * HOUR
    due = place.book.due(place.clock.now())
    other.run()
    for schedule in due:  # read before the other had fired it
        place.loop._fire(schedule, place.clock.now())
    place.run()
    other.close()
    assert place.outcomes() == [(3.0, "started")]
    assert len(place.job_names()) == 1


# Clocks


def test_a_clock_that_is_set_back_fires_nothing_twice(place: Place) -> None:
    place.create("cron(0 3 * * ? *)")
    place.run(3 * HOUR)
    for back in (60, 2 * HOUR, 10 * DAY):
        place.run(-back)
        place.run(back)
    assert place.outcomes() == [(3.0, "started")]
    place.run(DAY)
    assert place.outcomes() == [(3.0, "started"), (27.0, "started")]


def test_a_clock_that_jumps_ahead_makes_one_job_and_not_hundreds(place: Place) -> None:
    place.create("rate(1 minute)")
    place.run()
    place.run(8 * HOUR)
    assert len(place.job_names()) == 2
    assert [outcome for _, outcome in place.outcomes()] == ["started", "missed", "started"]
    note = place.book.executions()[1]["error"]
    assert "from 2026-01-01T00:01:00Z until 2026-01-01T08:00:00Z" in note


# While the endpoint was down


def test_the_last_missed_firing_is_made_up_for_once(place: Place) -> None:
    place.create("cron(0 3 * * ? *)")
    place.clock.time_s += 2 * DAY + 5 * HOUR
    place.reopen()
    place.run()
    assert place.outcomes() == [(3.0, "missed"), (51.0, "started")]
    place.run(DAY)
    assert place.outcomes()[2:] == [(75.0, "started")]


def test_what_is_older_than_its_age_is_not_made_up_for(place: Place) -> None:
    place.create("cron(0 3 * * ? *)", RetryPolicy={"MaximumEventAgeInSeconds": HOUR})
    place.clock.time_s += 5 * HOUR
    place.reopen()
    place.run()
    assert place.outcomes() == [(3.0, "missed")]
    assert place.job_names() == []
    place.run(22 * HOUR)
    assert place.outcomes() == [(3.0, "missed"), (27.0, "started")]


def test_a_retry_that_waited_too_long_is_given_up(place: Place) -> None:
    place.create("at(2026-01-01T03:00:00)", RetryPolicy={"MaximumEventAgeInSeconds": HOUR})
    place.targets.before = ApiError("ThrottlingException", "slow down")
    place.run(3 * HOUR)
    place.clock.time_s += 2 * HOUR
    place.reopen()
    place.run()
    (execution,) = place.book.executions()
    assert execution["outcome"] == "failed"
    assert "older than its MaximumEventAgeInSeconds" in execution["error"]
    assert place.job_names() == []


# Pausing, changing, ending


def change(place: Place, **fields: Any) -> None:
    given = make_schedule(place.book.get("default", "nightly").document["ScheduleExpression"]) | fields
    place.schedules.call("UpdateSchedule", given)


def test_a_paused_schedule_fires_nothing_and_makes_up_for_nothing(place: Place) -> None:
    place.create("rate(2 hours)")
    place.run()
    change(place, State="DISABLED")
    place.run(7 * HOUR)
    assert place.outcomes() == [(0.0, "started")]
    change(place)
    place.run()
    place.run(HOUR)
    assert place.outcomes() == [(0.0, "started"), (8.0, "started")]


def test_a_change_of_the_target_loses_no_firing_that_is_due(place: Place) -> None:
    place.create("cron(0 3 * * ? *)")
    place.clock.time_s += 3 * HOUR
    change(place, Description="other words")
    place.run()
    assert place.outcomes() == [(3.0, "started")]


def test_an_ended_schedule_goes_when_it_shall(place: Place) -> None:
    stays = make_schedule("at(2026-01-01T03:00:00)", "stays")
    goes = make_schedule("at(2026-01-01T03:00:00)", "goes") | {"ActionAfterCompletion": "DELETE"}
    until = make_schedule("rate(1 hour)", "until") | {"ActionAfterCompletion": "DELETE", "EndDate": START + 90 * 60}
    for request in (stays, goes, until):
        place.schedules.call("CreateSchedule", request)
    place.run()
    assert len(place.book.schedules()) == 3
    place.run(HOUR)
    assert [schedule.name for schedule in place.book.schedules()] == ["goes", "stays"]
    place.run(3 * HOUR)
    assert [schedule.name for schedule in place.book.schedules()] == ["stays"]
    assert len(place.job_names()) == 4
    assert place.book.find_next_time() is None


def test_a_deleted_schedule_is_not_tried_again(place: Place) -> None:
    place.create("cron(0 3 * * ? *)")
    place.targets.before = ApiError("ThrottlingException", "slow down")
    place.run(3 * HOUR)
    place.schedules.call("DeleteSchedule", {"Name": "nightly"})
    place.targets.before = None
    place.run(HOUR)
    assert place.outcomes() == [(3.0, "cancelled")]
    assert place.job_names() == []


def test_a_schedule_made_again_under_its_name_is_another_one(place: Place) -> None:
    for _ in range(2):
        place.create("at(2026-01-01T03:00:00)")
        place.run(3 * HOUR)
        place.schedules.call("DeleteSchedule", {"Name": "nightly"})
        place.clock.time_s -= 3 * HOUR
    assert place.outcomes() == [(3.0, "started")] * 2
