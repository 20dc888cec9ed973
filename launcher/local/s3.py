"""S3 over WSGI, path-style: which operation a request is, and what an error looks like.

Signatures are not verified, neither in headers nor in presigned URLs: the endpoint listens on loopback only.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIEnvironment

from launcher.local import s3_buckets, s3_objects, s3_uploads
from launcher.local.s3_request import S3Request, parse_path, read_request
from launcher.local.s3_xml import Response, text
from launcher.local.store import ObjectStore
from launcher.local.store_model import StoreError

Operation = Callable[[ObjectStore, S3Request], Response]

BUCKET_OPERATIONS: dict[tuple[str, str], Operation] = {
    ("PUT", ""): s3_buckets.create_bucket,
    ("HEAD", ""): s3_buckets.head_bucket,
    ("DELETE", ""): s3_buckets.delete_bucket,
    ("GET", ""): s3_buckets.list_objects,
    ("GET", "location"): s3_buckets.get_location,
    ("GET", "uploads"): s3_uploads.list_uploads,
    ("POST", "delete"): s3_buckets.delete_objects,
}
OBJECT_OPERATIONS: dict[tuple[str, str], Operation] = {
    ("PUT", ""): s3_objects.put_object,
    ("GET", ""): s3_objects.get_object,
    ("HEAD", ""): s3_objects.head_object,
    ("DELETE", ""): s3_objects.delete_object,
    ("GET", "tagging"): s3_objects.get_tags,
    ("PUT", "tagging"): s3_objects.put_tags,
    ("DELETE", "tagging"): s3_objects.delete_tags,
    ("POST", "uploads"): s3_uploads.create_upload,
    ("PUT", "uploadId"): s3_uploads.upload_part,
    ("GET", "uploadId"): s3_uploads.list_parts,
    ("POST", "uploadId"): s3_uploads.complete_upload,
    ("DELETE", "uploadId"): s3_uploads.abort_upload,
}
DOCUMENT_OPERATIONS = {
    "GET": s3_buckets.get_document,
    "PUT": s3_buckets.put_document,
    "DELETE": s3_buckets.delete_document,
}
# queries that name an operation; one of them without an entry above must never end in a plain GET or PUT
SUBRESOURCES = frozenset(
    {sub for _, sub in (*BUCKET_OPERATIONS, *OBJECT_OPERATIONS) if sub}
    | s3_buckets.DOCUMENT_KINDS
    | {"acl", "analytics", "attributes", "intelligent-tiering", "inventory", "legal-hold", "metrics"}
    | {"policyStatus", "renameObject", "restore", "retention", "select", "session", "torrent", "versions"}
)


class S3Service:
    """The WSGI application. Leftovers of crashed writers are removed when it is made."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        store.sweep()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = read_request(environ)
        try:
            request.bucket, request.key = parse_path(environ)
            response = find_operation(request)(self._store, request)
        except StoreError as error:
            response = error_response(request, error)
        request.drain()
        start_response(status_line(response.status), list(all_headers(response).items()))
        return response.body


def find_operation(request: S3Request) -> Operation:
    if request.query.get("versionId", "null") != "null":
        raise StoreError("NoSuchVersion", 404, "The specified version does not exist: the endpoint keeps none.")
    subresource = next((name for name in request.query if name in SUBRESOURCES), "")
    found: Operation | None
    if not request.bucket:
        found = s3_buckets.list_buckets if (request.method, subresource) == ("GET", "") else None
    elif request.key:
        found = OBJECT_OPERATIONS.get((request.method, subresource))
    elif subresource in s3_buckets.DOCUMENT_KINDS:
        found = document_operation(request.method, subresource)
    else:
        found = BUCKET_OPERATIONS.get((request.method, subresource))
    if found is None:
        raise not_implemented(request, subresource)
    return found


def document_operation(method: str, kind: str) -> Operation | None:
    operation = DOCUMENT_OPERATIONS.get(method)
    if operation is None:
        return None
    return lambda store, request: operation(store, request, kind)


def not_implemented(request: S3Request, subresource: str) -> StoreError:
    what = f"{request.method} ?{subresource}" if subresource else request.method
    message = f"The local endpoint does not implement {what} of S3 here."
    return StoreError("NotImplemented", 501, message)


def error_response(request: S3Request, error: StoreError) -> Response:
    if request.method == "HEAD":
        return Response(error.status)
    inner = text("Code", error.code) + text("Message", error.message)
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()
    headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
    return Response(error.status, headers, (body,))


def all_headers(response: Response) -> dict[str, str]:
    identity = uuid.uuid4().hex.upper()
    return {"x-amz-request-id": identity[:16], "x-amz-id-2": identity, **response.headers}


def status_line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"
