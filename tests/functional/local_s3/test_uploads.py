"""Multipart uploads."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

MIB = 1 << 20
PART = 5 * MIB
BUCKET = "bucket"


def start_upload(s3: Any, **kwargs: Any) -> dict[str, str]:
    upload_id = s3.create_multipart_upload(Bucket=BUCKET, Key="key", **kwargs)["UploadId"]
    return {"Bucket": BUCKET, "Key": "key", "UploadId": upload_id}


def send_part(s3: Any, upload: dict[str, str], number: int, body: bytes) -> dict[str, Any]:
    answer = s3.upload_part(**upload, PartNumber=number, Body=body)
    kept = {name: value for name, value in answer.items() if name in ("ETag", "ChecksumCRC32")}
    return {**kept, "PartNumber": number}


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_transfer_of_a_big_file_in_parallel_parts(
    url: str, tmp_path: Path, checksums: str, make_client: Callable[..., Any]
) -> None:
    client = make_client(url, request_checksum_calculation=checksums, response_checksum_validation=checksums)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(21 * MIB + 3))
    parallel = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
    extra = {"Metadata": {"a": "1"}, "ServerSideEncryption": "aws:kms"}
    client.upload_file(str(source), BUCKET, "key", ExtraArgs=extra, Config=parallel)
    client.copy({"Bucket": BUCKET, "Key": "key"}, BUCKET, "copy", Config=parallel)
    client.download_file(BUCKET, "copy", str(target), Config=parallel)
    head = client.head_object(Bucket=BUCKET, Key="key")
    client.close()
    assert target.read_bytes() == source.read_bytes()
    assert head["ETag"].endswith('-5"')
    assert (head["Metadata"], head["ServerSideEncryption"]) == ({"a": "1"}, "aws:kms")


def test_upload_with_composite_checksum(s3: Any, get: Callable[..., bytes]) -> None:
    upload = start_upload(s3, ChecksumAlgorithm="CRC32")
    bodies = [b"a" * PART, b"end"]
    parts = [send_part(s3, upload, number, body) for number, body in enumerate(bodies, 1)]
    done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    inner = b"".join(zlib.crc32(body).to_bytes(4, "big") for body in bodies)
    expected = f"{base64.b64encode(zlib.crc32(inner).to_bytes(4, 'big')).decode()}-2"
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (expected, "COMPOSITE")
    assert get(s3, "key") == b"".join(bodies)


def test_upload_without_checksums_has_the_usual_etag(url: str, make_client: Callable[..., Any]) -> None:
    client = make_client(url, request_checksum_calculation="when_required")
    upload = start_upload(client)
    bodies = [b"a" * PART, b"end"]
    parts = [send_part(client, upload, number, body) for number, body in enumerate(bodies, 1)]
    done = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    client.close()
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    assert done["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-2"'


def test_parts_and_uploads_are_listed_by_pages(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
    upload = start_upload(s3)
    for number in (3, 1, 2):
        send_part(s3, upload, number, b"x" * number)
    pages = list(s3.get_paginator("list_parts").paginate(**upload, PaginationConfig={"PageSize": 2}))
    parts = [(part["PartNumber"], part["Size"]) for page in pages for part in page["Parts"]]
    assert (len(pages), parts) == (2, [(1, 1), (2, 2), (3, 3)])
    others = {start_upload(s3)["UploadId"] for _ in range(2)} | {upload["UploadId"]}
    listing = s3.get_paginator("list_multipart_uploads").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 2})
    assert {found["UploadId"] for page in listing for found in page["Uploads"]} == others
    s3.abort_multipart_upload(**upload)
    assert refusal(lambda: s3.list_parts(**upload)) == ("NoSuchUpload", 404)


def test_part_from_a_range_of_another_object(s3: Any, get: Callable[..., bytes]) -> None:
    s3.put_object(Bucket=BUCKET, Key="source", Body=b"0123456789" * MIB)
    upload, source = start_upload(s3), {"Bucket": BUCKET, "Key": "source"}
    copied = s3.upload_part_copy(**upload, PartNumber=1, CopySource=source, CopySourceRange=f"bytes=5-{PART + 4}")
    last = send_part(s3, upload, 2, b"end")
    parts = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}, last]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert get(s3, "key") == (b"0123456789" * MIB)[5 : PART + 5] + b"end"


def test_conditional_completion(s3: Any, refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]) -> None:
    uploads = [start_upload(s3), start_upload(s3)]
    parts = [[send_part(s3, upload, 1, b"%d" % number)] for number, upload in enumerate(uploads)]
    s3.complete_multipart_upload(**uploads[0], MultipartUpload={"Parts": parts[0]}, IfNoneMatch="*")
    late = refusal(
        lambda: s3.complete_multipart_upload(**uploads[1], MultipartUpload={"Parts": parts[1]}, IfNoneMatch="*")
    )
    assert late == ("PreconditionFailed", 412)
    assert get(s3, "key") == b"0"
