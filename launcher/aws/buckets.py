"""Whole buckets: whether one is empty, and its end."""

from __future__ import annotations

from launcher.aws.errors import explained
from launcher.aws.session import Session

ABSENT = ("NoSuchBucket", "404")
NO_VERSIONS = ("NotImplemented", "NotImplementedException", "501")  # of a store that keeps none


def is_empty(session: Session, bucket: str) -> bool | None:
    """Whether it holds nothing, old versions included; None when there is no such bucket."""
    from botocore.exceptions import ClientError

    client = session.client("s3")
    with explained(f"looking into the bucket {bucket}"):
        try:
            if client.list_objects_v2(Bucket=bucket, MaxKeys=1).get("Contents"):
                return False
            page = client.list_object_versions(Bucket=bucket, MaxKeys=1)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ABSENT:
                return None
            if code in NO_VERSIONS:
                return True
            raise
    return not page.get("Versions") and not page.get("DeleteMarkers")


def delete_bucket(session: Session, bucket: str) -> None:
    with explained(f"deleting the bucket {bucket}"):
        session.client("s3").delete_bucket(Bucket=bucket)
