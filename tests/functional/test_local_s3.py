"""S3 of the local endpoint, as boto3, awscli, the SageMaker SDK and plain HTTP see it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from launcher.local.s3 import S3Service
from launcher.local.store import ObjectStore
from launcher.local.wsgi_server import LoopbackServer

MIB = 1 << 20
PART = 5 * MIB
BUCKET = "bucket"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path / "s3")
    store.create_bucket(BUCKET)
    yield store
    store.close()


@pytest.fixture
def url(store: ObjectStore) -> Iterator[str]:
    server = LoopbackServer(0, S3Service(store))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3(url: str) -> Iterator[Any]:
    client = make_client(url)
    yield client
    client.close()


def make_client(url: str, **config: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, **config),
    )


@pytest.fixture
def wire(url: str) -> Iterator[Callable[..., tuple[http.client.HTTPResponse, bytes]]]:
    """Plain requests, one after the other over one connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)

    def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return response, response.read()

    yield ask
    connection.close()


def refusal(action: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        action()
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def get(s3: Any, key: str, **kwargs: Any) -> bytes:
    with s3.get_object(Bucket=BUCKET, Key=key, **kwargs)["Body"] as body:
        return bytes(body.read())


# Buckets


def test_bucket_from_creation_to_deletion(s3: Any) -> None:
    s3.create_bucket(Bucket="europe", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [BUCKET, "europe"]
    assert s3.get_bucket_location(Bucket="europe")["LocationConstraint"] == "eu-west-1"
    assert s3.get_bucket_location(Bucket=BUCKET).get("LocationConstraint") is None
    assert s3.head_bucket(Bucket="europe")["BucketRegion"] == "eu-west-1"
    s3.put_object(Bucket="europe", Key="k", Body=b"")
    assert refusal(lambda: s3.delete_bucket(Bucket="europe")) == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket="europe", Key="k")
    s3.delete_bucket(Bucket="europe")
    assert refusal(lambda: s3.head_bucket(Bucket="europe")) == ("404", 404)
    assert refusal(lambda: s3.list_objects_v2(Bucket="europe")) == ("NoSuchBucket", 404)


def test_bucket_documents_come_back_word_for_word(s3: Any) -> None:
    policy = '{"Version": "2012-10-17",  "Statement": []}'
    rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 3}}
    block = {"BlockPublicAcls": True, "IgnorePublicAcls": False}
    s3.put_bucket_policy(Bucket=BUCKET, Policy=policy)
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [rule]})
    s3.put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration=block)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "a", "Value": "<b>"}]})
    assert s3.get_bucket_policy(Bucket=BUCKET)["Policy"] == policy
    assert s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"] == [rule]
    assert s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"] == block
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    assert s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == [{"Key": "a", "Value": "<b>"}]
    s3.delete_bucket_policy(Bucket=BUCKET)
    assert refusal(lambda: s3.get_bucket_policy(Bucket=BUCKET)) == ("NoSuchBucketPolicy", 404)


def test_bucket_documents_before_they_are_put(s3: Any) -> None:
    assert "Status" not in s3.get_bucket_versioning(Bucket=BUCKET)
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=BUCKET)
    unset = refusal(lambda: s3.get_bucket_lifecycle_configuration(Bucket=BUCKET))
    assert unset == ("NoSuchLifecycleConfiguration", 404)
    encryption = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]
    assert encryption["Rules"][0]["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_what_is_not_implemented_is_never_taken_for_something_else(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"x")
    assert refusal(lambda: s3.get_object_acl(Bucket=BUCKET, Key="key")) == ("NotImplemented", 501)
    assert refusal(lambda: s3.put_object_acl(Bucket=BUCKET, Key="key", ACL="private")) == ("NotImplemented", 501)
    assert refusal(lambda: s3.list_object_versions(Bucket=BUCKET)) == ("NotImplemented", 501)
    assert refusal(lambda: s3.get_object(Bucket=BUCKET, Key="key", VersionId="v")) == ("NoSuchVersion", 404)
    assert get(s3, "key") == b"x"


# Objects

ODD_KEYS = [
    "plain",
    "a b+c%20d%2Fe",
    "folder/",
    "/starts/with/a/slash",
    "double//slash",
    "../../etc/passwd",
    "a/./b/../c",
    ".",
    "?query=1&x#fragment",
    "ünï-日本-\U0001f600",
    "e\u0301 is not \u00e9",
    "<&>\"'",
    "tab\tand\nline",
    "~~tilde",
    "x" * 1024,
    "é" * 512,
]


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
def test_odd_keys_work_everywhere(s3: Any, key: str) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    assert get(s3, key) == key.encode()
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == [key]
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": key})
    assert get(s3, "copy") == key.encode()
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]})
    assert [found["Key"] for found in deleted["Deleted"]] == [key]
    assert refusal(lambda: s3.head_object(Bucket=BUCKET, Key=key)) == ("404", 404)


def test_key_that_is_too_long_is_refused(s3: Any) -> None:
    assert refusal(lambda: s3.put_object(Bucket=BUCKET, Key="x" * 1025, Body=b"")) == ("KeyTooLongError", 400)


def test_object_keeps_what_was_said_about_it(s3: Any) -> None:
    told = {
        "ContentType": "text/plain",
        "Metadata": {"run": "a-1"},
        "CacheControl": "no-store",
        "ContentEncoding": "gzip",
        "ContentDisposition": "attachment",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "key-1",
    }
    put = s3.put_object(Bucket=BUCKET, Key="key", Body=b"hello", Tagging="a=1&b=2", **told)
    head = s3.head_object(Bucket=BUCKET, Key="key")
    assert {name: head[name] for name in told} == told
    assert (put["ServerSideEncryption"], put["SSEKMSKeyId"]) == ("aws:kms", "key-1")
    assert (head["ContentLength"], head["TagCount"]) == (5, 2)
    assert head["ETag"] == put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'


def test_empty_object(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"")
    assert get(s3, "key") == b""
    assert refusal(lambda: get(s3, "key", Range="bytes=0-0")) == ("InvalidRange", 416)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", b"0"),
        ("bytes=2-4", b"234"),
        ("bytes=7-", b"789"),
        ("bytes=-3", b"789"),
        ("bytes=-99", b"0123456789"),
        ("bytes=8-99", b"89"),
    ],
)
def test_ranges(s3: Any, asked: str, expected: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"0123456789")
    answer = s3.get_object(Bucket=BUCKET, Key="key", Range=asked)
    start = b"0123456789".index(expected)
    assert answer["Body"].read() == expected
    assert answer["ContentRange"] == f"bytes {start}-{start + len(expected) - 1}/10"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_ranges_that_are_ignored_or_refused(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"0123456789")
    assert get(s3, "key", Range="bytes=0-1,4-5") == b"0123456789"
    assert refusal(lambda: get(s3, "key", Range="bytes=10-")) == ("InvalidRange", 416)


def test_conditional_reads(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="key", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=BUCKET, Key="key")["LastModified"]
    assert get(s3, "key", IfMatch=etag) == b"x"
    assert refusal(lambda: get(s3, "key", IfMatch='"other"')) == ("PreconditionFailed", 412)
    assert refusal(lambda: get(s3, "key", IfNoneMatch=etag)) == ("304", 304)
    assert refusal(lambda: get(s3, "key", IfModifiedSince=modified)) == ("304", 304)
    assert get(s3, "key", IfUnmodifiedSince=modified) == b"x"
    assert get(s3, "key", IfNoneMatch='"other"', IfModifiedSince=modified) == b"x"


def test_of_many_conditional_puts_exactly_one_wins(s3: Any, url: str) -> None:
    def put(number: int) -> bool:
        client = make_client(url)
        try:
            client.put_object(Bucket=BUCKET, Key="key", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"
            return False
        finally:
            client.close()
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(put, range(6)))
    assert won.count(True) == 1
    assert get(s3, "key") == b"%d" % won.index(True)


def test_put_if_match_replaces_only_that_version(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="key", Body=b"1")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"2", IfMatch=etag)
    again = refusal(lambda: s3.put_object(Bucket=BUCKET, Key="key", Body=b"3", IfMatch=etag))
    absent = refusal(lambda: s3.put_object(Bucket=BUCKET, Key="absent", Body=b"3", IfMatch=etag))
    assert (again, absent) == (("PreconditionFailed", 412), ("NoSuchKey", 404))
    assert get(s3, "key") == b"2"


def test_copy_takes_or_replaces_metadata_and_tags(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="source", Body=b"x", Metadata={"a": "1"}, Tagging="t=1", ContentType="text/csv")
    source = {"Bucket": BUCKET, "Key": "source"}
    s3.copy_object(Bucket=BUCKET, Key="same", CopySource=source)
    replaced = {"MetadataDirective": "REPLACE", "Metadata": {"b": "2"}, "TaggingDirective": "REPLACE"}
    s3.copy_object(Bucket=BUCKET, Key="other", CopySource=source, Tagging="u=2", **replaced)
    same, other = (s3.head_object(Bucket=BUCKET, Key=key) for key in ("same", "other"))
    assert (same["Metadata"], same["ContentType"]) == ({"a": "1"}, "text/csv")
    assert (other["Metadata"], other["ContentType"]) == ({"b": "2"}, "binary/octet-stream")
    assert s3.get_object_tagging(Bucket=BUCKET, Key="same")["TagSet"] == [{"Key": "t", "Value": "1"}]
    assert s3.get_object_tagging(Bucket=BUCKET, Key="other")["TagSet"] == [{"Key": "u", "Value": "2"}]
    itself = refusal(lambda: s3.copy_object(Bucket=BUCKET, Key="source", CopySource=source))
    wrong = refusal(lambda: s3.copy_object(Bucket=BUCKET, Key="x", CopySource=source, CopySourceIfMatch='"no"'))
    assert (itself, wrong) == (("InvalidRequest", 400), ("PreconditionFailed", 412))


def test_tags_of_an_object(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="key", Body=b"x")["ETag"]
    tags = [{"Key": "a b", "Value": ""}, {"Key": "c", "Value": "<d>"}]
    s3.put_object_tagging(Bucket=BUCKET, Key="key", Tagging={"TagSet": tags})
    assert s3.get_object_tagging(Bucket=BUCKET, Key="key")["TagSet"] == tags
    s3.delete_object_tagging(Bucket=BUCKET, Key="key")
    assert s3.get_object_tagging(Bucket=BUCKET, Key="key")["TagSet"] == []
    assert s3.head_object(Bucket=BUCKET, Key="key")["ETag"] == etag


def test_presigned_urls_read_and_write(s3: Any) -> None:
    key = {"Bucket": BUCKET, "Key": "a b"}
    put = urllib.request.Request(s3.generate_presigned_url("put_object", key), b"bytes", method="PUT")
    with urllib.request.urlopen(put, timeout=20) as answer:
        assert answer.status == 200
    shown = s3.generate_presigned_url("get_object", {**key, "ResponseContentType": "text/html"})
    with urllib.request.urlopen(shown, timeout=20) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"bytes", "text/html")


# Listing


def test_listing_by_pages_with_an_opaque_token(s3: Any) -> None:
    keys = [f"a/{number:02} ü" for number in range(25)]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 10}))
    assert [page["KeyCount"] for page in pages] == [10, 10, 5]
    assert [found["Key"] for page in pages for found in page["Contents"]] == keys
    assert all(key not in page["NextContinuationToken"] for page in pages[:-1] for key in keys)
    old = list(s3.get_paginator("list_objects").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 10}))
    assert [found["Key"] for page in old for found in page["Contents"]] == keys
    rest = s3.list_objects_v2(Bucket=BUCKET, StartAfter=keys[22])
    assert [found["Key"] for found in rest["Contents"]] == keys[23:]
    bad = refusal(lambda: s3.list_objects_v2(Bucket=BUCKET, ContinuationToken="x"))
    assert bad == ("InvalidArgument", 400)


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
def test_listing_with_a_delimiter(s3: Any, operation: str) -> None:
    for key in ("a", "b/1", "b/2", "c/1/x", "c/2", "d"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    pages = s3.get_paginator(operation).paginate(Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": 1})
    entries = [
        (found.get("Key") or found["Prefix"])
        for page in pages
        for found in (*page.get("Contents", ()), *page.get("CommonPrefixes", ()))
    ]
    assert entries == ["a", "b/", "c/", "d"]
    below = getattr(s3, operation)(Bucket=BUCKET, Prefix="c/", Delimiter="/")
    assert [found["Key"] for found in below["Contents"]] == ["c/2"]
    assert [found["Prefix"] for found in below["CommonPrefixes"]] == ["c/1/"]
    nothing = s3.list_objects_v2(Bucket=BUCKET, MaxKeys=0)
    assert (nothing["KeyCount"], nothing["IsTruncated"]) == (0, False)


# Multipart uploads


def start_upload(s3: Any, **kwargs: Any) -> dict[str, str]:
    upload_id = s3.create_multipart_upload(Bucket=BUCKET, Key="key", **kwargs)["UploadId"]
    return {"Bucket": BUCKET, "Key": "key", "UploadId": upload_id}


def send_part(s3: Any, upload: dict[str, str], number: int, body: bytes) -> dict[str, Any]:
    answer = s3.upload_part(**upload, PartNumber=number, Body=body)
    kept = {name: value for name, value in answer.items() if name in ("ETag", "ChecksumCRC32")}
    return {**kept, "PartNumber": number}


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_transfer_of_a_big_file_in_parallel_parts(url: str, tmp_path: Path, checksums: str) -> None:
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


def test_upload_with_composite_checksum(s3: Any) -> None:
    upload = start_upload(s3, ChecksumAlgorithm="CRC32")
    bodies = [b"a" * PART, b"end"]
    parts = [send_part(s3, upload, number, body) for number, body in enumerate(bodies, 1)]
    done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    inner = b"".join(zlib.crc32(body).to_bytes(4, "big") for body in bodies)
    expected = f"{base64.b64encode(zlib.crc32(inner).to_bytes(4, 'big')).decode()}-2"
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (expected, "COMPOSITE")
    assert get(s3, "key") == b"".join(bodies)


def test_upload_without_checksums_has_the_usual_etag(url: str) -> None:
    client = make_client(url, request_checksum_calculation="when_required")
    upload = start_upload(client)
    bodies = [b"a" * PART, b"end"]
    parts = [send_part(client, upload, number, body) for number, body in enumerate(bodies, 1)]
    done = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    client.close()
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    assert done["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-2"'


def test_parts_and_uploads_are_listed_by_pages(s3: Any) -> None:
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


def test_part_from_a_range_of_another_object(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="source", Body=b"0123456789" * MIB)
    upload, source = start_upload(s3), {"Bucket": BUCKET, "Key": "source"}
    copied = s3.upload_part_copy(**upload, PartNumber=1, CopySource=source, CopySourceRange=f"bytes=5-{PART + 4}")
    last = send_part(s3, upload, 2, b"end")
    parts = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}, last]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert get(s3, "key") == (b"0123456789" * MIB)[5 : PART + 5] + b"end"


def test_conditional_completion(s3: Any) -> None:
    uploads = [start_upload(s3), start_upload(s3)]
    parts = [[send_part(s3, upload, 1, b"%d" % number)] for number, upload in enumerate(uploads)]
    s3.complete_multipart_upload(**uploads[0], MultipartUpload={"Parts": parts[0]}, IfNoneMatch="*")
    late = refusal(
        lambda: s3.complete_multipart_upload(**uploads[1], MultipartUpload={"Parts": parts[1]}, IfNoneMatch="*")
    )
    assert late == ("PreconditionFailed", 412)
    assert get(s3, "key") == b"0"


# Integrity and framing


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def test_downloads_are_validated_by_the_client(s3: Any, store: ObjectStore) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"good")
    assert s3.get_object(Bucket=BUCKET, Key="key")["ChecksumCRC32"] == crc32(b"good")
    s3.put_object(Bucket=BUCKET, Key="sha", Body=b"good", ChecksumAlgorithm="SHA256")
    assert get(s3, "sha") == b"good"


@pytest.mark.parametrize(
    "header",
    [
        {"ChecksumCRC32": crc32(b"other")},
        {"ChecksumSHA256": base64.b64encode(hashlib.sha256(b"other").digest()).decode()},
        {"ContentMD5": base64.b64encode(hashlib.md5(b"other").digest()).decode()},
    ],
)
def test_body_that_does_not_match_its_checksum_leaves_the_old_object(s3: Any, header: dict[str, str]) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"old")
    assert refusal(lambda: s3.put_object(Bucket=BUCKET, Key="key", Body=b"new", **header)) == ("BadDigest", 400)
    assert get(s3, "key") == b"old"


def aws_chunked(data: bytes, checksum: str, size: int = 7) -> bytes:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    framed = b"".join(b"%x;chunk-signature=0\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return framed + b"0\r\nx-amz-checksum-crc32:%b\r\n\r\n" % checksum.encode()


CHUNKED_HEADERS = {
    "Content_Encoding": "aws-chunked",
    "X_Amz_Content_Sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "X_Amz_Trailer": "x-amz-checksum-crc32",
}


@pytest.mark.parametrize("transfer", ["by length", "chunked"])
def test_aws_chunked_body_with_a_trailing_checksum(wire: Any, s3: Any, transfer: str) -> None:
    data = bytes(range(256)) * 40
    body = aws_chunked(data, crc32(data))
    sent = body if transfer == "by length" else iter([body[:50], body[50:]])
    headers = {**CHUNKED_HEADERS, "X_Amz_Decoded_Content_Length": str(len(data))}
    answer, _ = wire("PUT", f"/{BUCKET}/key", sent, **headers)
    assert (answer.status, answer.headers["x-amz-checksum-crc32"]) == (200, crc32(data))
    got = s3.get_object(Bucket=BUCKET, Key="key")
    assert got["Body"].read() == data
    assert "ContentEncoding" not in got


def test_aws_chunked_bodies_that_are_wrong_leave_nothing(wire: Any, s3: Any) -> None:
    good = aws_chunked(b"0123456789", crc32(b"0123456789"))
    wrong = [
        ("BadDigest", aws_chunked(b"0123456789", crc32(b"other")), "10"),
        ("IncompleteBody", good, "11"),
        ("IncompleteBody", good[:9], "10"),
        ("IncompleteBody", b"zz\r\n" + good, "10"),
    ]
    for code, body, length in wrong:
        headers = {**CHUNKED_HEADERS, "X_Amz_Decoded_Content_Length": length}
        answer, text = wire("PUT", f"/{BUCKET}/key", body, **headers)
        assert (answer.status, f"<Code>{code}</Code>".encode() in text) == (400, True), text
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def call(store: ObjectStore, method: str, path: str, stream: io.RawIOBase | io.BytesIO, **more: str) -> str:
    """The application alone, as a server calls it that hands over the raw connection."""
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "wsgi.input": stream, **more}
    statuses: list[str] = []
    body = S3Service(store)(environ, lambda status, headers: statuses.append(status))  # type: ignore[arg-type,return-value]
    statuses.append(b"".join(body).decode())
    return " ".join(statuses)


def test_transfer_encoding_that_the_server_left_to_the_application(store: ObjectStore) -> None:
    raw = io.BytesIO(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nGET /next")
    assert call(store, "PUT", f"/{BUCKET}/key", raw, HTTP_TRANSFER_ENCODING="chunked").startswith("200")
    with store.open(BUCKET, "key")[1] as file:
        assert file.read() == b"abcde"
    assert raw.read() == b"GET /next"


def test_body_that_ends_early_is_refused(store: ObjectStore) -> None:
    answer = call(store, "PUT", f"/{BUCKET}/key", io.BytesIO(b"abc"), CONTENT_LENGTH="5")
    assert "<Code>IncompleteBody</Code>" in answer
    assert list(store.list(BUCKET)) == []


def test_body_of_a_refused_request_is_read_to_its_end(store: ObjectStore) -> None:
    raw = io.BytesIO(b"abcdeGET /next")
    assert "NoSuchBucket" in call(store, "PUT", "/absent/key", raw, CONTENT_LENGTH="5")
    assert raw.read() == b"GET /next"


def test_connection_goes_on_after_a_refused_upload(wire: Any) -> None:
    refused, text = wire("PUT", "/absent/key", b"x" * 3 * MIB)
    assert (refused.status, b"<Code>NoSuchBucket</Code>" in text) == (404, True)
    answer, _ = wire("PUT", f"/{BUCKET}/key", b"good")
    assert answer.status == 200
    head, text = wire("HEAD", f"/{BUCKET}/absent")
    assert (head.status, text) == (404, b"")
    again, text = wire("GET", f"/{BUCKET}/key")
    assert (again.status, text) == (200, b"good")


def test_upload_of_a_file_waits_for_no_timeout(s3: Any) -> None:
    """botocore sends files with Expect: 100-continue, and waits a second for an answer to that."""
    began = time.monotonic()
    for number in range(3):
        s3.put_object(Bucket=BUCKET, Key=f"{number}", Body=io.BytesIO(b"x" * MIB))
    assert time.monotonic() - began < 2.5
    refused = refusal(lambda: s3.put_object(Bucket="absent", Key="key", Body=io.BytesIO(b"x" * MIB)))
    assert refused == ("NoSuchBucket", 404)


def test_path_that_is_not_utf8_is_refused(wire: Any) -> None:
    answer, text = wire("GET", f"/{BUCKET}/{quote(bytes([255]))}")
    assert (answer.status, b"<Code>InvalidURI</Code>" in text) == (400, True)


# Other clients


@pytest.fixture
def aws(url: str, tmp_path: Path) -> Callable[..., str]:
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "awscli", *arguments]
        env = {**os.environ, **environment}
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_awscli(aws: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_text("1")
    (folder / "sub" / "zwei ü").write_bytes(b"2" * 9 * MIB)
    aws("s3", "mb", "s3://fresh")
    aws("s3", "sync", "folder", "s3://fresh/f")
    lines = aws("s3", "ls", "--recursive", "s3://fresh").splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == ["1 f/one", f"{9 * MIB} f/sub/zwei ü"]
    assert aws("s3", "sync", "folder", "s3://fresh/f") == ""
    aws("s3", "cp", "--recursive", "s3://fresh/f", "back")
    assert (tmp_path / "back" / "sub" / "zwei ü").read_bytes() == b"2" * 9 * MIB
    aws("s3", "rb", "--force", "s3://fresh")
    assert "fresh" not in aws("s3", "ls")


SAGEMAKER_SCRIPT = """
import sys, boto3
from sagemaker import Session
from sagemaker.s3 import S3Downloader, S3Uploader
session = Session(boto3.Session(region_name="us-east-1"), default_bucket="made-by-the-sdk")
assert session.default_bucket() == "made-by-the-sdk"
uri = session.upload_data("data", key_prefix="prefix", extra_args={"ServerSideEncryption": "aws:kms"})
S3Uploader.upload_string_as_file_body("text", uri + "/text", sagemaker_session=session)
assert sorted(S3Downloader.list(uri, sagemaker_session=session)) == [uri + "/a", uri + "/text"]
S3Downloader.download(uri, "down", sagemaker_session=session)
"""


def test_sagemaker_sdk_uploads_and_downloads(url: str, tmp_path: Path) -> None:
    pytest.importorskip("sagemaker", reason="comes with the aws and local extras")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("bytes")
    settings = {"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_S3": url, "NO_PROXY": "127.0.0.1"}
    secrets = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    command = [sys.executable, "-c", SAGEMAKER_SCRIPT]
    env = {**os.environ, **settings, **secrets}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in (tmp_path / "down").iterdir()} == {"a": "bytes", "text": "text"}
