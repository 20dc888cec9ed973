"""Multipart uploads of the object store.

An upload owns one file, and a part is written at once to the place that it will have in the object: so a completion
need not copy the bytes. Parts whose place is unknown or taken (sizes differ, a part is sent again) get files of
their own, and then the completion joins all parts into a new file.
"""

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
from itertools import accumulate, pairwise

from launcher.local.store_content import USUAL, ContentFolder, Slot
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
    Source,
    StoredObject,
    StoreError,
    Upload,
    WantedPart,
    no_such_upload,
)

SMALLEST_PART = 5 << 20  # of all parts but the last, as S3 has it
MOST_PARTS = 10_000
UPLOAD_COLUMNS = "id, bucket, key, started, attributes, algorithm, kind, file"
UploadRow = tuple[str, str, bytes, float, str, str | None, str, str]
PART_COLUMNS = "number, size, etag, modified, checksum, file, position"


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
        with self._content.new_empty() as file:
            upload = Upload(uuid.uuid4().hex, bucket, key, time.time(), attributes, algorithm, kind, file)
            with self._index.writing() as db:
                need_bucket(db, bucket)
                db.execute(f"INSERT INTO uploads ({UPLOAD_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", upload_row(upload))
        return upload

    def get(self, bucket: str, key: str, upload_id: str) -> Upload:
        with self._index.reading() as db:
            return get_upload(db, bucket, key, upload_id)

    @contextmanager
    def receiving(
        self, upload: Upload, number: int, size: int | None, source: Source, algorithms: Sequence[str] = USUAL
    ) -> Iterator[Content]:
        """A part's bytes on disk: in their place of the object's file if that is known and free, else apart."""
        slot = self._claim(upload, number, size)
        if slot is None:
            with self._content.receiving(source, algorithms) as content:
                yield content
            return
        try:
            with self._content.receiving_slot(slot, source, algorithms) as content:
                yield content
        except FileNotFoundError as error:  # aborted or completed meanwhile
            raise no_such_upload(upload.id) from error
        except BaseException:
            self._give_back(upload, number)
            raise

    def put_part(self, upload: Upload, number: int, content: Content, checksum: Checksum | None) -> Part:
        etag, now = content.etag, time.time()
        part = Part(number, content.size, etag, now, checksum, content.file, content.position)
        with self._index.writing() as db:
            get_upload(db, upload.bucket, upload.key, upload.id)
            replaced = find_part_file(db, upload.id, number)
            db.execute(
                f"REPLACE INTO parts (upload_id, {PART_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)",
                (upload.id, number, part.size, etag, now, dump_checksum(checksum), part.file, part.position),
            )
        self._content.release(replaced)
        return part

    def _claim(self, upload: Upload, number: int, size: int | None) -> Slot | None:
        """The place of a part, for one writer only: parts are of one size, which the first to come tells."""
        if not size:
            return None
        with self._index.writing() as db:
            get_upload(db, upload.bucket, upload.key, upload.id)
            db.execute("UPDATE uploads SET part_size = coalesce(part_size, ?) WHERE id = ?", (size, upload.id))
            (part_size,) = db.execute("SELECT part_size FROM uploads WHERE id = ?", (upload.id,)).fetchone()
            if size > part_size:
                return None
            claimed = db.execute("INSERT OR IGNORE INTO claims VALUES (?,?)", (upload.id, number)).rowcount
        return Slot(upload.file, (number - 1) * part_size, size) if claimed else None

    def _give_back(self, upload: Upload, number: int) -> None:
        """Free the place of a part that did not come whole; it stays taken if the part was committed after all."""
        with self._index.writing() as db:
            db.execute(
                "DELETE FROM claims WHERE upload_id = :id AND number = :number AND NOT EXISTS"
                " (SELECT 1 FROM parts WHERE upload_id = :id AND number = :number AND file = :file)",
                {"id": upload.id, "number": number, "file": upload.file},
            )

    def parts(self, upload: Upload) -> tuple[Part, ...]:
        with self._index.reading() as db:
            return find_parts(db, upload.id)

    def all(self, bucket: str, prefix: str = "") -> tuple[Upload, ...]:
        """Unfinished uploads in the order S3 lists them."""
        with self._index.reading() as db:
            need_bucket(db, bucket)
            rows = db.execute(
                f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE bucket = ? ORDER BY key, started, id", (bucket,)
            )
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
            is_whole = lies_whole(db, upload, parts)
        if is_whole:
            stored = make_object(upload, parts, parts[0].file, full_checksum)
            return self._commit(upload, stored, parts, conditions)
        with self._joined(upload, parts) as file:
            stored = make_object(upload, parts, file, full_checksum)
            return self._commit(upload, stored, parts, conditions)

    @contextmanager
    def _joined(self, upload: Upload, parts: Sequence[Part]) -> Iterator[str]:
        try:
            with self._content.joining([Slot(part.file, part.position, part.size) for part in parts]) as file:
                yield file
        except FileNotFoundError as error:  # aborted, or completed by another client, while it was joined
            raise no_such_upload(upload.id) from error

    def _commit(
        self, upload: Upload, stored: StoredObject, parts: Sequence[Part], conditions: Conditions
    ) -> StoredObject:
        with self._index.writing() as db:
            get_upload(db, upload.bucket, upload.key, upload.id)
            is_in_place = stored.file == parts[0].file
            if not set(parts) <= set(find_parts(db, upload.id)) or is_in_place > lies_whole(db, upload, parts):
                raise StoreError("InvalidPart", 400, "A part was uploaded while the upload was completed.")
            if is_in_place:
                self._content.trim(stored.file, stored.size)
            replaced = put_row(db, stored, conditions)
            files = forget_upload(db, upload.id)
        self._content.release((*replaced, *files))
        return stored


def lies_whole(db: sqlite3.Connection, upload: Upload, parts: Sequence[Part]) -> bool:
    """Whether one file already holds just these parts, one behind the other, and nobody else may write to it."""
    ends = accumulate(part.size for part in parts)
    in_order = all(part.position + part.size == end for part, end in zip(parts, ends, strict=True))
    if not in_order or len({part.file for part in parts}) > 1:
        return False
    claims = db.execute("SELECT number FROM claims WHERE upload_id = ?", (upload.id,))
    return parts[0].file != upload.file or {row[0] for row in claims} == {part.number for part in parts}


def get_upload(db: sqlite3.Connection, bucket: str, key: str, upload_id: str) -> Upload:
    need_bucket(db, bucket)
    row = db.execute(f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE id = ?", (upload_id,)).fetchone()
    if row is None or (row[1], row[2]) != (bucket, encode_key(key)):
        raise no_such_upload(upload_id)
    return upload_from_row(row)


def upload_row(upload: Upload) -> UploadRow:
    attributes = json.dumps(upload.attributes.to_json())
    key = encode_key(upload.key)
    return upload.id, upload.bucket, key, upload.started, attributes, upload.algorithm, upload.kind, upload.file


def upload_from_row(row: UploadRow) -> Upload:
    upload_id, bucket, key, started, kept, algorithm, kind, file = row
    attributes = Attributes(**json.loads(kept))
    return Upload(upload_id, bucket, key.decode(), started, attributes, algorithm, kind, file)


def find_parts(db: sqlite3.Connection, upload_id: str) -> tuple[Part, ...]:
    query = f"SELECT {PART_COLUMNS} FROM parts WHERE upload_id = ? ORDER BY number"
    rows = db.execute(query, (upload_id,))
    return tuple(
        Part(number, size, etag, modified, load_checksum(checksum), file, position)
        for number, size, etag, modified, checksum, file, position in rows
    )


def find_part_file(db: sqlite3.Connection, upload_id: str, number: int) -> tuple[str, ...]:
    query = "SELECT file FROM parts WHERE upload_id = ? AND number = ?"
    return tuple(row[0] for row in db.execute(query, (upload_id, number)))


def forget_upload(db: sqlite3.Connection, upload_id: str) -> tuple[str, ...]:
    """Drop the rows of an upload; returns its content files."""
    query = "SELECT file FROM parts WHERE upload_id = :id UNION SELECT file FROM uploads WHERE id = :id"
    files = tuple(row[0] for row in db.execute(query, {"id": upload_id}))
    db.execute("DELETE FROM claims WHERE upload_id = ?", (upload_id,))
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
    etag = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False).hexdigest()
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
    known = [part.checksum.value for part in parts if part.checksum and part.checksum.algorithm == upload.algorithm]
    if len(known) < len(parts) or upload.algorithm not in ("crc32", "sha1", "sha256"):
        return None
    value = digest_of(upload.algorithm, b"".join(b64decode(text) for text in known))
    return Checksum(upload.algorithm, f"{b64encode(value).decode()}-{len(parts)}", "COMPOSITE")


def digest_of(algorithm: str, data: bytes) -> bytes:
    if algorithm == "crc32":
        return zlib.crc32(data).to_bytes(4, "big")
    return hashlib.new(algorithm, data).digest()
