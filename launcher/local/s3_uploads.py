"""S3's operations on multipart uploads."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from launcher.local.s3_checksums import (
    PREFIX,
    check_content,
    checksum_headers,
    member_name,
    part_algorithms,
)
from launcher.local.s3_conditions import check_copy_source, parse_range, write_conditions
from launcher.local.s3_objects import FileBody, encryption_headers, parse_copy_source, read_attributes
from launcher.local.s3_request import S3Request
from launcher.local.s3_xml import (
    Response,
    empty_response,
    iso_time,
    iter_named,
    local_name,
    need_text,
    node,
    parse_xml,
    quoted,
    text,
    xml_response,
)
from launcher.local.store import ObjectStore
from launcher.local.store_model import Checksum, Part, StoreError, Upload, WantedPart
from launcher.local.store_uploads import MOST_PARTS

PAGE_SIZE = 1000


def create_upload(store: ObjectStore, request: S3Request) -> Response:
    algorithm = (request.header("x-amz-checksum-algorithm") or "").lower() or None
    kind = request.header("x-amz-checksum-type") or ("FULL_OBJECT" if algorithm == "crc64nvme" else "COMPOSITE")
    attributes = read_attributes(request)
    upload = store.uploads.create(request.bucket, request.key, attributes, algorithm, kind)
    headers = encryption_headers(attributes)
    if algorithm:
        headers |= {"x-amz-checksum-algorithm": algorithm.upper(), "x-amz-checksum-type": kind}
    return xml_response(
        "InitiateMultipartUploadResult",
        text("Bucket", upload.bucket),
        text("Key", upload.key),
        text("UploadId", upload.id),
        headers=headers,
    )


def upload_part(store: ObjectStore, request: S3Request) -> Response:
    upload, number = find_upload(store, request), part_number(request)
    if request.header("x-amz-copy-source"):
        return upload_part_copy(store, request, upload, number)
    size, algorithms = request.content_length(), part_algorithms(request)
    with store.uploads.receiving(upload, number, size, request.body, algorithms) as content:
        checksum = check_content(request, content)
        part = store.uploads.put_part(upload, number, content, checksum)
    headers = {"ETag": quoted(part.etag), **encryption_headers(upload.attributes)}
    return empty_response(200, {**headers, **checksum_headers(checksum)})


def upload_part_copy(store: ObjectStore, request: S3Request, upload: Upload, number: int) -> Response:
    source, file = store.open(*parse_copy_source(request))
    with file:
        check_copy_source(request, source)
        chosen = parse_range(request.header("x-amz-copy-source-range"), source.size) or range(source.size)
        with store.uploads.receiving(upload, number, len(chosen), FileBody(file, chosen)) as content:
            part = store.uploads.put_part(upload, number, content, None)
    return xml_response(
        "CopyPartResult", text("LastModified", iso_time(part.modified)), text("ETag", quoted(part.etag))
    )


def complete_upload(store: ObjectStore, request: S3Request) -> Response:
    wanted = [read_wanted(element) for element in iter_named(parse_xml(request.document()), "Part")]
    conditions = write_conditions(request)
    stored = store.uploads.complete(
        request.bucket,
        request.key,
        request.query["uploadId"],
        wanted,
        conditions,
        full_checksum(request),
    )
    return xml_response(
        "CompleteMultipartUploadResult",
        text("Location", f"/{stored.bucket}/{stored.key}"),
        text("Bucket", stored.bucket),
        text("Key", stored.key),
        text("ETag", quoted(stored.etag)),
        *render_checksum(stored.checksum),
        headers=encryption_headers(stored.attributes),
    )


def abort_upload(store: ObjectStore, request: S3Request) -> Response:
    store.uploads.abort(request.bucket, request.key, request.query["uploadId"])
    return empty_response(204)


def list_parts(store: ObjectStore, request: S3Request) -> Response:
    upload = find_upload(store, request)
    marker = read_number(request, "part-number-marker", 0)
    limit = min(read_number(request, "max-parts", PAGE_SIZE), PAGE_SIZE)
    rest = [part for part in store.uploads.parts(upload) if part.number > marker]
    page = rest[:limit]
    return xml_response(
        "ListPartsResult",
        text("Bucket", upload.bucket),
        text("Key", upload.key),
        text("UploadId", upload.id),
        text("PartNumberMarker", marker),
        text("NextPartNumberMarker", page[-1].number if page else marker),
        text("MaxParts", limit),
        text("IsTruncated", str(len(rest) > len(page)).lower()),
        *(render_part(part) for part in page),
        text("StorageClass", "STANDARD"),
    )


def list_uploads(store: ObjectStore, request: S3Request) -> Response:
    prefix = request.query.get("prefix", "")
    key_marker, id_marker = request.query.get("key-marker", ""), request.query.get("upload-id-marker", "")
    limit = min(read_number(request, "max-uploads", PAGE_SIZE), PAGE_SIZE)
    rest = uploads_after(store.uploads.all(request.bucket, prefix), key_marker, id_marker)
    page = rest[:limit]
    last = page[-1] if len(rest) > len(page) and page else None
    return xml_response(
        "ListMultipartUploadsResult",
        text("Bucket", request.bucket),
        text("KeyMarker", key_marker),
        text("UploadIdMarker", id_marker),
        text("Prefix", prefix),
        text("MaxUploads", limit),
        text("IsTruncated", str(last is not None).lower()),
        *([text("NextKeyMarker", last.key), text("NextUploadIdMarker", last.id)] if last else []),
        *(render_upload(upload) for upload in page),
    )


def uploads_after(uploads: tuple[Upload, ...], key_marker: str, id_marker: str) -> tuple[Upload, ...]:
    """Those behind the last upload of the page before, which the two markers name."""
    for position, upload in enumerate(uploads):
        if (upload.key, upload.id) == (key_marker, id_marker):
            return uploads[position + 1 :]
    return tuple(upload for upload in uploads if upload.key.encode() > key_marker.encode())


def render_part(part: Part) -> str:
    return node(
        "Part",
        text("PartNumber", part.number),
        text("LastModified", iso_time(part.modified)),
        text("ETag", quoted(part.etag)),
        text("Size", part.size),
        *([] if part.checksum is None else [text(member_name(part.checksum), part.checksum.value)]),
    )


def render_upload(upload: Upload) -> str:
    return node(
        "Upload",
        text("Key", upload.key),
        text("UploadId", upload.id),
        text("StorageClass", "STANDARD"),
        text("Initiated", iso_time(upload.started)),
    )


def render_checksum(checksum: Checksum | None) -> list[str]:
    if checksum is None:
        return []
    return [text(member_name(checksum), checksum.value), text("ChecksumType", checksum.kind)]


def read_wanted(element: Element) -> WantedPart:
    checksums = [child.text for child in element if local_name(child).startswith("Checksum")]
    number = need_text(element, "PartNumber")
    return WantedPart(
        number=parse_number("PartNumber", number),
        etag=need_text(element, "ETag").strip('"'),
        checksum=checksums[0] if checksums else None,
    )


def full_checksum(request: S3Request) -> str | None:
    given = request.headers_with_prefix(PREFIX)
    return next((value for name, value in given.items() if name not in ("type", "algorithm")), None)


def find_upload(store: ObjectStore, request: S3Request) -> Upload:
    return store.uploads.get(request.bucket, request.key, request.query["uploadId"])


def part_number(request: S3Request) -> int:
    number = read_number(request, "partNumber", 0)
    if not 1 <= number <= MOST_PARTS:
        message = f"Part number must be an integer between 1 and {MOST_PARTS}, inclusive: {number}"
        raise StoreError("InvalidArgument", 400, message)
    return number


def read_number(request: S3Request, name: str, default: int) -> int:
    return parse_number(name, request.query.get(name) or str(default))


def parse_number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise StoreError("InvalidArgument", 400, f"Argument {name} must be an integer of 0 or more: {value}")
    return int(value)
