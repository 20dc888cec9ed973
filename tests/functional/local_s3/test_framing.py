"""Checksums, and how a body is framed."""

from __future__ import annotations

import base64
import hashlib
import io
import time
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from launcher.local.s3 import S3Service
from launcher.local.store import ObjectStore

MIB = 1 << 20
BUCKET = "bucket"


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def test_downloads_are_validated_by_the_client(s3: Any, store: ObjectStore, get: Callable[..., bytes]) -> None:
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
def test_body_that_does_not_match_its_checksum_leaves_the_old_object(
    s3: Any, header: dict[str, str], refusal: Callable[..., tuple[str, int]], get: Callable[..., bytes]
) -> None:
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


def test_upload_of_a_file_waits_for_no_timeout(s3: Any, refusal: Callable[..., tuple[str, int]]) -> None:
    """botocore sends files with Expect: 100-continue, and waits a second for an answer to that."""
    seconds = []
    for number in range(5):
        began = time.monotonic()
        s3.put_object(Bucket=BUCKET, Key=f"{number}", Body=io.BytesIO(b"x" * MIB))
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1, "each of them waited"
    refused = refusal(lambda: s3.put_object(Bucket="absent", Key="key", Body=io.BytesIO(b"x" * MIB)))
    assert refused == ("NoSuchBucket", 404)


def test_path_that_is_not_utf8_is_refused(wire: Any) -> None:
    answer, text = wire("GET", f"/{BUCKET}/{quote(bytes([255]))}")
    assert (answer.status, b"<Code>InvalidURI</Code>" in text) == (400, True)
