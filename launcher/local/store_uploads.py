"""Multipart uploads of the object store: each part is a content file of its own until the completion."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import uuid
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from launcher.local.store_content import ContentFolder
from launcher.local.store_index import (
    Index,
    check_write,
    dump_checksum,
    encode_key,
    find_object,
    load_checksum,
    need_bucket,
    put_row,
)
from launcher.local.store_model import (
    NO_CONDITIONS,
    Attributes,
    Checksum,
    Conditions,
    Content,
    Part,
    StoredObject,
    StoreError,
    Upload,
    WantedPart,
    no_such_upload,
)

SMALLEST_PART = 5 << 20  # of all parts but the last, as S3 has it
MOST_PARTS = 10_000
PART_COLUMNS = "number, size, etag, modified, checksum, file"


class Uploads:
    def __init__(self, index: Index, content: ContentFolder) -> None:
        self._index = index
        self._content = content

    def create(
        self,
        bucket: str,
        key: str,
        attributes: Attributes,
        algorithm: str | None = None,
        kind: str = "COMPOSITE",
    ) -> Upload:
        upload = Upload(uuid.uuid4().hex, bucket, key, time.time(), attributes, algorithm, kind)
        values = (
            upload.id,
            bucket,
            encode_key(key),
            upload.started,
            json.dumps(attributes.to_json()),
            algorithm,
            kind,
        )
        with self._index.writing() as db:
            need_bucket(db, bucket)
            db.execute("INSERT INTO uploads VALUES (?,?,?,?,?,?,?)", values)
        return upload

    def get(self, bucket: str, key: str, upload_id: str) -> Upload:
        with self._index.reading() as db:
            return get_upload(db, bucket, key, upload_id)

    def put_part(self, upload: Upload, number: int, content: Content, checksum: Checksum | None) -> Part:
        part = Part(number, content.size, content.md5.hex(), time.time(), checksum, content.file)
        values = (upload.id, number, part.size, part.etag, part.modified, dump_checksum(checksum), part.file)
        with self._index.writing() as db:
            get_upload(db, upload.bucket, upload.key, upload.id)
            replaced = find_part_file(db, upload.id, number)
            db.execute(f"REPLACE INTO parts (upload_id, {PART_COLUMNS}) VALUES (?,?,?,?,?,?,?)", values)
        self._content.release(replaced)
        return part

    def parts(self, upload: Upload) -> tuple[Part, ...]:
        with self._index.reading() as db:
            return find_parts(db, upload.id)

    def all(self, bucket: str, prefix: str = "") -> tuple[Upload, ...]:
        """Unfinished uploads in the order S3 lists them."""
        with self._index.reading() as db:
            need_bucket(db, bucket)
            rows = db.execute("SELECT * FROM uploads WHERE bucket = ? ORDER BY key, started, id", (bucket,))
            uploads = tuple(upload_from_row(row) for row in rows)
        return tuple(upload for upload in uploads if upload.key.startswith(prefix))

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        with self._index.writing() as db:
            get_upload(db, bucket, key, upload_id)
            files = forget_upload(db, upload_id)
        self._content.release(files)

    def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        wanted: Sequence[WantedPart],
        conditions: Conditions = NO_CONDITIONS,
        full_checksum: str | None = None,
    ) -> StoredObject:
        """Join the wanted parts into the object; a repeat (the answer was lost) gives the same answer."""
        with self._index.reading() as db:
            finished = find_object(db, bucket, key)
            if finished is not None and finished.upload_id == upload_id:
                return finished
            upload = get_upload(db, bucket, key, upload_id)
            check_write(db, bucket, key, conditions)
            parts = choose_parts(find_parts(db, upload_id), wanted)
        with self._one_file(upload, parts) as file:
            return self._commit(upload, make_object(upload, parts, file, full_checksum), parts, conditions)

    @contextmanager
    def _one_file(self, upload: Upload, parts: Sequence[Part]) -> Iterator[str]:
        if len(parts) == 1:
            yield parts[0].file
            return
        with self._joined(upload, parts) as file:
            yield file

    @contextmanager
    def _joined(self, upload: Upload, parts: Sequence[Part]) -> Iterator[str]:
        try:
            with self._content.joining([part.file for part in parts]) as file:
                yield file
        except FileNotFoundError as error:  # aborted, or completed by another client, while it was joined
            raise no_such_upload(upload.id) from error

    def _commit(
        self, upload: Upload, stored: StoredObject, parts: Sequence[Part], conditions: Conditions
    ) -> StoredObject:
        with self._index.writing() as db:
            get_upload(db, upload.bucket, upload.key, upload.id)
            if not set(parts) <= set(find_parts(db, upload.id)):
                raise StoreError("InvalidPart", 400, "A part was replaced while the upload was completed.")
            replaced = put_row(db, stored, conditions)
            files = forget_upload(db, upload.id)
        self._content.release((*replaced, *files))
        return stored


def get_upload(db: sqlite3.Connection, bucket: str, key: str, upload_id: str) -> Upload:
    need_bucket(db, bucket)
    row = db.execute("SELECT * FROM uploads WHERE id = ?", (upload_id,)).fetchone()
    if row is None or (row[1], row[2]) != (bucket, encode_key(key)):
        raise no_such_upload(upload_id)
    return upload_from_row(row)


def upload_from_row(row: tuple[str, str, bytes, float, str, str | None, str]) -> Upload:
    upload_id, bucket, key, started, attributes, algorithm, kind = row
    return Upload(
        upload_id, bucket, key.decode(), started, Attributes(**json.loads(attributes)), algorithm, kind
    )


def find_parts(db: sqlite3.Connection, upload_id: str) -> tuple[Part, ...]:
    query = f"SELECT {PART_COLUMNS} FROM parts WHERE upload_id = ? ORDER BY number"
    rows = db.execute(query, (upload_id,))
    return tuple(
        Part(number, size, etag, modified, load_checksum(checksum), file)
        for number, size, etag, modified, checksum, file in rows
    )


def find_part_file(db: sqlite3.Connection, upload_id: str, number: int) -> tuple[str, ...]:
    query = "SELECT file FROM parts WHERE upload_id = ? AND number = ?"
    return tuple(row[0] for row in db.execute(query, (upload_id, number)))


def forget_upload(db: sqlite3.Connection, upload_id: str) -> tuple[str, ...]:
    """Drop the rows of an upload; returns its content files."""
    files = tuple(row[0] for row in db.execute("SELECT file FROM parts WHERE upload_id = ?", (upload_id,)))
    db.execute("DELETE FROM parts WHERE upload_id = ?", (upload_id,))
    db.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
    return files


def choose_parts(parts: Sequence[Part], wanted: Sequence[WantedPart]) -> tuple[Part, ...]:
    if not wanted:
        raise StoreError("MalformedXML", 400, "You must specify at least one part.")
    if any(before.number >= after.number for before, after in pairwise(wanted)):
        raise StoreError("InvalidPartOrder", 400, "The list of parts was not in ascending order.")
    have = {part.number: part for part in parts}
    chosen = tuple(match_part(have.get(want.number), want) for want in wanted)
    for part in chosen[:-1]:
        if part.size < SMALLEST_PART:
            message = f"Your proposed upload is smaller than the minimum allowed size: part {part.number}"
            raise StoreError("EntityTooSmall", 400, message)
    return chosen


def match_part(part: Part | None, want: WantedPart) -> Part:
    known = part.checksum.value if part is not None and part.checksum is not None else None
    if part is None or part.etag != want.etag or (want.checksum and known and want.checksum != known):
        message = f"Part {want.number} could not be found, or its ETag is another."
        raise StoreError("InvalidPart", 400, message)
    return part


def make_object(upload: Upload, parts: Sequence[Part], file: str, full_checksum: str | None) -> StoredObject:
    etag = hashlib.md5(
        b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False
    ).hexdigest()
    return StoredObject(
        bucket=upload.bucket,
        key=upload.key,
        size=sum(part.size for part in parts),
        etag=f"{etag}-{len(parts)}",
        modified=time.time(),
        attributes=upload.attributes,
        checksum=make_checksum(upload, parts, full_checksum),
        file=file,
        upload_id=upload.id,
    )


def make_checksum(upload: Upload, parts: Sequence[Part], full_checksum: str | None) -> Checksum | None:
    """The client's own for the whole object (its parts were checked), or the checksum of the checksums."""
    if upload.algorithm is None:
        return None
    if upload.kind == "FULL_OBJECT":
        return Checksum(upload.algorithm, full_checksum) if full_checksum else None
    known = [
        part.checksum.value for part in parts if part.checksum and part.checksum.algorithm == upload.algorithm
    ]
    if len(known) < len(parts) or upload.algorithm not in ("crc32", "sha1", "sha256"):
        return None
    value = digest_of(upload.algorithm, b"".join(b64decode(text) for text in known))
    return Checksum(upload.algorithm, f"{b64encode(value).decode()}-{len(parts)}", "COMPOSITE")


def digest_of(algorithm: str, data: bytes) -> bytes:
    if algorithm == "crc32":
        return zlib.crc32(data).to_bytes(4, "big")
    return hashlib.new(algorithm, data).digest()
