"""Buckets, objects and lists of them, as boto3 sees them."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

BUCKET = "bucket"


# Buckets


def test_bucket_from_creation_to_deletion(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
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


def test_bucket_documents_come_back_word_for_word(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
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


def test_bucket_documents_before_they_are_put(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
    assert "Status" not in s3.get_bucket_versioning(Bucket=BUCKET)
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=BUCKET)
    unset = refusal(lambda: s3.get_bucket_lifecycle_configuration(Bucket=BUCKET))
    assert unset == ("NoSuchLifecycleConfiguration", 404)
    encryption = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]
    assert encryption["Rules"][0]["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_what_is_not_implemented_is_never_taken_for_something_else(
    s3: Any, refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]
) -> None:
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
def test_odd_keys_work_everywhere(
    s3: Any, key: str, refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]
) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    assert get(s3, key) == key.encode()
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == [key]
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": key})
    assert get(s3, "copy") == key.encode()
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]})
    assert [found["Key"] for found in deleted["Deleted"]] == [key]
    assert refusal(lambda: s3.head_object(Bucket=BUCKET, Key=key)) == ("404", 404)


def test_key_that_is_too_long_is_refused(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
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


def test_empty_object(s3: Any, refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]) -> None:
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


def test_ranges_that_are_ignored_or_refused(
    s3: Any, refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]
) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"0123456789")
    assert get(s3, "key", Range="bytes=0-1,4-5") == b"0123456789"
    assert refusal(lambda: get(s3, "key", Range="bytes=10-")) == ("InvalidRange", 416)


def test_conditional_reads(s3: Any, refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="key", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=BUCKET, Key="key")["LastModified"]
    assert get(s3, "key", IfMatch=etag) == b"x"
    assert refusal(lambda: get(s3, "key", IfMatch='"other"')) == ("PreconditionFailed", 412)
    assert refusal(lambda: get(s3, "key", IfNoneMatch=etag)) == ("304", 304)
    assert refusal(lambda: get(s3, "key", IfModifiedSince=modified)) == ("304", 304)
    assert get(s3, "key", IfUnmodifiedSince=modified) == b"x"
    assert get(s3, "key", IfNoneMatch='"other"', IfModifiedSince=modified) == b"x"


def test_of_many_conditional_puts_exactly_one_wins(
    s3: Any, url: str, get: Callable[..., bytes], make_client: Callable[..., Any]
) -> None:
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


def test_put_if_match_replaces_only_that_version(
    s3: Any, refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]
) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="key", Body=b"1")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"2", IfMatch=etag)
    again = refusal(lambda: s3.put_object(Bucket=BUCKET, Key="key", Body=b"3", IfMatch=etag))
    absent = refusal(lambda: s3.put_object(Bucket=BUCKET, Key="absent", Body=b"3", IfMatch=etag))
    assert (again, absent) == (("PreconditionFailed", 412), ("NoSuchKey", 404))
    assert get(s3, "key") == b"2"


def test_copy_takes_or_replaces_metadata_and_tags(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
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
    with urllib.request.urlopen(put, timeout=60) as answer:
        assert answer.status == 200
    shown = s3.generate_presigned_url("get_object", {**key, "ResponseContentType": "text/html"})
    with urllib.request.urlopen(shown, timeout=60) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"bytes", "text/html")


# Listing


def test_listing_by_pages_with_an_opaque_token(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
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
