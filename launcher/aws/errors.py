"""Foreign errors pass one table: an AWS code, or a way a connection fails, becomes an error of ours with a fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from launcher.errors import CloudError, CredentialsError, LauncherError, RunError, SiteError, UnknownJob


@dataclass(frozen=True)
class Explanation:
    """`code` is AWS's, `text` a pattern its message must show; the first match in the table wins."""

    code: str
    text: str
    error: type[LauncherError]
    hint: str


TABLE = (
    Explanation(
        "ResourceLimitExceeded", "", CloudError,
        "Ask for the quota it names in the Service Quotas console (it takes hours to days), or use another --instance.",
    ),
    Explanation("ResourceInUse", "", RunError, "A job of this name exists already. Submit again: the name holds the time."),
    Explanation(
        "ValidationException", "Requested resource not found", UnknownJob,
        "`launcher list` shows the jobs that can be seen from here.",
    ),
    Explanation(
        "ValidationException", "[Cc]ould not assume role", SiteError,
        "The role must trust sagemaker.amazonaws.com; a role made minutes ago may need another minute.",
    ),
    Explanation(
        "ValidationException", "No S3 objects found", SiteError,
        "The bucket must lie in the job's region, and the role needs s3:ListBucket on it.",
    ),
    Explanation(
        "ValidationException", "Access denied for repository|Invalid DNS suffix", SiteError,
        "The image must lie in the job's region; leave image.uri empty to have it chosen.",
    ),
    Explanation("ValidationException", "in status|already (been )?(stopped|terminated)", RunError, "The job has ended; there is nothing to stop."),
    Explanation("ValidationException", "", CloudError, "`launcher plan --json` shows the request that was refused."),
    Explanation(
        "AccessDenied(Exception)?", "iam:PassRole", SiteError,
        "Whoever submits needs iam:PassRole on the job's role, for sagemaker.amazonaws.com.",
    ),
    Explanation("AccessDenied(Exception)?|403|Forbidden", "", SiteError, "Ask for the permission that the message names."),
    Explanation(
        "ExpiredToken(Exception)?|RequestExpired|InvalidClientTokenId|UnrecognizedClientException|SignatureDoesNotMatch|AuthFailure",
        "", CredentialsError, "Sign in again (`aws sso login`, or new keys); the job itself is not affected.",
    ),
    Explanation("Throttling(Exception)?|ThrottledException|TooManyRequestsException|SlowDown", "", CloudError, "AWS asks for fewer calls; try again in a minute."),
    Explanation("NoSuchBucket|404", "", SiteError, "Check output.bucket: the bucket must exist in the job's region."),
    Explanation("PermanentRedirect|AuthorizationHeaderMalformed|301", "", SiteError, "The bucket lies in another region; set compute.region to it."),
)  # fmt: skip
FALLBACK_HINT = "Try again; if it stays, the message above is AWS's own."


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Run AWS calls; whatever botocore raises leaves as an error of ours that says what we were doing."""
    import botocore.exceptions as foreign
    from botocore.parsers import ResponseParserError

    try:
        yield
    except foreign.ClientError as error:
        raise explain(doing, error.response.get("Error", {})) from error
    except (foreign.NoCredentialsError, foreign.PartialCredentialsError, foreign.CredentialRetrievalError) as error:
        raise CredentialsError(
            f"While {doing}: no usable AWS credentials were found.",
            hint="Sign in with `aws sso login` or `aws configure`.",
        ) from error
    except (foreign.EndpointConnectionError, foreign.HTTPClientError) as error:
        raise CloudError(
            f"While {doing}: the connection failed ({error}).",
            hint="Check the network; for the local endpoint `launcher local status` tells whether it runs.",
        ) from error
    except ResponseParserError as error:  # a proxy's page, or a stand-in that lacks the call
        raise CloudError(
            f"While {doing}: the answer is not one of AWS's.",
            hint="Check what answers in its place: a proxy, or what AWS_ENDPOINT_URL names.",
        ) from error
    except foreign.BotoCoreError as error:
        raise CloudError(f"While {doing}: {error}", hint=FALLBACK_HINT) from error


def explain(doing: str, answer: dict[str, str]) -> LauncherError:
    code, text = answer.get("Code", ""), answer.get("Message", "")
    sentence = f"While {doing}, AWS answered {code}: {text}" if text else f"While {doing}, AWS answered {code}."
    for row in TABLE:
        if re.fullmatch(row.code, code) and re.search(row.text, text):
            return row.error(sentence, hint=row.hint)
    return CloudError(sentence, hint=FALLBACK_HINT)
