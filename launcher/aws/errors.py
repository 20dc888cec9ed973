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


POLICY_LIMITS = (
    "bootstrap's policy limits instance types and run time: take another --instance or a shorter --max-runtime, or have "
    "both widened with `launcher bootstrap --instances TYPES --max-runtime TIME`."
)
TABLE = (
    # limits and names
    Explanation(
        "InvalidSignatureException|SignatureDoesNotMatch|AuthFailure", "[Ss]ignature expired|not yet current",
        CredentialsError, "This machine's clock is wrong: set it (`timedatectl set-ntp true`) and try again.",
    ),
    Explanation(
        "ResourceNotFoundException", "[Ss]chedule ?[Gg]roup", SiteError,
        "`launcher bootstrap --schedules` makes the group that schedules live in.",
    ),
    Explanation(
        "ResourceLimitExceeded", "", CloudError,
        "Ask for the quota it names in the Service Quotas console (it takes hours to days), or use another --instance.",
    ),
    Explanation("ServiceQuotaExceededException|(Subscription|FilterPolicy|Replay)LimitExceeded|TooManyParts", "", CloudError, "Ask for the quota in the Service Quotas console, or delete what is no longer used."),
    Explanation("ResourceInUse", "", RunError, "A job of this name exists already. Submit again: the name holds the time."),
    Explanation(
        "ConflictException|AlreadyExistsException|TokenAlreadyExistsException|ConcurrentModificationException|BucketAlready\\w+", "", CloudError,
        "Something of this name exists already, or is being changed at this moment; look at it before you try again.",
    ),
    # a request that was refused, by what its message says
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
        "ValidationException", "Access denied for repository|Invalid DNS suffix|[Ii]mage.*(not exist|not found)", SiteError,
        "The image must lie in the job's region; leave image.uri empty to have it chosen.",
    ),
    Explanation(
        "ValidationException", "(?i)subnet|security group|\\bvpc", SiteError,
        "compute.subnets and compute.security_groups must exist in the job's region, all in one VPC.",
    ),
    Explanation("ValidationException", "(?i)kms|volumeKmsKeyId", SiteError, "The key must lie in the job's region and allow the job's role; instances with their own disk take no volume key."),
    Explanation("ValidationException", "in status|already (been )?(stopped|terminated)", RunError, "The job has ended; there is nothing to stop."),
    Explanation("ValidationException", "", CloudError, "Change what the message names; `launcher plan --json` shows a job's whole request."),
    Explanation("ValidationError", "", CloudError, "Change what the message names, and try again."),
    Explanation("ResourceNotFound", "", UnknownJob, "`launcher list` shows the jobs that can be seen from here."),
    # who may do what
    Explanation(
        "AccessDenied(Exception)?", "iam:PassRole", SiteError,
        "Whoever submits needs iam:PassRole on the job's role, for sagemaker.amazonaws.com.",
    ),
    Explanation("AccessDenied(Exception)?", "sagemaker:AddTags", SiteError, "Starting a job with tags needs sagemaker:AddTags beside sagemaker:CreateTrainingJob."),
    Explanation("AccessDenied(Exception)?", "sagemaker:CreateTrainingJob", SiteError, f"Without bootstrap's policy ask for this permission; {POLICY_LIMITS}"),
    Explanation("(KMS\\.?|Kms)\\w+|DecryptionFailure|EncryptionTypeMismatch", "", SiteError, "Check the KMS key: enabled, in this region, and open to you and to the job's role."),
    Explanation(
        "AccessDenied(Exception)?|AuthorizationError|InsufficientCapabilitiesException|InvalidSecurity|UnauthorizedOperation|403|Forbidden", "", SiteError,
        "Ask for the permission that the message names; an AWS Organizations policy may forbid it too.",
    ),
    Explanation("OptInRequired|SubscriptionRequiredException|InvalidRegion", "", SiteError, "This account has not turned on the service or the region; choose another region or enable it."),
    Explanation(
        "RequestTimeTooSkewed|RequestInTheFuture", "", CredentialsError, "This machine's clock is off; set it, and try again."
    ),
    Explanation(
        "ExpiredToken(Exception)?|RequestExpired|InvalidClientTokenId|InvalidAccessKeyId|UnrecognizedClientException|SignatureDoesNotMatch|"
        "InvalidSignatureException|IncompleteSignature|MissingAuthenticationToken(Exception)?|InvalidToken|TokenRefreshRequired|AuthFailure",
        "", CredentialsError, "Sign in again (`aws sso login`, or new keys).",
    ),
    # too much at once, or AWS's own trouble
    Explanation(
        "Throttling(Exception)?|ThrottledException|TooManyRequests(Exception)?|SlowDown|RequestThrottled(Exception)?|RequestLimitExceeded|"
        "BandwidthLimitExceeded|LimitExceededException|ConcurrentAccess(Exception)?|ProvisionedThroughputExceededException|TransactionInProgressException|"
        "PriorRequestNotComplete|EC2ThrottledException|OverLimit",
        "", CloudError, "AWS asks for fewer calls, and retries with growing pauses did not help; try again in a minute.",
    ),
    Explanation(
        "Internal(Error|Failure|Exception|ServerError|ServiceError|ErrorException|ServerException)|ServiceUnavailable(Exception)?|"
        "Service(Failure|Exception)|ServerException|RequestTimeout(Exception)?|UnableToGetUpstreamImageException|50[0-4]",
        "", CloudError, "AWS's side failed, not yours; try again in a minute. What was there already is kept.",
    ),
    # places
    Explanation("NoSuchBucket|404", "", SiteError, "Check output.bucket: the bucket must exist in the job's region."),
    Explanation(
        "PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraintException|301|307", "", SiteError,
        "The bucket lies in another region; set compute.region to it.",
    ),
    Explanation("QueueDeletedRecently", "", CloudError, "A queue's name is free again a minute after it was deleted; try again then."),
    Explanation("(Topic|Tag)LimitExceeded(Exception)?", "", CloudError, "Delete topics or tags that nobody uses, or ask for a higher quota."),
    Explanation("InvalidObjectState", "", SiteError, "The object lies in an archive; restore it, or copy it to another storage class."),
    Explanation(
        "NoSuch\\w+|\\w*NotFound(Exception)?|\\w+DoesNotExist|InvalidChangeSetStatus|\\w+Disabled", "", CloudError,
        "It is not there, or no longer: check its name and the region.",
    ),
)  # fmt: skip
# Codes that a service answers to a request we should never send: the fallback says AWS's own words.
STATED_DEFAULT = frozenset({
    "EndpointDisabled", "IllegalArgumentException", "InvalidAddress", "InvalidEventPatternException", "InvalidInput",
    "InvalidNextTokenException", "InvalidPaginationTokenException", "InvalidParameter", "InvalidParameterException",
    "InvalidRequest", "InvalidRequestException", "InvalidWriteOffset", "ExpiredNextTokenException",
    "InvalidAttributeName", "InvalidAttributeValue", "ManagedRuleException", "ParameterValueInvalid", "QueueNameExists",
    "StaleTag", "TagPolicy", "PolicyEvaluation", "UnsupportedOperation",
    "BatchEntryIdsNotDistinct", "EmptyBatchRequest", "InvalidBatchEntryId", "TooManyEntriesInBatchRequest",
})  # fmt: skip
FALLBACK_HINT = "Try again; if it stays, the message above is AWS's own."
SIGN_IN = "Sign in with `aws sso login` or `aws configure`."


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Run AWS calls; whatever botocore raises leaves as an error of ours that says what we were doing."""
    import botocore.exceptions as foreign
    from botocore.parsers import ResponseParserError

    try:
        yield
    except foreign.ClientError as error:
        raise explain(doing, error.response.get("Error", {})) from error
    except (foreign.NoCredentialsError, foreign.PartialCredentialsError) as error:
        raise CredentialsError(f"While {doing}: no usable AWS credentials were found.", hint=SIGN_IN) from error
    except (
        foreign.CredentialRetrievalError,
        foreign.ProfileNotFound,
        foreign.SSOError,
        foreign.LoginError,
        foreign.TokenRetrievalError,
        foreign.NoAuthTokenError,
    ) as error:
        raise CredentialsError(f"While {doing}: the sign-in cannot be used ({error}).", hint=SIGN_IN) from error
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
