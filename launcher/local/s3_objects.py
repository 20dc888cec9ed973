"""S3's operations on one object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import parse_qsl, unquote

from launcher.local.s3_checksums import algorithms_to_digest, check_content, checksum_headers
from launcher.local.s3_conditions import (
    NotModified,
    check_copy_source,
    check_read,
    parse_range,
    write_conditions,
)
from launcher.local.s3_request import S3Request
from launcher.local.s3_xml import (
    Response,
    empty_response,
    http_time,
    parse_tags,
    quoted,
    render_copy,
    render_tags,
    xml_response,
)
from launcher.local.store import ObjectStore
from launcher.local.store_model import Attributes, StoredObject, StoreError

SEND_CHUNK = 1 << 20
ENCRYPTION = "x-amz-server-side-encryption"
ENCRYPTION_HEADERS = (ENCRYPTION, f"{ENCRYPTION}-aws-kms-key-id", f"{ENCRYPTION}-bucket-key-enabled")
PLACEMENT_HEADERS = (*ENCRYPTION_HEADERS, "x-amz-storage-class", "x-amz-website-redirect-location")
KEPT_HEADERS = ("cache-control", "content-disposition", "content-language", "expires", *PLACEMENT_HEADERS)
# queries of a (presigned) GET that replace headers of the answer
OVERRIDES = (
    "content-type",
    "content-language",
    "expires",
    "cache-control",
    "content-disposition",
    "content-encoding",
)


class FileBody:
    """The chosen bytes of a file, read as they are sent; it stays open even if its object is replaced."""

    def __init__(self, file: BinaryIO, chosen: range) -> None:
        self._file = file
        self._chosen = chosen

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._chosen.start)
        left = len(self._chosen)
        while left:
            chunk = self._file.read(min(left, SEND_CHUNK))
            if not chunk:
                raise OSError("an object's file became shorter while it was sent")
            left -= len(chunk)
            yield chunk

    def close(self) -> None:
        self._file.close()


def put_object(store: ObjectStore, request: S3Request) -> Response:
    if request.header("x-amz-copy-source"):
        return copy_object(store, request)
    conditions = write_conditions(request)
    attributes = read_attributes(request)
    store.check_put(request.bucket, request.key, conditions)
    with store.receiving(request.body, algorithms_to_digest(request)) as content:
        checksum = check_content(request, content)
        stored = store.commit(request.bucket, request.key, content, attributes, conditions, checksum)
    return empty_response(200, written_headers(stored))


def get_object(store: ObjectStore, request: S3Request) -> Response:
    check_part_number(request)
    stored, file = store.open(request.bucket, request.key)
    try:
        return read_response(request, stored, file)
    except BaseException:
        file.close()
        raise


def head_object(store: ObjectStore, request: S3Request) -> Response:
    check_part_number(request)
    return read_response(request, store.head(request.bucket, request.key), None)


def delete_object(store: ObjectStore, request: S3Request) -> Response:
    store.delete(request.bucket, request.key)
    return empty_response(204)


def copy_object(store: ObjectStore, request: S3Request) -> Response:
    source, target = parse_copy_source(request), (request.bucket, request.key)
    replaces = request.header("x-amz-metadata-directive") == "REPLACE"
    if source == target and not replaces and not request.header(ENCRYPTION):
        message = "This copy request is illegal: it copies an object to itself without changing anything."
        raise StoreError("InvalidRequest", 400, message)

    def describe(found: StoredObject) -> Attributes:
        check_copy_source(request, found)
        return copied_attributes(request, found.attributes)

    copied = store.copy(source, target, describe=describe, conditions=write_conditions(request))
    return render_copy("CopyObjectResult", copied)


def get_tags(store: ObjectStore, request: S3Request) -> Response:
    return xml_response("Tagging", render_tags(store.head(request.bucket, request.key).tags))


def put_tags(store: ObjectStore, request: S3Request) -> Response:
    store.set_tags(request.bucket, request.key, parse_tags(request.document()))
    return empty_response()


def delete_tags(store: ObjectStore, request: S3Request) -> Response:
    store.set_tags(request.bucket, request.key, {})
    return empty_response(204)


def read_response(request: S3Request, stored: StoredObject, file: BinaryIO | None) -> Response:
    """The answer to GET (with the open file) or HEAD; what goes without its body closes the file."""
    headers = object_headers(stored)
    try:
        check_read(request, stored)
    except NotModified:
        if file is not None:
            file.close()
        return empty_response(304, {name: headers[name] for name in ("ETag", "Last-Modified")})
    chosen = parse_range(request.header("range"), stored.size)
    if chosen is None and request.header("x-amz-checksum-mode") == "ENABLED":
        headers.update(checksum_headers(stored.checksum))
    headers.update(overridden_headers(request))
    headers["Content-Length"] = str(stored.size if chosen is None else len(chosen))
    if chosen is not None:
        headers["Content-Range"] = f"bytes {chosen.start}-{chosen.stop - 1}/{stored.size}"
    body = () if file is None else FileBody(file, range(stored.size) if chosen is None else chosen)
    return Response(200 if chosen is None else 206, headers, body)


def object_headers(stored: StoredObject) -> dict[str, str]:
    headers = {
        "ETag": quoted(stored.etag),
        "Last-Modified": http_time(stored.modified),
        "Content-Type": stored.content_type,
        "Accept-Ranges": "bytes",
        **stored.attributes.headers,
        **{f"x-amz-meta-{name}": value for name, value in stored.metadata.items()},
    }
    if stored.tags:
        headers["x-amz-tagging-count"] = str(len(stored.tags))
    return headers


def written_headers(stored: StoredObject) -> dict[str, str]:
    headers = {"ETag": quoted(stored.etag), **encryption_headers(stored.attributes)}
    return {**headers, **checksum_headers(stored.checksum)}


def encryption_headers(attributes: Attributes) -> dict[str, str]:
    return {name: attributes.headers[name] for name in ENCRYPTION_HEADERS if name in attributes.headers}


def overridden_headers(request: S3Request) -> dict[str, str]:
    wanted = {name: request.query.get(f"response-{name}") for name in OVERRIDES}
    return {canonical(name): value for name, value in wanted.items() if value}


def canonical(name: str) -> str:
    return "Content-Type" if name == "content-type" else name


def read_attributes(request: S3Request) -> Attributes:
    headers = read_headers(request, KEPT_HEADERS)
    encoding = kept_encoding(request.header("content-encoding"))
    if encoding:
        headers["content-encoding"] = encoding
    return Attributes(
        content_type=request.header("content-type") or Attributes.content_type,
        metadata=request.headers_with_prefix("x-amz-meta-"),
        headers=headers,
        tags=dict(parse_qsl(request.header("x-amz-tagging") or "", keep_blank_values=True)),
    )


def copied_attributes(request: S3Request, source: Attributes) -> Attributes:
    """Each of metadata and tags is the source's unless told to REPLACE; where the copy lies is its own."""
    asked = read_attributes(request)
    replaces_tags = request.header("x-amz-tagging-directive") == "REPLACE"
    tags = asked.tags if replaces_tags else source.tags
    if request.header("x-amz-metadata-directive") == "REPLACE":
        return asked.with_tags(tags)
    kept = {name: value for name, value in source.headers.items() if name not in PLACEMENT_HEADERS}
    headers = {**kept, **read_headers(request, PLACEMENT_HEADERS)}
    return Attributes(source.content_type, source.metadata, headers, tags)


def read_headers(request: S3Request, names: tuple[str, ...]) -> dict[str, str]:
    found = {name: request.header(name) for name in names}
    return {name: value for name, value in found.items() if value}


def kept_encoding(header: str | None) -> str:
    """The object's own encoding: aws-chunked was only the wire's."""
    codings = [coding.strip() for coding in (header or "").split(",")]
    return ",".join(coding for coding in codings if coding and coding.lower() != "aws-chunked")


def parse_copy_source(request: S3Request) -> tuple[str, str]:
    header = request.header("x-amz-copy-source") or ""
    path, _, version = header.partition("?versionId=")
    bucket, _, key = unquote(path.removeprefix("/")).partition("/")
    if not key or version not in ("", "null"):
        message = f"Copy Source must mention the source bucket and key (and no version): {header}"
        raise StoreError("InvalidArgument", 400, message)
    return bucket, key


def check_part_number(request: S3Request) -> None:
    if "partNumber" in request.query:
        raise StoreError("NotImplemented", 501, "Reading one part is not implemented: use Range.")
