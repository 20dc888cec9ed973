"""The index of the object store: SQLite rows that say which objects exist."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from launcher.local.store_model import (
    ANY_ETAG,
    Attributes,
    Checksum,
    Conditions,
    StoredObject,
    StoreError,
    no_such_bucket,
    no_such_key,
    precondition_failed,
)

SCHEMA_VERSION = 1
# keys are blobs: they compare as bytes, which is the order S3 lists in
SCHEMA = """
CREATE TABLE buckets (name TEXT PRIMARY KEY, created REAL NOT NULL, region TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    bucket TEXT, kind TEXT, body BLOB NOT NULL, PRIMARY KEY (bucket, kind)) WITHOUT ROWID;
CREATE TABLE objects (
    bucket TEXT, key BLOB, size INTEGER NOT NULL, etag TEXT NOT NULL, modified REAL NOT NULL,
    attributes TEXT NOT NULL, checksum TEXT, file TEXT NOT NULL, upload_id TEXT,
    PRIMARY KEY (bucket, key)) WITHOUT ROWID;
CREATE INDEX objects_by_file ON objects (file);
CREATE TABLE uploads (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, started REAL NOT NULL,
    attributes TEXT NOT NULL, algorithm TEXT, kind TEXT NOT NULL, file TEXT NOT NULL,
    part_size INTEGER) WITHOUT ROWID;
CREATE TABLE claims (upload_id TEXT, number INTEGER, PRIMARY KEY (upload_id, number)) WITHOUT ROWID;
CREATE TABLE parts (
    upload_id TEXT, number INTEGER, size INTEGER NOT NULL, etag TEXT NOT NULL, modified REAL NOT NULL,
    checksum TEXT, file TEXT NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (upload_id, number)) WITHOUT ROWID;
CREATE INDEX parts_by_file ON parts (file);
"""
ObjectRow = tuple[str, bytes, int, str, float, str, str | None, str, str | None]
FILE_TABLES = ("objects", "uploads", "parts")
OBJECT_COLUMNS = "bucket, key, size, etag, modified, attributes, checksum, file, upload_id"


class Index:
    """Connections to the index, opened when needed and reused; safe for threads and processes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._prepared = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the rows."""
        with self._transaction("BEGIN DEFERRED") as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The only writer of all processes while it lasts; commits at the end, or nothing happened."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        db = self._take()
        try:
            db.execute(begin)
            yield db
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise
        finally:
            self._idle.append(db)

    def _take(self) -> sqlite3.Connection:
        with suppress(IndexError):
            return self._idle.pop()
        if not self._prepared:
            self._prepare()
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = NORMAL")  # in WAL mode a kill -9 loses nothing with it
        return db

    def _prepare(self) -> None:
        """Make the tables; under a file lock, since switching to WAL ignores SQLite's own waiting."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            db = self._connect()
            try:
                db.execute("PRAGMA journal_mode = WAL")
                self._make_tables(db)
            finally:
                db.close()
        self._prepared = True

    def _make_tables(self, db: sqlite3.Connection) -> None:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found == 0:
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif found != SCHEMA_VERSION:
            message = (
                f"The local objects in {self._path.parent} have layout {found}, this launcher knows "
                f"{SCHEMA_VERSION}. Use the launcher that wrote them, or start afresh: launcher local reset"
            )
            raise StoreError("InternalError", 500, message)


def need_bucket(db: sqlite3.Connection, bucket: str) -> None:
    if db.execute("SELECT 1 FROM buckets WHERE name = ?", (bucket,)).fetchone() is None:
        raise no_such_bucket(bucket)


def find_object(db: sqlite3.Connection, bucket: str, key: str) -> StoredObject | None:
    query = f"SELECT {OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key = ?"
    row = db.execute(query, (bucket, encode_key(key))).fetchone()
    return None if row is None else object_from_row(row)


def get_object(db: sqlite3.Connection, bucket: str, key: str) -> StoredObject:
    need_bucket(db, bucket)
    found = find_object(db, bucket, key)
    if found is None:
        raise no_such_key(key)
    return found


def check_write(db: sqlite3.Connection, bucket: str, key: str, conditions: Conditions) -> StoredObject | None:
    """The object that a write would replace, or the error of the condition that does not hold."""
    need_bucket(db, bucket)
    current = find_object(db, bucket, key)
    if conditions.if_none_match and current is not None:
        raise precondition_failed("If-None-Match")
    if conditions.if_match is not None:
        if current is None:
            raise no_such_key(key)
        if conditions.if_match not in (ANY_ETAG, current.etag):
            raise precondition_failed("If-Match")
    return current


def put_row(db: sqlite3.Connection, stored: StoredObject, conditions: Conditions) -> tuple[str, ...]:
    """Make this the object under its key; returns the content file it replaced, if any."""
    replaced = check_write(db, stored.bucket, stored.key, conditions)
    values = (
        stored.bucket,
        encode_key(stored.key),
        stored.size,
        stored.etag,
        stored.modified,
        json.dumps(stored.attributes.to_json()),
        dump_checksum(stored.checksum),
        stored.file,
        stored.upload_id,
    )
    db.execute(f"REPLACE INTO objects ({OBJECT_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", values)
    return () if replaced is None else (replaced.file,)


def is_referenced(db: sqlite3.Connection, file: str) -> bool:
    return any(db.execute(f"SELECT 1 FROM {table} WHERE file = ?", (file,)).fetchone() for table in FILE_TABLES)


def find_files(db: sqlite3.Connection) -> frozenset[str]:
    rows = db.execute(" UNION ALL ".join(f"SELECT file FROM {table}" for table in FILE_TABLES))
    return frozenset(row[0] for row in rows)


def encode_key(key: str) -> bytes:
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise StoreError("InvalidURI", 400, f"The key is not valid Unicode: {key!r}") from error
    if len(encoded) > 1024:
        raise StoreError("KeyTooLongError", 400, f"Your key is too long: {len(encoded)} bytes, 1024 allowed.")
    return encoded


def object_from_row(
    row: tuple[str, bytes, int, str, float, str, str | None, str, str | None],
) -> StoredObject:
    bucket, key, size, etag, modified, attributes, checksum, file, upload_id = row
    return StoredObject(
        bucket=bucket,
        key=key.decode(),
        size=size,
        etag=etag,
        modified=modified,
        attributes=Attributes(**json.loads(attributes)),
        checksum=load_checksum(checksum),
        file=file,
        upload_id=upload_id,
    )


def dump_checksum(checksum: Checksum | None) -> str | None:
    return None if checksum is None else json.dumps(asdict(checksum))


def load_checksum(text: str | None) -> Checksum | None:
    return None if text is None else Checksum(**json.loads(text))
