"""Where a bucket and an image lie, asked without changing anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from launcher.aws.errors import explain, explained
from launcher.errors import SiteError

ABSENT_IMAGE = {"ImageNotFound", "RepositoryNotFoundException", "ImageNotFoundException"}


@dataclass(frozen=True)
class ImageName:
    """The parts of an image's URI in ECR."""

    registry: str
    region: str
    repository: str
    tag: str = ""
    digest: str = ""


def fetch_bucket_region(s3: Any, bucket: str) -> str:
    """Where a bucket lies; empty where the answer does not say. Another region's bucket answers with an error."""
    from botocore.exceptions import ClientError

    doing = f"looking for the bucket {bucket}"
    with explained(doing):
        try:
            answer = s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response
            if not _region_of(answer) or _status_of(answer) not in (301, 400):
                raise explain(doing, answer.get("Error", {})) from error
    return _region_of(answer)


def _region_of(answer: Any) -> str:
    metadata = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(metadata.get("x-amz-bucket-region", ""))


def _status_of(answer: Any) -> int:
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def fetch_encryption(s3: Any, bucket: str) -> str:
    """The bucket's default encryption in AWS's word, such as aws:kms; empty where it has none."""
    from botocore.exceptions import ClientError

    doing = f"asking for the encryption of {bucket}"
    with explained(doing):
        try:
            answer = s3.get_bucket_encryption(Bucket=bucket)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "ServerSideEncryptionConfigurationNotFoundError":
                return ""
            raise
    rules = answer["ServerSideEncryptionConfiguration"]["Rules"]
    return str(rules[0].get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "")) if rules else ""


def split_image(uri: str) -> ImageName | None:
    """None for an image that is not in ECR."""
    found = re.fullmatch(
        r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.[a-z0-9.-]+/([^:@]+)(?::([^@]+))?(?:@(.+))?", uri
    )
    return ImageName(*(part or "" for part in found.groups())) if found else None


def has_image(ecr: Any, image: ImageName) -> bool:
    """AWS's own repositories let others fetch an image's manifest, though not list what there is."""
    from botocore.exceptions import ClientError

    wanted = {"imageDigest": image.digest} if image.digest else {"imageTag": image.tag or "latest"}
    with explained(f"looking for the image {image.repository}"):
        try:
            answer = ecr.batch_get_image(registryId=image.registry, repositoryName=image.repository, imageIds=[wanted])
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ABSENT_IMAGE:
                return False
            raise
    return bool(answer.get("images"))


def fetch_secret(client: Any, secret: str) -> str:
    with explained(f"reading the secret {secret}"):
        answer = client.get_secret_value(SecretId=secret)
    if "SecretString" not in answer:
        raise SiteError(
            f"The secret {secret} holds bytes and no text, so the job finds no token in it.",
            hint=f"`aws secretsmanager put-secret-value --secret-id {secret} --secret-string TOKEN` stores it as text.",
        )
    return str(answer["SecretString"])
