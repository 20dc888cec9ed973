"""S3's operations on buckets: making, listing, deleting many, and the configuration documents."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from urllib.parse import quote

from launcher.local.s3_request import S3Request
from launcher.local.s3_uploads import read_number
from launcher.local.s3_xml import (
    Response,
    bytes_response,
    document,
    empty_response,
    find_text,
    iso_time,
    iter_named,
    need_text,
    node,
    parse_xml,
    quoted,
    text,
    xml_response,
)
from launcher.local.store import ObjectStore
from launcher.local.store_listing import PAGE_SIZE, start_after
from launcher.local.store_model import Page, StoredObject, StoreError

DEFAULT_REGION = "us-east-1"
OWNER_ID = "0" * 64
MOST_DELETIONS = 1000

# what a bucket answers before a document was put: an empty document, or the error named here
UNSET_DOCUMENTS = {
    "accelerate": document("AccelerateConfiguration"),
    "encryption": document(
        "ServerSideEncryptionConfiguration",
        "<Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>"
        "</ApplyServerSideEncryptionByDefault><BucketKeyEnabled>false</BucketKeyEnabled></Rule>",
    ),
    "logging": document("BucketLoggingStatus"),
    "notification": document("NotificationConfiguration"),
    "requestPayment": document("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>"),
    "versioning": document("VersioningConfiguration"),
}
UNSET_ERRORS = {
    "cors": "NoSuchCORSConfiguration",
    "lifecycle": "NoSuchLifecycleConfiguration",
    "object-lock": "ObjectLockConfigurationNotFoundError",
    "ownershipControls": "OwnershipControlsNotFoundError",
    "policy": "NoSuchBucketPolicy",
    "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
    "replication": "ReplicationConfigurationNotFoundError",
    "tagging": "NoSuchTagSet",
    "website": "NoSuchWebsiteConfiguration",
}
DOCUMENT_KINDS = frozenset((*UNSET_DOCUMENTS, *UNSET_ERRORS))


def list_buckets(store: ObjectStore, request: S3Request) -> Response:
    buckets = (
        node("Bucket", text("Name", bucket.name), text("CreationDate", iso_time(bucket.created)))
        for bucket in store.list_buckets()
    )
    return xml_response("ListAllMyBucketsResult", render_owner(), node("Buckets", *buckets))


def create_bucket(store: ObjectStore, request: S3Request) -> Response:
    store.create_bucket(request.bucket, read_region(request.document()))
    return empty_response(200, {"Location": f"/{request.bucket}"})


def head_bucket(store: ObjectStore, request: S3Request) -> Response:
    region = store.get_bucket(request.bucket).region
    return empty_response(200, {"x-amz-bucket-region": region, "x-amz-access-point-alias": "false"})


def delete_bucket(store: ObjectStore, request: S3Request) -> Response:
    store.delete_bucket(request.bucket)
    return empty_response(204)


def get_location(store: ObjectStore, request: S3Request) -> Response:
    region = store.get_bucket(request.bucket).region
    return xml_response("LocationConstraint", "" if region == DEFAULT_REGION else region)


def put_document(store: ObjectStore, request: S3Request, kind: str) -> Response:
    store.put_document(request.bucket, kind, request.document())
    return empty_response(204 if kind == "policy" else 200)


def get_document(store: ObjectStore, request: S3Request, kind: str) -> Response:
    body = store.find_document(request.bucket, kind) or UNSET_DOCUMENTS.get(kind)
    if body is None:
        raise StoreError(UNSET_ERRORS[kind], 404, f"The bucket has no {kind} configuration.")
    return bytes_response(body, "application/json" if kind == "policy" else "application/xml")


def delete_document(store: ObjectStore, request: S3Request, kind: str) -> Response:
    store.delete_document(request.bucket, kind)
    return empty_response(204)


def delete_objects(store: ObjectStore, request: S3Request) -> Response:
    root = parse_xml(request.document())
    keys = [need_text(element, "Key") for element in iter_named(root, "Object")]
    if not 1 <= len(keys) <= MOST_DELETIONS:
        raise StoreError("MalformedXML", 400, f"A request deletes 1 to {MOST_DELETIONS} objects.")
    for key in keys:
        store.delete(request.bucket, key)
    if find_text(root, "Quiet") == "true":
        return xml_response("DeleteResult")
    return xml_response("DeleteResult", *(node("Deleted", text("Key", key)) for key in keys))


def list_objects(store: ObjectStore, request: S3Request) -> Response:
    if request.query.get("list-type") == "2":
        return list_objects_v2(store, request)
    marker = request.query.get("marker", "")
    start = start_after(marker, request.query.get("prefix", ""), request.query.get("delimiter", ""))
    page = read_page(store, request, start)
    next_marker = [text("NextMarker", encoded(request, last_entry(page)))] if page.next_start else []
    return xml_response(
        "ListBucketResult",
        text("Marker", encoded(request, marker)),
        *next_marker,
        *render_page(request, page),
    )


def list_objects_v2(store: ObjectStore, request: S3Request) -> Response:
    token, after = request.query.get("continuation-token"), request.query.get("start-after", "")
    page = read_page(store, request, read_token(token) if token else start_after(after))
    next_token = [text("NextContinuationToken", make_token(page.next_start))] if page.next_start else []
    return xml_response(
        "ListBucketResult",
        text("KeyCount", len(page.objects) + len(page.prefixes)),
        *([text("ContinuationToken", token)] if token else []),
        *([text("StartAfter", encoded(request, after))] if after else []),
        *next_token,
        *render_page(request, page),
    )


def read_page(store: ObjectStore, request: S3Request, start: bytes) -> Page:
    return store.list_page(
        request.bucket,
        request.query.get("prefix", ""),
        delimiter=request.query.get("delimiter", ""),
        start=start,
        limit=page_limit(request),
    )


def render_page(request: S3Request, page: Page) -> list[str]:
    """What both versions of ListObjects say."""
    delimiter = request.query.get("delimiter")
    return [
        text("Name", request.bucket),
        text("Prefix", encoded(request, request.query.get("prefix", ""))),
        *([text("Delimiter", encoded(request, delimiter))] if delimiter else []),
        text("MaxKeys", page_limit(request)),
        *([text("EncodingType", "url")] if "encoding-type" in request.query else []),
        text("IsTruncated", str(page.next_start is not None).lower()),
        *(render_object(request, stored) for stored in page.objects),
        *(node("CommonPrefixes", text("Prefix", encoded(request, prefix))) for prefix in page.prefixes),
    ]


def render_object(request: S3Request, stored: StoredObject) -> str:
    with_owner = "list-type" not in request.query or request.query.get("fetch-owner") == "true"
    return node(
        "Contents",
        text("Key", encoded(request, stored.key)),
        text("LastModified", iso_time(stored.modified)),
        text("ETag", quoted(stored.etag)),
        text("Size", stored.size),
        text("StorageClass", "STANDARD"),
        *([render_owner()] if with_owner else []),
    )


def render_owner() -> str:
    return node("Owner", text("DisplayName", "local"), text("ID", OWNER_ID))


def encoded(request: S3Request, value: str) -> str:
    return quote(value, safe="/") if request.query.get("encoding-type") == "url" else value


def page_limit(request: S3Request) -> int:
    return min(read_number(request, "max-keys", PAGE_SIZE), PAGE_SIZE)


def last_entry(page: Page) -> str:
    keys = [stored.key for stored in page.objects[-1:]]
    return max((*keys, *page.prefixes[-1:]), key=str.encode)


def make_token(start: bytes) -> str:
    return urlsafe_b64encode(start).decode()


def read_token(token: str) -> bytes:
    try:
        return urlsafe_b64decode(token)
    except ValueError as error:
        raise StoreError("InvalidArgument", 400, "The continuation token provided is incorrect") from error


def read_region(body: bytes) -> str:
    found = find_text(parse_xml(body), "LocationConstraint") if body else None
    return found or DEFAULT_REGION
