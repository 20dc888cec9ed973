"""How a job ended: what status shows, which fix is named, which exit code comes of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from launcher.aws.jobs import describe_job
from launcher.aws.reasons import REASONS, find_fix
from launcher.aws.session import Session
from launcher.cli import following
from launcher.errors import CloudError, CredentialsError, JobFailed, JobStopped, NextJobRefused
from launcher.job import Job, JobState, Status
from launcher.price_table import Price
from launcher.runs import find_previous

NAME = "mine-20260102-000000"
BEGAN = datetime(2026, 1, 2, tzinfo=UTC)
LONG = "AlgorithmError: ExecuteUserScriptError:\nExitCode 137\nErrorMessage"


@pytest.fixture
def session() -> Session:
    return Session("aws", "us-east-1", credentials=("key", "secret"))


def description(status: str, secondary: str = "", name: str = NAME, **fields: Any) -> dict[str, Any]:
    algorithm = {"TrainingImage": "image", "TrainingInputMode": "File"}
    return {
        "TrainingJobName": name,
        "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/launcher/output/model.tar.gz"},
        "TrainingJobStatus": status,
        "SecondaryStatus": secondary or status,
        "AlgorithmSpecification": algorithm,
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "CreationTime": BEGAN,
    } | fields


def state_of(session: Session, answer: dict[str, Any]) -> JobState:
    with Stubber(session.client("sagemaker")) as stubber:
        stubber.add_response("describe_training_job", answer, {"TrainingJobName": NAME})
        return Job(NAME, session).state()


def step(status: str) -> dict[str, Any]:
    return {"Status": status, "StartTime": BEGAN, "StatusMessage": status}


def test_status_of_a_spot_job_shows_interruptions_billing_saving_and_dollars(session: Session) -> None:
    answer = description(
        "Completed",
        EnableManagedSpotTraining=True,
        TrainingTimeInSeconds=3000,
        BillableTimeInSeconds=900,
        SecondaryStatusTransitions=[step(name) for name in ("Training", "Interrupted", "Training", "Interrupted")],
    )
    state = state_of(session, answer)
    rows = dict(state.rows(Price(1.408, "list price in us-east-1; eu-west-1 may differ")))
    assert rows["spot"] == "2 interruptions"
    assert rows["time"] == "3,000 s, 900 s billed, 70% saved"
    assert rows["cost"] == "$0.35 at $1.408 an hour (list price in us-east-1; eu-west-1 may differ)"
    assert "cost" not in dict(state.rows())
    assert state.describe()["interruptions"] == 2


def test_status_shows_the_type_that_aws_chose_else_all_of_them(session: Session) -> None:
    preferences = [{"InstanceType": "ml.g5.xlarge"}, {"InstanceType": "ml.g6.xlarge"}]
    waiting = {"InstanceCount": 1, "VolumeSizeInGB": 30, "InstancePreferences": preferences}
    chosen = waiting | {"SelectedInstanceType": "ml.g6.xlarge", "SelectedInstanceCount": 1}
    before = state_of(session, description("InProgress", "Pending", ResourceConfig=waiting))
    after = state_of(session, description("InProgress", "Training", ResourceConfig=chosen))
    assert (before.instance, after.instance) == ("ml.g5.xlarge,ml.g6.xlarge", "ml.g6.xlarge")


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("CapacityError: Unable to provision requested ML compute capacity", "--instance ml.g5.xlarge,ml.g6.xlarge"),
        ("InternalServerError: We encountered an internal error. Please try again.", "AWS's side failed"),
        (LONG, "machine's own memory"),
        ("AlgorithmError: , exit code: 137", "machine's own memory"),
        ("AlgorithmError: ExecuteUserScriptError: ExitCode 1", "the log say where"),
        ("ClientError: Data download failed: NoSuchKey", "A channel could not be read"),
        ("ClientError: Artifact upload failed: AccessDenied", "role was refused"),
        ("ClientError: something new", "could not prepare"),
    ],
)
def test_a_reason_has_a_fix_in_status_and_in_the_error(session: Session, reason: str, says: str) -> None:
    assert says in find_fix(reason)
    assert says in dict(state_of(session, description("Failed", FailureReason=reason)).rows())["fix"]


def test_every_row_of_the_reasons_is_tried_above() -> None:
    tried = [mark.args[1] for mark in test_a_reason_has_a_fix_in_status_and_in_the_error.pytestmark][0]
    fixes = {find_fix(reason) for reason, _ in tried}
    assert {row.fix for row in REASONS if row.fix} == fixes
    assert find_fix("InternalServerError: the local runner could not be started") == ""
    assert find_fix("") == ""


def test_a_wait_limit_is_told_from_a_stop(session: Session) -> None:
    state = state_of(session, description("Stopped", "MaxWaitTimeExceeded"))
    assert state.lacked_capacity
    with pytest.raises(JobStopped) as caught:
        Job(NAME, session).check(state)
    assert "compute.on_demand_after_wait" in caught.value.hint
    assert not state_of(session, description("Stopped")).lacked_capacity


@pytest.mark.parametrize("said", [True, False])
def test_status_of_a_spot_job_names_the_wait_that_starts_it_on_demand_where_its_recipe_says_so(
    session: Session, said: bool
) -> None:
    key = {"Bucket": "b", "Key": f"launcher/runs/mine/{NAME}.on-demand.json"}
    ended = description(
        "Stopped",
        "MaxWaitTimeExceeded",
        EnableManagedSpotTraining=True,
        OutputDataConfig={"S3OutputPath": "s3://b/launcher/output"},
    )
    with Stubber(session.client("s3")) as s3:
        if said:
            s3.add_response("head_object", {"ContentLength": 2, "ETag": "x"}, key)
        else:
            s3.add_client_error("head_object", "404", "Not Found", 404, expected_params=key)
        fix = dict(state_of(session, ended).rows())["fix"]
    assert (f"`launcher wait {NAME}` starts it on demand" in fix) == said
    assert ("set compute.on_demand_after_wait" in fix) != said


def test_a_refused_job_on_demand_is_told_as_that_and_not_as_a_wait_that_broke_off(session: Session) -> None:
    ended = description(
        "Stopped",
        "MaxWaitTimeExceeded",
        EnableManagedSpotTraining=True,
        OutputDataConfig={"S3OutputPath": "s3://b/launcher/output"},
    )
    request = {"TrainingJobName": NAME, "HyperParameters": {}, "RoleArn": "arn:aws:iam::123456789012:role/trainer"}
    request |= {key: ended[key] for key in ("AlgorithmSpecification", "OutputDataConfig", "ResourceConfig")}
    request |= {"StoppingCondition": ended["StoppingCondition"]}
    with Stubber(session.client("s3")) as s3, Stubber(session.client("sagemaker")) as stubber:
        stubber.add_response("describe_training_job", ended)
        s3.add_response("head_object", {"ContentLength": 2, "ETag": "x"})
        stubber.add_response("describe_training_job", ended)
        s3.add_response("head_object", {"ContentLength": 2, "ETag": "x"})
        s3.add_response("get_object", {"Body": io.BytesIO(json.dumps(request).encode()), "ETag": "x"})
        s3.add_response("put_object", {"ETag": "mine"})
        quota = "The account-level service limit 'ml.g5.xlarge for training job usage' is 0 Instances"
        stubber.add_client_error("create_training_job", "ResourceLimitExceeded", quota)
        s3.add_response("delete_object", {})  # the claim is given back
        with pytest.raises(NextJobRefused) as caught:
            following.wait(Job(NAME, session))
        s3.assert_no_pending_responses()
    assert caught.value.message.startswith(f"{NAME} got no spot capacity, and the job on demand after it was not st")
    assert quota in caught.value.message
    assert "Service Quotas console" in caught.value.hint
    assert f"`launcher wait {NAME}` tries to start it again" in caught.value.hint
    assert "not affected" not in caught.value.hint
    assert caught.value.exit_code == 3


class RefusedNext(Job):
    """A handle on a spot job that is over, and whose next one cannot be started."""

    def logs(self, follow: bool = False, **kwargs: Any) -> Iterator[str]:
        return iter(())

    def state(self) -> JobState:
        return cast(JobState, None)

    def go_on(self, *args: Any, **named: Any) -> bool:
        raise NextJobRefused("no quota", hint="Ask for it.")


def test_a_follower_of_the_log_adds_nothing_to_that_either(session: Session) -> None:
    with pytest.raises(NextJobRefused) as caught:
        following.follow(RefusedNext(NAME, session), str)
    assert caught.value.hint == "Ask for it."


def test_the_third_capacity_error_in_a_row_is_counted(session: Session) -> None:
    names = [f"mine-2026010{day}-000000" for day in (2, 1)] + ["mine-20251231-000000", "mine-20251230-000000"]
    capacity = "CapacityError: no ml.g5.xlarge"
    reasons = [capacity, capacity, capacity, "AlgorithmError: x"]
    summaries = [
        {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}",
            "CreationTime": BEGAN,
            "TrainingJobStatus": "Failed",
        }
        for name in names
    ]
    with Stubber(session.client("logs")) as logs, Stubber(session.client("sagemaker")) as stubber:
        logs.add_response("describe_log_streams", {"logStreams": []})
        stubber.add_response("describe_training_job", description("Failed", FailureReason=capacity))
        stubber.add_response("list_training_jobs", {"TrainingJobSummaries": summaries})
        for name, reason in zip(names, reasons, strict=True):
            stubber.add_response("describe_training_job", description("Failed", name=name, FailureReason=reason))
        with pytest.raises(JobFailed) as caught:
            Job(NAME, session).wait()
    assert caught.value.message == f"{NAME} failed, 3 times in a row: {capacity}"
    assert "ml.g5.xlarge,ml.g6.xlarge" in caught.value.hint
    assert caught.value.exit_code == 4


def test_credentials_that_expire_in_a_long_wait_end_it_with_the_line_that_goes_on(session: Session) -> None:
    slept: list[float] = []
    with Stubber(session.client("sagemaker")) as stubber, pytest.raises(CredentialsError) as caught:
        for _ in range(3):
            stubber.add_response("describe_training_job", description("InProgress", "Training"))
        stubber.add_client_error("describe_training_job", "ExpiredTokenException", "The security token is expired")
        following.wait(Job(NAME, session), sleep=slept.append)
    assert len(slept) == 3
    assert f"`launcher wait {NAME}`" in caught.value.hint
    assert caught.value.hint.count("not affected") == 1
    assert "aws sso login" in caught.value.hint
    assert caught.value.exit_code == 3


def test_throttling_is_retried_for_about_a_minute_and_ends_in_one_sentence(session: Session) -> None:
    retries = session.client("sagemaker").meta.config.retries
    assert retries["mode"] == "adaptive"
    # botocore pauses a random share of 1, 2, 4, ... 20 s before each further attempt
    longest = sum(min(2.0**attempt, 20) for attempt in range(retries["total_max_attempts"] - 1))
    assert 60 < longest < 120
    with Stubber(session.client("sagemaker")) as stubber, pytest.raises(CloudError) as caught:
        stubber.add_client_error("describe_training_job", "ThrottlingException", "Rate exceeded (reached max retries)")
        describe_job(session, NAME)
    assert "ThrottlingException" in caught.value.message
    assert "fewer calls" in caught.value.hint
    assert caught.value.exit_code == 3


PLACE = "launcher/checkpoints/mine/20260102-000000/"
STOPPED = {
    "job": NAME,
    "outcome": "stopped",
    "reason": "the job's time limit is near (max_runtime_s)",
    "steps": 82,
    "steps_total": 100_000,
}


@contextmanager
def notes(session: Session, **left: dict[str, Any] | None) -> Iterator[None]:
    """What lies beside the checkpoints, asked for in this order; None for what is not there."""
    with Stubber(session.client("s3")) as s3:
        for name, note in left.items():
            key = {"Bucket": "b", "Key": f"{PLACE}{name}.json"}
            if note is None:
                s3.add_client_error("head_object", "404", "Not Found", 404, expected_params=key)
                continue
            content = json.dumps(note).encode()
            s3.add_response("head_object", {"ContentLength": len(content), "ETag": "x"}, key)
            body = StreamingBody(io.BytesIO(content), len(content))
            s3.add_response("get_object", {"Body": body, "ETag": "x"}, key)
        yield
        s3.assert_no_pending_responses()


def completed(**fields: Any) -> dict[str, Any]:
    return description("Completed", CheckpointConfig={"S3Uri": f"s3://b/{PLACE}"}, **fields)


def test_a_job_that_stopped_itself_is_stopped_though_aws_calls_it_completed(session: Session) -> None:
    with notes(session, outcome=STOPPED):
        state = state_of(session, completed())
    rows = dict(state.rows())
    assert (state.status, rows["status"]) == (Status.STOPPED, "stopped")
    assert rows["outcome"] == f"stopped by itself after 82 of 100,000 steps: {STOPPED['reason']}"
    assert "another submit of mine goes on" in rows["next"]
    assert "doing" not in rows
    with pytest.raises(JobStopped, match=f"{NAME} stopped by itself after 82 of 100,000 steps") as caught:
        Job(NAME, session).check(state)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("end", [Job.wait, lambda job: following.finish(job, "", as_json=False)])
def test_wait_and_the_end_of_a_submit_take_over_that_it_stopped(session: Session, end: Callable[[Job], Any]) -> None:
    nothing = completed(ModelArtifacts={"S3ModelArtifacts": ""})
    with notes(session, outcome=STOPPED), Stubber(session.client("sagemaker")) as stubber:
        stubber.add_response("describe_training_job", nothing, {"TrainingJobName": NAME})
        with pytest.raises(JobStopped):
            end(Job(NAME, session))


@pytest.mark.parametrize("left", [None, STOPPED | {"outcome": "completed", "reason": "", "steps": 100_000}])
def test_a_job_that_came_to_its_end_or_left_no_word_is_completed(session: Session, left: dict[str, Any] | None) -> None:
    with notes(session, outcome=left):
        state = state_of(session, completed())
    assert (state.status, state.outcome) == (Status.COMPLETED, "")


def test_a_job_that_another_went_on_from_stays_stopped(session: Session) -> None:
    """Both lie in one place, and the later one's note replaces the earlier one's."""
    later = STOPPED | {"job": "mine-20260103-000000", "outcome": "completed", "steps": 100_000}
    with notes(session, outcome=later):
        state = state_of(session, completed())
    assert state.status is Status.STOPPED
    assert state.outcome == "stopped by itself before its last step; mine-20260103-000000 went on"


def test_the_next_submit_finds_that_it_stopped(session: Session) -> None:
    summary = {
        "TrainingJobName": NAME,
        "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{NAME}",
        "CreationTime": BEGAN,
        "TrainingJobStatus": "Completed",
    }
    with notes(session, outcome=STOPPED), Stubber(session.client("sagemaker")) as stubber:
        stubber.add_response("list_training_jobs", {"TrainingJobSummaries": [summary]})
        stubber.add_response("describe_training_job", completed(), {"TrainingJobName": NAME})
        found = find_previous(session, "mine")
    assert found is not None and found.status is Status.STOPPED
