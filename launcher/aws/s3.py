"""Objects: put if absent, get in part, list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.aws.errors import explain, explained
from launcher.aws.session import Session
from launcher.errors import CloudError, DataError
from launcher.progress import Advance, Track, untracked

PART_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
REFUSED_CONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
ABSENT = {"404", "NoSuchKey", "NotFound"}


@dataclass(frozen=True)
class ObjectInfo:
    size: int
    etag: str


def split_uri(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def check_bucket(session: Session, bucket: str) -> None:
    """Raise unless it is there and may be used."""
    with explained(f"looking for the bucket {bucket}"):
        session.client("s3").head_bucket(Bucket=bucket)


def find_object(session: Session, bucket: str, key: str) -> ObjectInfo | None:
    from botocore.exceptions import ClientError

    with explained(f"looking for s3://{bucket}/{key}"):
        try:
            head = session.client("s3").head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ABSENT:
                return None
            raise
    return ObjectInfo(head["ContentLength"], head["ETag"])


def upload_file(session: Session, path: Path, bucket: str, key: str, progress: Advance | None = None) -> None:
    """Multipart for large files; an upload cut half-way leaves no object, and its parts are aborted."""
    from boto3.exceptions import S3UploadFailedError
    from boto3.s3.transfer import S3Transfer, TransferConfig

    doing = f"uploading {path} to s3://{bucket}/{key}"
    config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
    with explained(doing), S3Transfer(client=session.client("s3"), config=config) as transfer:
        try:
            transfer.upload_file(str(path), bucket, key, callback=progress)
        except S3UploadFailedError as error:
            raise _upload_error(doing, error) from error


def _upload_error(doing: str, error: Exception) -> Exception:
    """boto3 wraps what happened in words of its own; the cause has the code."""
    cause = error.__cause__ or error.__context__
    answer = getattr(cause, "response", {}).get("Error")
    return (
        explain(doing, answer)
        if answer
        else CloudError(f"While {doing}: {error}", hint="Submit again: what arrived whole is kept.")
    )


def put_bytes(session: Session, content: bytes, bucket: str, key: str, **conditions: str) -> bool:
    """Write one small object; False when a condition (IfNoneMatch, IfMatch) did not hold."""
    return _try_put(session, content, bucket, key, **conditions)[0]


def _try_put(session: Session, content: bytes, bucket: str, key: str, **conditions: str) -> tuple[bool, bool]:
    """Whether the conditions held, and whether botocore sent it more than once."""
    from botocore.exceptions import ClientError

    with explained(f"writing s3://{bucket}/{key}"):
        try:
            answer: Any = session.client("s3").put_object(Bucket=bucket, Key=key, Body=content, **conditions)
            held = True
        except ClientError as error:
            if error.response["Error"]["Code"] not in REFUSED_CONDITION:
                raise
            answer, held = error.response, False
    return held, bool(answer.get("ResponseMetadata", {}).get("RetryAttempts"))


def switch_bytes(session: Session, content: bytes, bucket: str, key: str, etag: str) -> bool:
    """Write in place of what has this etag, or of nothing; False when somebody else has written meanwhile.

    A put whose answer was lost is sent again and refused for its own success: what lies there then is ours. One that
    was sent once and refused was beaten, by whoever wrote the same.
    """
    condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
    held, was_repeated = _try_put(session, content, bucket, key, **condition)
    if held or not was_repeated:
        return held
    return find_object(session, bucket, key) is not None and get_bytes(session, bucket, key)[0] == content


def get_bytes(session: Session, bucket: str, key: str) -> tuple[bytes, str]:
    """A small object's content and etag."""
    with explained(f"reading s3://{bucket}/{key}"):
        answer = session.client("s3").get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ETag"]


def delete_object(session: Session, bucket: str, key: str) -> None:
    with explained(f"deleting s3://{bucket}/{key}"):
        session.client("s3").delete_object(Bucket=bucket, Key=key)


def iter_chunks(session: Session, bucket: str, key: str, start: int, etag: str) -> Iterator[bytes]:
    """The object's bytes from `start` on, as long as it is still the one with this etag."""
    with explained(f"downloading s3://{bucket}/{key}"):
        answer: Any = session.client("s3").get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-", IfMatch=etag)
        yield from answer["Body"].iter_chunks(CHUNK_BYTES)


def iter_keys(session: Session, bucket: str, prefix: str) -> Iterator[str]:
    with explained(f"listing s3://{bucket}/{prefix}"):
        for page in session.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"]


def fetch_files(session: Session, uri: str, folder: Path, track: Track = untracked) -> list[Path]:
    """The object at an address, or every object below it, as files in a folder."""
    bucket, key = split_uri(uri)
    found = find_object(session, bucket, key) if key and not key.endswith("/") else None
    if found:
        return [_fetch_file(session, bucket, key, found, folder / key.rpartition("/")[2], track)]
    prefix = key if not key or key.endswith("/") else f"{key}/"
    keys = [name for name in iter_keys(session, bucket, prefix) if not name.endswith("/")]
    if not keys:
        raise DataError(
            f"{uri} is neither an object nor a folder of objects.", hint=f"`aws s3 ls {uri}` shows what is there."
        )
    files = []
    for name in sorted(keys):
        head = find_object(session, bucket, name)
        path = folder / name.removeprefix(prefix)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"s3://{bucket}/{name} has a name that leads out of its folder.", hint="Rename the object.")
        if head:  # else it was deleted since it was listed
            files.append(_fetch_file(session, bucket, name, head, path, track))
    return files


def _fetch_file(session: Session, bucket: str, key: str, head: ObjectInfo, path: Path, track: Track) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, track(path.name, head.size) as advance:
        for chunk in iter_chunks(session, bucket, key, 0, head.etag) if head.size else ():
            file.write(chunk)
            advance(len(chunk))
    return path
