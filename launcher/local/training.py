"""The training-job operations of SageMaker, kept in the JobBook and carried out by the dispatcher."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Protocol

from launcher.local.jobs import TERMINAL, Document, JobBook, NameTaken, UnknownJob
from launcher.local.json_protocol import (
    ApiError,
    Operation,
    Params,
    check_params,
    decode_token,
    encode_token,
    read_time,
    validation_error,
)
from launcher.local.settings import Settings

DEFAULT_MAX_RUNTIME_S = 86_400  # what SageMaker fills in
MAX_TAGS = 50
NOT_IN_DESCRIBE = ("Tags", "SessionChainingConfig")
SUMMARY_FIELDS = (
    "TrainingJobName",
    "TrainingJobArn",
    "CreationTime",
    "TrainingEndTime",
    "LastModifiedTime",
    "TrainingJobStatus",
    "SecondaryStatus",
)
SORT_FIELDS = {"Name": "TrainingJobName", "CreationTime": "CreationTime", "Status": "TrainingJobStatus"}


class Runners(Protocol):
    """What the operations ask of the dispatcher."""

    def wake(self) -> None: ...

    def stop(self, name: str) -> None: ...


class TrainingJobs:
    service = "sagemaker"

    def __init__(self, book: JobBook, runners: Runners, settings: Settings) -> None:
        self._book = book
        self._runners = runners
        self._settings = settings
        self._operations: dict[str, Operation] = {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "StopTrainingJob": self._stop,
            "DeleteTrainingJob": self._delete,
            "ListTrainingJobs": self._list,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }

    def offers(self, operation: str, params: Params) -> bool:
        """Whether a request is about training jobs; tags can be those of anything."""
        if operation in ("AddTags", "ListTags", "DeleteTags"):
            return ":training-job/" in str(params.get("ResourceArn"))
        return operation in self._operations

    def call(self, operation: str, params: Params) -> dict[str, Any]:
        check_params(self.service, operation, params)
        try:
            return self._operations[operation](params)
        except UnknownJob as error:
            raise validation_error("Requested resource not found.") from error

    # Operations

    def _create(self, params: Params) -> dict[str, Any]:
        _check_training_job(params)
        arn = self._make_arn(params["TrainingJobName"])
        try:
            tags = _make_tags(params.get("Tags") or [])
            self._book.add(_make_document(params, arn), tags=tags, request=params)
        except NameTaken as error:
            message = "Job name must be unique within an AWS account and region, and a job with this name already"
            raise ApiError("ResourceInUse", f"{message} exists ({arn})") from error
        self._runners.wake()
        return {"TrainingJobArn": arn}

    def _describe(self, params: Params) -> dict[str, Any]:
        return self._book.get(params["TrainingJobName"])

    def _stop(self, params: Params) -> dict[str, Any]:
        job = self._book.get(params["TrainingJobName"])
        if job["TrainingJobStatus"] in TERMINAL:
            status = job["TrainingJobStatus"]
            raise validation_error(f"The request was rejected because the training job is in status {status}.")
        self._runners.stop(job["TrainingJobName"])
        return {}

    def _delete(self, params: Params) -> dict[str, Any]:
        job = self._book.get(params["TrainingJobName"])
        if (status := job["TrainingJobStatus"]) not in TERMINAL:
            raise ApiError("ResourceInUse", f"The training job is in status {status}: stop it first.")
        self._book.delete(job["TrainingJobName"])
        return {}

    def _list(self, params: Params) -> dict[str, Any]:
        """A page goes on behind the last job of the one before, whatever was created in between."""
        field = SORT_FIELDS[params.get("SortBy", "CreationTime")]
        descending = params.get("SortOrder") == "Descending"

        def place(job: Document) -> tuple[Any, str]:
            return job[field], job["TrainingJobName"]

        jobs = sorted(_select(self._book.all(), params), key=place, reverse=descending)
        if token := params.get("NextToken"):
            *behind, token_field = decode_token(token, 3)
            last = _checked_place(behind, token_field, field)
            jobs = [job for job in jobs if (place(job) < last if descending else place(job) > last)]
        page = jobs[: params.get("MaxResults", 10)]
        answer: dict[str, Any] = {"TrainingJobSummaries": [_summarise(job) for job in page]}
        if len(page) < len(jobs):
            answer["NextToken"] = encode_token(*place(page[-1]), field)
        return answer

    def _add_tags(self, params: Params) -> dict[str, Any]:
        name = self._find_name(params["ResourceArn"])
        tags = self._book.tags(name) | _make_tags(params["Tags"])
        if len(tags) > MAX_TAGS:
            raise validation_error(f"A resource can have {MAX_TAGS} tags; this would make it {len(tags)}.")
        self._book.set_tags(name, tags)
        return {"Tags": _list_of_tags(tags)}

    def _list_tags(self, params: Params) -> dict[str, Any]:
        # Never a second page: a page holds at least 50 tags, and a job has no more.
        return {"Tags": _list_of_tags(self._book.tags(self._find_name(params["ResourceArn"])))}

    def _delete_tags(self, params: Params) -> dict[str, Any]:
        name = self._find_name(params["ResourceArn"])
        gone = set(params["TagKeys"])
        self._book.set_tags(name, {key: value for key, value in self._book.tags(name).items() if key not in gone})
        return {}

    def _make_arn(self, name: str) -> str:
        return f"arn:aws:sagemaker:{self._settings.region}:{self._settings.account}:training-job/{name.lower()}"

    def _find_name(self, arn: str) -> str:
        for job in self._book.all():
            if job["TrainingJobArn"] == arn.lower():
                return str(job["TrainingJobName"])
        raise UnknownJob(arn)


def _make_document(params: Params, arn: str) -> Document:
    """The Describe document of a job just created, with the defaults that SageMaker fills in."""
    now = round(time.time(), 3)
    name = params["TrainingJobName"]
    output = params["OutputDataConfig"]
    limits = params.get("StoppingCondition", {})
    document = {key: value for key, value in params.items() if key not in NOT_IN_DESCRIBE and value is not None}
    return document | {
        "TrainingJobArn": arn,
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Starting",
        "SecondaryStatusTransitions": [
            {"Status": "Starting", "StartTime": now, "StatusMessage": "Starting the training job"}
        ],
        "CreationTime": now,
        "LastModifiedTime": now,
        "ModelArtifacts": {"S3ModelArtifacts": f"{output['S3OutputPath'].rstrip('/')}/{name}/output/model.tar.gz"},
        "OutputDataConfig": {"KmsKeyId": "", "CompressionType": "GZIP"} | output,
        "StoppingCondition": {"MaxRuntimeInSeconds": DEFAULT_MAX_RUNTIME_S} | limits,
        "InputDataConfig": [_fill_channel(channel) for channel in params.get("InputDataConfig") or []],
        "ResourceConfig": _select_type(params["ResourceConfig"]),
        "EnableNetworkIsolation": params.get("EnableNetworkIsolation") or False,
        "EnableInterContainerTrafficEncryption": params.get("EnableInterContainerTrafficEncryption") or False,
        "EnableManagedSpotTraining": params.get("EnableManagedSpotTraining") or False,
        "ProfilingStatus": "Disabled",
    }


def _fill_channel(channel: dict[str, Any]) -> dict[str, Any]:
    return {"CompressionType": "None", "RecordWrapperType": "None"} | channel


# What AWS checks and no shape can say


def _check_training_job(params: Params) -> None:
    _check_algorithm(params)
    _check_resources(params)
    _check_limits(params)
    names = [channel["ChannelName"] for channel in params.get("InputDataConfig") or []]
    if twice := _find_twice(names):
        raise validation_error(f"Channel names must be unique in a training job: {twice} is there twice.")
    _make_tags(params.get("Tags") or [])


def _check_algorithm(params: Params) -> None:
    if params.get("ServerlessJobConfig"):
        raise validation_error("The local endpoint has no serverless training jobs: leave out ServerlessJobConfig.")
    algorithm = params.get("AlgorithmSpecification")
    if not algorithm:
        raise validation_error("AlgorithmSpecification is required.")
    if bool(algorithm.get("TrainingImage")) == bool(algorithm.get("AlgorithmName")):
        raise validation_error("You must specify either an algorithm name or a training image, and not both.")


def _check_resources(params: Params) -> None:
    resources = params.get("ResourceConfig")
    if not resources:
        raise validation_error("ResourceConfig is required.")
    _check_preferences(resources)
    ways = [key for key in ("InstanceType", "InstanceGroups", "InstancePreferences") if resources.get(key)]
    if not ways:
        raise validation_error("ResourceConfig needs InstanceType, InstanceGroups or InstancePreferences.")
    if len(ways) > 1:
        raise validation_error(f"{' and '.join(ways)} are mutually exclusive in ResourceConfig.")
    spot = params.get("EnableManagedSpotTraining")
    if spot and resources.get("KeepAlivePeriodInSeconds"):
        raise validation_error("KeepAlivePeriodInSeconds cannot be used with managed spot training.")
    if spot and "InstancePreferences" in ways:
        raise validation_error("InstancePreferences cannot be used with managed spot training.")


def _check_preferences(resources: dict[str, Any]) -> None:
    if read_only := [key for key in resources if key.startswith("Selected")]:
        raise validation_error(f"{read_only[0]} is read-only.")
    preferences = resources.get("InstancePreferences") or []
    if twice := _find_twice([choice["InstanceType"] for choice in preferences]):
        raise validation_error(f"An instance type can appear only once in InstancePreferences: {twice}.")
    counted = [choice for choice in preferences if choice.get("InstanceCount") is not None]
    for_all = resources.get("InstanceCount") is not None
    if preferences and (len(counted) not in (0, len(preferences)) or for_all == bool(counted)):
        raise validation_error("Give InstanceCount in ResourceConfig, or in each of InstancePreferences, and not both.")


def _select_type(resources: dict[str, Any]) -> dict[str, Any]:
    """The first choice is always to be had on this machine."""
    if not resources.get("InstancePreferences"):
        return resources
    first = resources["InstancePreferences"][0]
    count = first.get("InstanceCount", resources.get("InstanceCount"))
    return resources | {"SelectedInstanceType": first["InstanceType"], "SelectedInstanceCount": count}


def _check_limits(params: Params) -> None:
    limits = params.get("StoppingCondition") or {}
    runtime_s = limits.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_S)
    wait_s = limits.get("MaxWaitTimeInSeconds")
    if params.get("EnableManagedSpotTraining"):
        if wait_s is None or wait_s < runtime_s:
            raise validation_error(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            )
    elif wait_s is not None:
        raise validation_error(
            "Invalid MaxWaitTimeInSeconds. It can only be set when EnableManagedSpotTraining is true."
        )


def _make_tags(tags: Iterable[dict[str, str]]) -> dict[str, str]:
    pairs = [(tag["Key"], tag["Value"]) for tag in tags]
    if twice := _find_twice([key for key, _ in pairs]):
        raise validation_error(f"Duplicate tag keys found. Please note that Tag keys are case insensitive: {twice}")
    if reserved := [key for key, _ in pairs if key.lower().startswith("aws:")]:
        raise validation_error(f"Tag keys that begin with aws: are reserved: {reserved[0]}")
    return dict(pairs)


def _find_twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            return name
        seen.add(name.lower())
    return None


def _list_of_tags(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


# Lists


def _select(jobs: list[Document], params: Params) -> Iterable[Document]:
    wanted = params.get("StatusEquals")
    part = params.get("NameContains", "").lower()
    for job in jobs:
        if wanted and job["TrainingJobStatus"] != wanted:
            continue
        if part not in job["TrainingJobName"].lower():
            continue
        if params.get("WarmPoolStatusEquals") or params.get("TrainingPlanArnEquals"):
            continue  # no job here has either
        if _is_within(job, "CreationTime", params) and _is_within(job, "LastModifiedTime", params):
            yield job


def _is_within(job: Document, field: str, params: Params) -> bool:
    after, before = params.get(f"{field}After"), params.get(f"{field}Before")
    time_s: float = job[field]
    return (after is None or time_s > read_time(after)) and (before is None or time_s < read_time(before))


def _checked_place(place: list[Any], token_field: str, field: str) -> tuple[Any, str]:
    if token_field != field:
        raise validation_error("The pagination token belongs to another SortBy.")
    value, name = place
    return value, name


def _summarise(job: Document) -> Document:
    return {field: job[field] for field in SUMMARY_FIELDS if field in job}
