"""Foreign errors become ours: the right class, the exit code, a fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from botocore import xform_name
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError

import launcher
from launcher.aws.errors import STATED_DEFAULT, TABLE, explained
from launcher.aws.shapes import load_service
from launcher.errors import CloudError, CredentialsError, LauncherError, RunError, SiteError, UnknownJob


def client_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "CreateTrainingJob")


@pytest.mark.parametrize(
    ("foreign", "ours", "exit_code"),
    [
        (client_error("InvalidSignatureException", "Signature expired: 20260101 is now earlier"), CredentialsError, 3),
        (client_error("ResourceNotFoundException", "Schedule group launcher does not exist."), SiteError, 3),
        (client_error("ResourceLimitExceeded", "ml.g5.xlarge for training job usage"), CloudError, 3),
        (client_error("ResourceInUse", "exists"), RunError, 2),
        (client_error("ValidationException", "Requested resource not found."), UnknownJob, 2),
        (client_error("ValidationException", "Could not assume role x"), SiteError, 3),
        (client_error("ValidationException", "something new"), CloudError, 3),
        (client_error("ValidationError", "Parameter KmsKeyArn failed to satisfy constraint"), CloudError, 3),
        (client_error("AccessDeniedException", "not authorized to perform: iam:PassRole"), SiteError, 3),
        (client_error("ExpiredTokenException", "expired"), CredentialsError, 3),
        (client_error("ThrottlingException", "Rate exceeded"), CloudError, 3),
        (client_error("NoSuchBucket", ""), SiteError, 3),
        (client_error("ValidationException", "No S3 objects found under S3 URL"), SiteError, 3),
        (client_error("ValidationException", "Access denied for repository: x"), SiteError, 3),
        (client_error("ValidationException", "The job is in status Completed."), RunError, 2),
        (client_error("AccessDenied", "no s3:PutObject"), SiteError, 3),
        (client_error("AuthorizationHeaderMalformed", "expecting eu-west-1"), SiteError, 3),
        (client_error("ServiceQuotaExceededException", "schedules"), CloudError, 3),
        (client_error("ConflictException", "exists"), CloudError, 3),
        (client_error("ValidationException", "The subnet ID 'subnet-1' does not exist"), SiteError, 3),
        (client_error("ValidationException", "KMS key x"), SiteError, 3),
        (client_error("ResourceNotFound", "no such job"), UnknownJob, 2),
        (client_error("AccessDeniedException", "not authorized to perform: sagemaker:AddTags"), SiteError, 3),
        (client_error("AccessDeniedException", "not authorized to perform: sagemaker:CreateTrainingJob"), SiteError, 3),
        (client_error("KMS.DisabledException", "key is disabled"), SiteError, 3),
        (client_error("OptInRequired", ""), SiteError, 3),
        (client_error("RequestTimeTooSkewed", ""), CredentialsError, 3),
        (client_error("InternalFailure", ""), CloudError, 3),
        (client_error("InvalidObjectState", ""), SiteError, 3),
        (client_error("NoSuchKey", ""), CloudError, 3),
        (client_error("QueueDeletedRecently", "wait 60 seconds"), CloudError, 3),
        (client_error("TopicLimitExceededException", ""), CloudError, 3),
        (client_error("NeverSeenBefore", "hm"), CloudError, 3),
        (NoCredentialsError(), CredentialsError, 3),
        (ProfileNotFound(profile="absent"), CredentialsError, 3),
        (UnauthorizedSSOTokenError(), CredentialsError, 3),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), CloudError, 3),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1:1"), CloudError, 3),
        (ResponseParserError("invalid XML"), CloudError, 3),
    ],
)
def test_what_botocore_raises_becomes_ours(foreign: Exception, ours: type[LauncherError], exit_code: int) -> None:
    with pytest.raises(ours) as caught, explained("starting job x"):
        raise foreign
    assert type(caught.value) is ours
    assert caught.value.exit_code == exit_code
    assert "starting job x" in caught.value.message
    assert caught.value.hint
    assert caught.value.__cause__ is foreign


def test_every_row_of_the_table_can_be_reached_and_has_a_fix() -> None:
    shown = [
        (error.response["Error"]["Code"], error.response["Error"]["Message"])
        for mark in test_what_botocore_raises_becomes_ours.pytestmark
        for error, *_ in mark.args[1]
        if isinstance(error, ClientError)
    ]
    reached = {
        next((row for row in TABLE if re.fullmatch(row.code, code) and re.search(row.text, text)), None)
        for code, text in shown
    }
    assert [row for row in TABLE if row not in reached] == []
    assert all(row.hint for row in TABLE)


# what the code calls beside `client("service").operation(...)`: paginators, waiters, transfers, fields
OPERATIONS = {
    "sagemaker": {"CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "ListTrainingJobs"},
    "s3": {
        "HeadBucket", "HeadObject", "GetObject", "PutObject", "DeleteObject", "ListObjectsV2", "CreateMultipartUpload",
        "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload",
    },
    "logs": {"DescribeLogStreams", "GetLogEvents"},
    "sts": {"GetCallerIdentity"},
    "secretsmanager": {"GetSecretValue"},
    "iam": {"GetRole", "SimulatePrincipalPolicy"},
    "cloudformation": {"CreateChangeSet", "DescribeChangeSet", "ExecuteChangeSet", "DescribeStacks", "DeleteStack"},
    "service-quotas": {"ListServiceQuotas", "GetServiceQuota"},
    "pricing": {"GetProducts"},
    "ecr": {"DescribeImages"},
    "scheduler": {"CreateSchedule", "GetSchedule", "UpdateSchedule", "DeleteSchedule", "ListSchedules"},
    "sqs": {"ChangeMessageVisibilityBatch", "GetQueueAttributes", "GetQueueUrl", "ReceiveMessage"},
    "sns": {"Publish", "Subscribe"},
}  # fmt: skip


def called_operations() -> dict[str, set[str]]:
    """The table above, and every call that stands in the code in one piece."""
    found = {service: set(names) for service, names in OPERATIONS.items()}
    for path in Path(launcher.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for service, method in re.findall(r'client\("([a-z0-9-]+)"\)\.([a-z0-9_]+)\(', text):
            names = {xform_name(name): name for name in load_service(service).operation_names}
            if method in names:
                found.setdefault(service, set()).add(names[method])
    return found


def is_explained(code: str) -> bool:
    return code in STATED_DEFAULT or any(re.fullmatch(row.code, code) and not row.text for row in TABLE)


def test_every_error_of_every_operation_we_call_has_a_row_or_a_stated_default() -> None:
    missing = []
    for service, operations in called_operations().items():
        for operation in sorted(operations):
            for shape in load_service(service).operation_model(operation).error_shapes:
                code = shape.metadata.get("error", {}).get("code") or shape.name
                if not is_explained(code):
                    missing.append(f"{service}:{operation} {code}")
    assert missing == []


def test_every_code_that_botocore_retries_as_throttling_asks_for_patience() -> None:
    from botocore.retries.standard import ThrottledRetryableChecker

    for code in ThrottledRetryableChecker._THROTTLED_ERROR_CODES:
        with pytest.raises(CloudError) as caught, explained("asking"):
            raise client_error(code)
        assert "fewer calls" in caught.value.hint, code


@pytest.mark.parametrize(
    ("code", "words"),
    [("ExpiredTokenException", "job"), ("ValidationError", "plan")],
    ids=["a job that may not exist", "a request of CloudFormation's"],
)
def test_a_hint_speaks_of_nothing_that_need_not_be_there(code: str, words: str) -> None:
    with pytest.raises(CloudError) as caught, explained("looking for the stack launcher"):
        raise client_error(code, "no")
    assert words not in caught.value.hint


def test_our_own_errors_pass_untouched() -> None:
    with pytest.raises(RunError, match="mine"), explained("anything"):
        raise RunError("mine")


def subclasses(kind: type[LauncherError]) -> list[type[LauncherError]]:
    return [kind, *(deep for sub in kind.__subclasses__() for deep in subclasses(sub))]


def test_every_error_has_a_documented_exit_code() -> None:
    assert {kind.exit_code for kind in subclasses(LauncherError)} == {1, 2, 3, 4, 5}
