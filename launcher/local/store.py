"""Objects on disk: whole or not at all, for several processes at once, whatever dies when.

The bytes of an object lie in a content file with a unique name, written first. A row in the index then names
that file: its commit is the moment the object appears, replaces another or is gone. Files without a row are
removed after the commit, or by a later sweep. A reader keeps the file that it opened.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from launcher.local.store_content import USUAL, ContentFolder, copy_bytes
from launcher.local.store_index import (
    Index,
    check_write,
    encode_key,
    find_object,
    get_object,
    need_bucket,
    put_row,
)
from launcher.local.store_listing import PAGE_SIZE, read_page, start_after
from launcher.local.store_model import (
    NO_CONDITIONS,
    Attributes,
    Bucket,
    Checksum,
    Conditions,
    Content,
    Describe,
    Page,
    Source,
    StoredObject,
    StoreError,
    own_attributes,
)
from launcher.local.store_uploads import Uploads, forget_upload

__all__ = ["Attributes", "Checksum", "Conditions", "ObjectStore", "StoreError", "StoredObject"]

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PLAIN = Attributes()
LEFTOVER_AGE_S = 600.0


class ObjectStore:
    """The store under one folder (root/s3); the folder is made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._index = Index(root / "index.sqlite")
        self._content = ContentFolder(root / "content", self._index)
        self.uploads = Uploads(self._index, self._content)

    def close(self) -> None:
        self._index.close()

    def sweep(self, older_than_s: float = LEFTOVER_AGE_S) -> int:
        """Remove what crashed writers left; returns how many files that were."""
        return self._content.sweep(older_than_s)

    # Buckets

    def create_bucket(self, bucket: str, region: str = "us-east-1") -> None:
        """Make the bucket; one that is there stays as it is."""
        check_bucket_name(bucket)
        with self._index.writing() as db:
            db.execute("INSERT OR IGNORE INTO buckets VALUES (?,?,?)", (bucket, time.time(), region))

    def delete_bucket(self, bucket: str) -> None:
        with self._index.writing() as db:
            need_bucket(db, bucket)
            if db.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (bucket,)).fetchone():
                raise StoreError("BucketNotEmpty", 409, f"The bucket to delete is not empty: {bucket}")
            uploads = db.execute("SELECT id FROM uploads WHERE bucket = ?", (bucket,)).fetchall()
            files = [file for (upload_id,) in uploads for file in forget_upload(db, upload_id)]
            db.execute("DELETE FROM documents WHERE bucket = ?", (bucket,))
            db.execute("DELETE FROM buckets WHERE name = ?", (bucket,))
        self._content.release(files)

    def list_buckets(self) -> Sequence[Bucket]:
        with self._index.reading() as db:
            return [Bucket(*row) for row in db.execute("SELECT * FROM buckets ORDER BY name")]

    def has_bucket(self, bucket: str) -> bool:
        with self._index.reading() as db:
            return db.execute("SELECT 1 FROM buckets WHERE name = ?", (bucket,)).fetchone() is not None

    def get_bucket(self, bucket: str) -> Bucket:
        with self._index.reading() as db:
            need_bucket(db, bucket)
            return Bucket(*db.execute("SELECT * FROM buckets WHERE name = ?", (bucket,)).fetchone())

    def put_document(self, bucket: str, kind: str, body: bytes) -> None:
        """Keep a bucket's configuration (policy, lifecycle, ...) word for word."""
        with self._index.writing() as db:
            need_bucket(db, bucket)
            db.execute("REPLACE INTO documents VALUES (?,?,?)", (bucket, kind, body))

    def find_document(self, bucket: str, kind: str) -> bytes | None:
        with self._index.reading() as db:
            need_bucket(db, bucket)
            query = "SELECT body FROM documents WHERE bucket = ? AND kind = ?"
            row = db.execute(query, (bucket, kind)).fetchone()
        return None if row is None else bytes(row[0])

    def delete_document(self, bucket: str, kind: str) -> None:
        with self._index.writing() as db:
            need_bucket(db, bucket)
            db.execute("DELETE FROM documents WHERE bucket = ? AND kind = ?", (bucket, kind))

    # Writing objects

    def put(
        self,
        bucket: str,
        key: str,
        source: Source,
        *,
        attributes: Attributes = PLAIN,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> StoredObject:
        conditions = Conditions(if_none_match, if_match)
        self.check_put(bucket, key, conditions)
        with self.receiving(source) as content:
            return self.commit(bucket, key, content, attributes, conditions)

    def put_file(self, bucket: str, key: str, path: Path) -> StoredObject:
        with path.open("rb") as file:
            return self.put(bucket, key, file)

    def check_put(self, bucket: str, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        """Refuse early, before any byte is read, what the commit would refuse now."""
        encode_key(key)
        with self._index.reading() as db:
            check_write(db, bucket, key, conditions)

    def receiving(self, source: Source, algorithms: Sequence[str] = USUAL) -> AbstractContextManager[Content]:
        """The source's bytes on disk, to be checked and committed inside the block, else they are dropped."""
        return self._content.receiving(source, algorithms)

    def commit(
        self,
        bucket: str,
        key: str,
        content: Content,
        attributes: Attributes = PLAIN,
        conditions: Conditions = NO_CONDITIONS,
        checksum: Checksum | None = None,
    ) -> StoredObject:
        """Make received content the object under this key, in one step."""
        stored = StoredObject(bucket, key, content.size, content.etag, time.time(), attributes, checksum, content.file)
        with self._index.writing() as db:
            replaced = put_row(db, stored, conditions)
        self._content.release(replaced)
        return stored

    def copy(
        self,
        source: tuple[str, str],
        target: tuple[str, str],
        *,
        describe: Describe = own_attributes,
        conditions: Conditions = NO_CONDITIONS,
    ) -> StoredObject:
        """Copy an object without its bytes: both rows name one file; describe may refuse the source."""
        with self._index.writing() as db:
            found = get_object(db, *source)
            copied = replace(
                found,
                bucket=target[0],
                key=target[1],
                modified=time.time(),
                attributes=describe(found),
                upload_id=None,
            )
            replaced = put_row(db, copied, conditions)
        self._content.release(replaced)
        return copied

    def set_tags(self, bucket: str, key: str, tags: dict[str, str]) -> None:
        with self._index.writing() as db:
            found = get_object(db, bucket, key)
            put_row(db, replace(found, attributes=found.attributes.with_tags(tags)), NO_CONDITIONS)

    def delete(self, bucket: str, key: str) -> None:
        """Remove the object; one that is not there is no error, as in S3."""
        with self._index.writing() as db:
            need_bucket(db, bucket)
            found = find_object(db, bucket, key)
            db.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, encode_key(key)))
        if found is not None:
            self._content.release([found.file])

    # Reading objects

    def head(self, bucket: str, key: str) -> StoredObject:
        with self._index.reading() as db:
            return get_object(db, bucket, key)

    def open(self, bucket: str, key: str) -> tuple[StoredObject, BinaryIO]:
        stored = self.head(bucket, key)
        while True:
            try:
                return stored, self._open_whole(stored)
            except FileNotFoundError as error:  # replaced since we read its row
                missing, stored = stored, self.head(bucket, key)
                if stored.file == missing.file:
                    raise damaged(stored) from error

    def fetch_file(self, bucket: str, key: str, path: Path) -> None:
        """The object as a local file, which appears whole; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            stored, source = self.open(bucket, key)
            with source, partial.open("xb") as target:
                copy_bytes(source, target, 0, stored.size)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def list(self, bucket: str, prefix: str = "", *, after: str = "") -> Iterator[StoredObject]:
        """Objects in the order of their keys' UTF-8 bytes; no transaction is open between two of them."""
        start: bytes | None = start_after(after)
        while start is not None:
            page = self.list_page(bucket, prefix, start=start)
            yield from page.objects
            start = page.next_start

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        start: bytes = b"",
        limit: int = PAGE_SIZE,
    ) -> Page:
        with self._index.reading() as db:
            need_bucket(db, bucket)
            return read_page(db, bucket, prefix, delimiter, start, limit)

    def _open_whole(self, stored: StoredObject) -> BinaryIO:
        file = self._content.open(stored.file)
        if os.fstat(file.fileno()).st_size != stored.size:  # the machine itself went down before it was written
            file.close()
            raise damaged(stored)
        return file


def check_bucket_name(bucket: str) -> None:
    if not BUCKET_NAME.fullmatch(bucket) or ".." in bucket:
        raise StoreError("InvalidBucketName", 400, f"The specified bucket is not valid: {bucket}")


def damaged(stored: StoredObject) -> StoreError:
    message = f"The file of s3://{stored.bucket}/{stored.key} is damaged. Delete the object and put it again."
    return StoreError("InternalError", 500, message)
