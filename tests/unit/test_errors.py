"""Foreign errors become ours: the right class, the exit code, a fix."""

from __future__ import annotations

import re

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from launcher.aws.errors import TABLE, explained
from launcher.errors import CloudError, CredentialsError, LauncherError, RunError, SiteError, UnknownJob


def client_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "CreateTrainingJob")


@pytest.mark.parametrize(
    ("foreign", "ours", "exit_code"),
    [
        (client_error("ResourceLimitExceeded", "ml.g5.xlarge for training job usage"), CloudError, 3),
        (client_error("ResourceInUse", "exists"), RunError, 2),
        (client_error("ValidationException", "Requested resource not found."), UnknownJob, 2),
        (client_error("ValidationException", "Could not assume role x"), SiteError, 3),
        (client_error("ValidationException", "something new"), CloudError, 3),
        (client_error("AccessDeniedException", "not authorized to perform: iam:PassRole"), SiteError, 3),
        (client_error("ExpiredTokenException", "expired"), CredentialsError, 3),
        (client_error("ThrottlingException", "Rate exceeded"), CloudError, 3),
        (client_error("NoSuchBucket", ""), SiteError, 3),
        (client_error("ValidationException", "No S3 objects found under S3 URL"), SiteError, 3),
        (client_error("ValidationException", "Access denied for repository: x"), SiteError, 3),
        (client_error("ValidationException", "The job is in status Completed."), RunError, 2),
        (client_error("AccessDenied", "no s3:PutObject"), SiteError, 3),
        (client_error("AuthorizationHeaderMalformed", "expecting eu-west-1"), SiteError, 3),
        (client_error("NeverSeenBefore", "hm"), CloudError, 3),
        (NoCredentialsError(), CredentialsError, 3),
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


def test_our_own_errors_pass_untouched() -> None:
    with pytest.raises(RunError, match="mine"), explained("anything"):
        raise RunError("mine")


def subclasses(kind: type[LauncherError]) -> list[type[LauncherError]]:
    return [kind, *(deep for sub in kind.__subclasses__() for deep in subclasses(sub))]


def test_every_error_has_a_documented_exit_code() -> None:
    assert {kind.exit_code for kind in subclasses(LauncherError)} == {1, 2, 3, 4, 5}
