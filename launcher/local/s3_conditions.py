"""Conditions and ranges of HTTP: which answer a reader gets, and which bytes of it."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

from launcher.local.s3_request import S3Request
from launcher.local.store_model import (
    ANY_ETAG,
    Conditions,
    StoredObject,
    StoreError,
    precondition_failed,
)

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class NotModified(Exception):
    """The client's copy is still good."""


def write_conditions(request: S3Request) -> Conditions:
    if_none_match, if_match = request.header("if-none-match"), request.header("if-match")
    if if_none_match not in (None, ANY_ETAG):
        raise StoreError("NotImplemented", 501, "If-None-Match of a write takes * only.")
    return Conditions(if_none_match is not None, None if if_match is None else if_match.strip('"'))


def check_read(request: S3Request, stored: StoredObject) -> None:
    """Raise NotModified, or the refusal, in the order that RFC 9110 gives."""
    check_expected_version(request, stored, "")
    if_none_match = request.header("if-none-match")
    if if_none_match is not None:
        if has_etag(if_none_match, stored):
            raise NotModified
        return
    since = parse_time(request.header("if-modified-since"))
    if since is not None and int(stored.modified) <= since:
        raise NotModified


def check_copy_source(request: S3Request, stored: StoredObject) -> None:
    prefix = "x-amz-copy-source-"
    check_expected_version(request, stored, prefix)
    if_none_match = request.header(prefix + "if-none-match")
    if if_none_match is not None and has_etag(if_none_match, stored):
        raise precondition_failed(prefix + "If-None-Match")
    since = parse_time(request.header(prefix + "if-modified-since"))
    if since is not None and int(stored.modified) <= since:
        raise precondition_failed(prefix + "If-Modified-Since")


def check_expected_version(request: S3Request, stored: StoredObject, prefix: str) -> None:
    if_match = request.header(prefix + "if-match")
    if if_match is not None:
        if not has_etag(if_match, stored):
            raise precondition_failed(prefix + "If-Match")
        return
    until = parse_time(request.header(prefix + "if-unmodified-since"))
    if until is not None and int(stored.modified) > until:
        raise precondition_failed(prefix + "If-Unmodified-Since")


def has_etag(header: str, stored: StoredObject) -> bool:
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    return ANY_ETAG in tags or stored.etag in tags


def parse_time(header: str | None) -> float | None:
    """Epoch seconds; a date that cannot be read counts as none, as HTTP wants it."""
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).timestamp()
    except ValueError:
        return None


def parse_range(header: str | None, size: int) -> range | None:
    """The bytes a reader asked for, None for all of them (also for the forms that S3 ignores)."""
    match = RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        chosen = range(max(0, size - int(last)), size)
    else:
        chosen = range(int(first), min(int(last) + 1, size) if last else size)
        if last and int(last) < int(first):
            return None
    if not chosen:
        raise StoreError("InvalidRange", 416, f"The requested range is not satisfiable: {header} of {size} bytes")
    return chosen
