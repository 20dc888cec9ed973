"""Listing as S3 does: by the keys' UTF-8 bytes, all that lies below a delimiter rolled up into one prefix."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import islice

from launcher.local.store_index import OBJECT_COLUMNS, object_from_row
from launcher.local.store_model import Page, StoredObject

PAGE_SIZE = 1000


def read_page(db: sqlite3.Connection, bucket: str, prefix: str, delimiter: str, start: bytes, limit: int) -> Page:
    """At most limit keys and common prefixes from start (included) on."""
    if limit == 0:
        return Page((), (), None)
    entries = iter_entries(db, bucket, prefix, delimiter, start)
    taken = list(islice(entries, limit))
    beyond = next(entries, None)
    return Page(
        objects=tuple(entry for entry in taken if isinstance(entry, StoredObject)),
        prefixes=tuple(entry for entry in taken if isinstance(entry, str)),
        next_start=None if beyond is None else start_of(beyond),
    )


def iter_entries(
    db: sqlite3.Connection, bucket: str, prefix: str, delimiter: str, start: bytes
) -> Iterator[StoredObject | str]:
    """Objects, and common prefixes as strings; behind a common prefix the scan jumps over its keys."""
    first, end = max(start, prefix.encode()), successor(prefix.encode())
    while True:
        for stored in iter_objects(db, bucket, first, end):
            common = find_common_prefix(stored.key, prefix, delimiter)
            if common is not None:
                yield common
                first = successor(common.encode())
                break
            yield stored
        else:
            return


def iter_objects(db: sqlite3.Connection, bucket: str, first: bytes, end: bytes) -> Iterator[StoredObject]:
    query = f"SELECT {OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key"
    return map(object_from_row, db.execute(query, (bucket, first, end)))


def find_common_prefix(key: str, prefix: str, delimiter: str) -> str | None:
    if not delimiter:
        return None
    cut = key.find(delimiter, len(prefix))
    return None if cut < 0 else key[: cut + len(delimiter)]


def start_of(entry: StoredObject | str) -> bytes:
    return entry.encode() if isinstance(entry, str) else entry.key.encode()


def start_after(marker: str, prefix: str = "", delimiter: str = "") -> bytes:
    """Where a listing goes on behind a marker, which is a key or (as one page ends) a whole common prefix."""
    if not marker:
        return b""
    is_common = marker.startswith(prefix) and find_common_prefix(marker, prefix, delimiter) == marker
    return successor(marker.encode()) if is_common else marker.encode() + b"\0"


def successor(prefix: bytes) -> bytes:
    """The first bytes behind all keys that start with the prefix (UTF-8 never holds 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\xff"
