"""Training jobs as clients of SageMaker meet them: boto3 and awscli against the real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LocalEndpointError
from launcher.local import lifecycle

FOR_EVER = "trap 'exit 0' TERM; echo started; while :; do sleep 0.05; done"


# A training job


def test_a_job_goes_through_its_states_to_its_artifact(client: Any) -> None:
    arn = client.create("Whole-Story", "echo one; echo two; echo data > $SAGEMAKER_BASE_DIR/model/file")
    assert arn == "arn:aws:sagemaker:us-east-1:123456789012:training-job/whole-story"
    job = client.wait("Whole-Story", "Completed", "Failed")
    assert job["TrainingJobStatus"] == "Completed", job
    steps = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert steps == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert all("EndTime" in step for step in job["SecondaryStatusTransitions"])
    assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"]
    assert job["EnableNetworkIsolation"] is job["EnableManagedSpotTraining"] is False
    bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    assert client.service("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    assert [line for line in client.read_lines("Whole-Story") if line in ("one", "two")] == ["one", "two"]


def test_describe_gives_back_the_request_and_nothing_of_ours(client: Any) -> None:
    request = client.make_request("echo-request", HyperParameters={"lr": "1"}, Environment={"A": "b"})
    client.sagemaker.create_training_job(**request, Tags=[{"Key": "k", "Value": "v"}])
    job = client.describe("echo-request")
    assert {key: job[key] for key in request if key != "OutputDataConfig"} == {
        key: value for key, value in request.items() if key != "OutputDataConfig"
    }
    members = client.sagemaker.meta.service_model.operation_model("DescribeTrainingJob").output_shape.members
    assert set(job) - set(members) == {"ResponseMetadata"}
    raw = client.fetch_json("/_local/jobs/echo-request/request")
    assert raw == {**request, "Tags": [{"Key": "k", "Value": "v"}]}


def test_awscli_reads_and_starts_jobs(client: Any, tmp_path: Path) -> None:
    client.create("for-the-cli")
    command = [Path(sys.executable).with_name("aws"), "--endpoint-url", client.url, "--region", "us-east-1"]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}

    def aws(*words: str) -> Any:
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    described = aws("sagemaker", "describe-training-job", "--training-job-name", "for-the-cli")
    assert described["TrainingJobArn"].endswith("/for-the-cli")
    made = aws("sagemaker", "create-training-job", "--cli-input-json", json.dumps(client.make_request("from-the-cli")))
    assert made["TrainingJobArn"].endswith("/from-the-cli")


def test_an_unknown_job_is_not_found_in_the_words_of_aws(client: Any) -> None:
    expected = ("ValidationException", "Requested resource not found.")
    for act in (client.sagemaker.describe_training_job, client.sagemaker.stop_training_job):
        assert client.refusal(act, TrainingJobName="nobody") == expected
    arn = "arn:aws:sagemaker:us-east-1:123456789012:training-job/nobody"
    assert client.refusal(client.sagemaker.list_tags, ResourceArn=arn) == expected


def test_a_name_is_taken_also_when_its_job_is_deleted(client: Any) -> None:
    client.create("once")
    code, message = client.refusal(client.create, "once")
    assert code == "ResourceInUse"
    assert "training-job/once" in message
    client.wait("once", "Completed")
    client.sagemaker.delete_training_job(TrainingJobName="once")
    assert client.refusal(client.describe, "once")[1] == "Requested resource not found."
    assert client.refusal(client.create, "once")[0] == "ResourceInUse"


BAD_REQUESTS = {
    "pattern": ({"TrainingJobName": "a_b"}, "Value 'a_b' at 'trainingJobName' failed to satisfy constraint"),
    "too long": ({"TrainingJobName": "a" * 64}, "length less than or equal to 63"),
    "enum": (
        {"ResourceConfig": {"InstanceType": "ml.huge", "InstanceCount": 1, "VolumeSizeInGB": 1}},
        "Value 'ml.huge' at 'resourceConfig.instanceType'",
    ),
    "map": ({"HyperParameters": {"k": "v" * 2501}}, "at 'hyperParameters.k.member'"),
    "many": ({"HyperParameters": {f"k{i}": "" for i in range(101)}}, "length less than or equal to 100"),
    "role": ({"RoleArn": "arn:aws:iam::1:user/somebody"}, "at 'roleArn'"),
    "spot": ({"EnableManagedSpotTraining": True}, "Invalid MaxWaitTimeInSeconds"),
    "spot too short": (
        {
            "EnableManagedSpotTraining": True,
            "StoppingCondition": {"MaxRuntimeInSeconds": 9, "MaxWaitTimeInSeconds": 8},
        },
        "greater than or equal to MaxRuntimeInSeconds",
    ),
    "wait without spot": (
        {"StoppingCondition": {"MaxRuntimeInSeconds": 9, "MaxWaitTimeInSeconds": 10}},
        "EnableManagedSpotTraining",
    ),
    "tags": ({"Tags": [{"Key": "a", "Value": ""}, {"Key": "a", "Value": ""}]}, "Duplicate tag keys"),
    "no image": ({"AlgorithmSpecification": {"TrainingInputMode": "File"}}, "training image"),
    "channels": (
        {
            "InputDataConfig": [
                {
                    "ChannelName": "train",
                    "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/k"}},
                }
            ]
            * 2
        },
        "Channel names must be unique",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_request_that_aws_refuses_is_refused_with_its_place(client: Any, case: str) -> None:
    change, words = BAD_REQUESTS[case]
    request = client.make_request("refused") | change
    code, message = client.refusal(client.sagemaker.create_training_job, **request)
    assert code == "ValidationException"
    assert words in message
    assert "refused" not in client.list_names(NameContains="refused")


def test_a_member_that_does_not_exist_is_refused(client: Any) -> None:
    """boto3 itself would not send it; a schedule's request comes by another way."""
    body = client.make_request("misspelt") | {"EnableManagedSpotTrainign": True}
    status, answer = client.post("SageMaker.CreateTrainingJob", json.dumps(body).encode())
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert "EnableManagedSpotTrainign" in answer["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_what_is_no_json_object_is_refused(client: Any, body: bytes) -> None:
    status, answer = client.post("SageMaker.CreateTrainingJob", body)
    assert (status, answer["__type"]) == (400, "SerializationException")


# Lists and tags


def test_lists_filter_sort_and_page(own: Any) -> None:
    for name in ("alpha-1", "beta-1", "alpha-2", "beta-2", "alpha-3"):
        own.create(name, "exit 1" if name == "alpha-2" else "exit 0")
    for name in own.list_names():
        own.wait(name, "Completed", "Failed")
    assert own.list_names() == ["alpha-1", "beta-1", "alpha-2", "beta-2", "alpha-3"]
    assert own.list_names(NameContains="Alpha", SortOrder="Descending") == ["alpha-3", "alpha-2", "alpha-1"]
    assert own.list_names(SortBy="Name", SortOrder="Ascending", MaxResults=2) == ["alpha-1", "alpha-2"]
    assert own.list_names(StatusEquals="Failed") == ["alpha-2"]
    assert own.list_names(SortBy="Status")[-1] == "alpha-2"
    middle = own.describe("alpha-2")["CreationTime"]
    assert own.list_names(CreationTimeAfter=middle) == ["beta-2", "alpha-3"]
    assert own.list_names(CreationTimeBefore=middle) == ["alpha-1", "beta-1"]
    assert own.list_names(LastModifiedTimeBefore=middle) == ["alpha-1"] or not own.list_names(
        LastModifiedTimeBefore=own.describe("alpha-1")["CreationTime"]
    )


def test_a_page_goes_on_where_the_last_one_ended_whatever_came_in_between(own: Any) -> None:
    for number in range(5):
        own.create(f"job-{number}")
    ask = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 2}
    first = own.sagemaker.list_training_jobs(**ask)
    own.create("newcomer")
    second = own.sagemaker.list_training_jobs(**ask, NextToken=first["NextToken"])
    third = own.sagemaker.list_training_jobs(**ask, NextToken=second["NextToken"])
    names = [job["TrainingJobName"] for page in (first, second, third) for job in page["TrainingJobSummaries"]]
    assert names == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    assert "NextToken" not in third
    for token in ("2", "x" * 40, first["NextToken"][:-4]):
        assert own.refusal(own.sagemaker.list_training_jobs, NextToken=token)[0] == "ValidationException"
    assert "SortBy" in own.refusal(own.list_names, SortBy="Name", NextToken=first["NextToken"])[1]


def test_tags_are_added_replaced_and_deleted(client: Any) -> None:
    arn = client.create("tagged", Tags=[{"Key": "Owner", "Value": "me"}])
    added = client.sagemaker.add_tags(
        ResourceArn=arn, Tags=[{"Key": "Owner", "Value": "you"}, {"Key": "Ort", "Value": "Köln"}]
    )
    expected = [{"Key": "Owner", "Value": "you"}, {"Key": "Ort", "Value": "Köln"}]
    assert added["Tags"] == client.sagemaker.list_tags(ResourceArn=arn)["Tags"] == expected
    client.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["Owner", "Absent"])
    assert client.sagemaker.list_tags(ResourceArn=arn)["Tags"] == expected[1:]
    many = [{"Key": f"k{number}", "Value": ""} for number in range(50)]
    assert "50 tags" in client.refusal(client.sagemaker.add_tags, ResourceArn=arn, Tags=many)[1]
    reserved = [{"Key": "aws:x", "Value": ""}]
    assert "reserved" in client.refusal(client.sagemaker.add_tags, ResourceArn=arn, Tags=reserved)[1]


# Stop, queue, interruption


def test_a_running_job_is_stopped_and_keeps_what_it_made(client: Any) -> None:
    client.create("stopped", FOR_EVER.replace("exit 0", "echo saved > $SAGEMAKER_BASE_DIR/model/m; exit 0"))
    client.wait_for_line("stopped", "started")
    client.sagemaker.stop_training_job(TrainingJobName="stopped")
    assert client.describe("stopped")["TrainingJobStatus"] in ("Stopping", "Stopped")
    job = client.wait("stopped", "Stopped")
    assert job["SecondaryStatus"] == "Stopped"
    assert "Stopping" in [step["Status"] for step in job["SecondaryStatusTransitions"]]
    code, message = client.refusal(client.sagemaker.stop_training_job, TrainingJobName="stopped")
    assert (code, "in status Stopped" in message) == ("ValidationException", True)


def test_a_stop_right_after_the_start_is_heard(client: Any) -> None:
    for number in range(3):
        name = f"hasty-{number}"
        client.create(name, FOR_EVER)
        client.sagemaker.stop_training_job(TrainingJobName=name)
    for number in range(3):
        assert client.wait(f"hasty-{number}", "Stopped", "Failed")["TrainingJobStatus"] == "Stopped"


def test_jobs_wait_for_their_turn(own: Any) -> None:
    own.create("first", FOR_EVER)
    own.create("second")
    own.create("third")
    own.wait_for_line("first", "started")
    waiting = own.wait("second", "Pending")
    assert waiting["TrainingJobStatus"] == "InProgress"
    assert "first" in waiting["SecondaryStatusTransitions"][-1]["StatusMessage"]
    own.sagemaker.stop_training_job(TrainingJobName="second")
    stopped = own.describe("second")
    assert (stopped["TrainingJobStatus"], "TrainingStartTime" in stopped) == ("Stopped", False)
    assert own.refusal(own.sagemaker.delete_training_job, TrainingJobName="third")[0] == "ResourceInUse"
    own.sagemaker.stop_training_job(TrainingJobName="first")
    own.wait("third", "Completed")
    assert own.describe("first")["TrainingEndTime"] <= own.describe("third")["TrainingStartTime"]


def test_only_a_spot_job_in_training_is_interrupted(own: Any) -> None:
    own.create("on-demand", FOR_EVER)
    own.wait_for_line("on-demand", "started")
    with pytest.raises(LocalEndpointError, match="EnableManagedSpotTraining"):
        lifecycle.interrupt_job("on-demand")
    with pytest.raises(LocalEndpointError, match="no job nobody"):
        lifecycle.interrupt_job("nobody")
    spot = {"MaxRuntimeInSeconds": 300, "MaxWaitTimeInSeconds": 300}
    own.create("spot", FOR_EVER, EnableManagedSpotTraining=True, StoppingCondition=spot)
    own.wait("spot", "Pending")
    with pytest.raises(LocalEndpointError, match="in Training"):
        lifecycle.interrupt_job("spot")
    own.sagemaker.stop_training_job(TrainingJobName="on-demand")
    own.wait_for_line("spot", "started")
    lifecycle.interrupt_job("spot")
    own.poll(lambda: own.read_lines("spot").count("started"), lambda count: count == 2)
    own.sagemaker.stop_training_job(TrainingJobName="spot")
    steps = [step["Status"] for step in own.wait("spot", "Stopped")["SecondaryStatusTransitions"]]
    assert steps.count("Training") == 2
    assert steps.index("Interrupted") < steps.index("Stopped")
