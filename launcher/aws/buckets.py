"""Whole buckets: whether one is empty, its policy, and its end."""

from __future__ import annotations

import json

from launcher.aws.errors import explained
from launcher.aws.session import Session
from launcher.errors import SiteError

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


def lift_policy(session: Session, bucket: str, sid: str) -> str:
    """Take the policy off and return it; empty where there is none. Refuses one with other statements than `sid`."""
    from botocore.exceptions import ClientError

    client = session.client("s3")
    with explained(f"reading the policy of the bucket {bucket}"):
        try:
            policy = str(client.get_bucket_policy(Bucket=bucket)["Policy"])
        except ClientError as error:
            if error.response["Error"]["Code"] in (*ABSENT, "NoSuchBucketPolicy"):
                return ""
            raise
    if [statement.get("Sid") for statement in json.loads(policy)["Statement"]] != [sid]:
        raise SiteError(
            f"The bucket {bucket}, which an earlier stack left, has a policy that is not the launcher's.",
            hint=f"Keep a copy, and take it off: `aws s3api delete-bucket-policy --bucket {bucket}`.",
        )
    with explained(f"taking the policy off the bucket {bucket}"):
        client.delete_bucket_policy(Bucket=bucket)
    return policy


def put_policy(session: Session, bucket: str, policy: str) -> None:
    with explained(f"putting the policy back on the bucket {bucket}"):
        session.client("s3").put_bucket_policy(Bucket=bucket, Policy=policy)


def delete_bucket(session: Session, bucket: str) -> None:
    with explained(f"deleting the bucket {bucket}"):
        session.client("s3").delete_bucket(Bucket=bucket)
