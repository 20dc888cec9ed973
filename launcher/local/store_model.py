"""What the object store speaks of: objects, uploads, parts, pages, and the errors that S3 has names for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol


class StoreError(Exception):
    """A refusal with the code and HTTP status that S3 gives it."""

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


Source = Readable | Iterable[bytes]
ANY_ETAG = "*"


@dataclass(frozen=True)
class Checksum:
    """One of S3's additional checksums, in base64; kind is FULL_OBJECT, or COMPOSITE (of the parts' own)."""

    algorithm: str
    value: str
    kind: str = "FULL_OBJECT"


@dataclass(frozen=True)
class Attributes:
    """What a client says about an object's bytes, kept and given back word for word."""

    content_type: str = "binary/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def with_tags(self, tags: dict[str, str]) -> Attributes:
        return replace(self, tags=tags)


@dataclass(frozen=True)
class StoredObject:
    bucket: str
    key: str
    size: int
    etag: str
    modified: float
    attributes: Attributes
    checksum: Checksum | None
    file: str
    upload_id: str | None = None

    @property
    def content_type(self) -> str:
        return self.attributes.content_type

    @property
    def metadata(self) -> dict[str, str]:
        return self.attributes.metadata

    @property
    def tags(self) -> dict[str, str]:
        return self.attributes.tags


Describe = Callable[[StoredObject], Attributes]


def own_attributes(stored: StoredObject) -> Attributes:
    return stored.attributes


@dataclass(frozen=True)
class Content:
    """Bytes in a file (from position on) that no object names yet; digests are raw, by algorithm."""

    file: str
    position: int
    size: int
    digests: dict[str, bytes]

    @property
    def etag(self) -> str:
        """The MD5; where none was computed, as cheap a digest of size and CRC32 (S3 promises no MD5 either)."""
        md5 = self.digests.get("md5")
        if md5 is None:
            md5 = hashlib.md5(b"%d " % self.size + self.digests["crc32"], usedforsecurity=False).digest()
        return md5.hex()


@dataclass(frozen=True)
class Conditions:
    """What a write demands: no object there (If-None-Match: *), or one with this ETag (If-Match)."""

    if_none_match: bool = False
    if_match: str | None = None


NO_CONDITIONS = Conditions()


@dataclass(frozen=True)
class Bucket:
    name: str
    created: float
    region: str


@dataclass(frozen=True)
class Upload:
    id: str
    bucket: str
    key: str
    started: float
    attributes: Attributes
    algorithm: str | None
    kind: str
    file: str


@dataclass(frozen=True)
class Part:
    number: int
    size: int
    etag: str
    modified: float
    checksum: Checksum | None
    file: str
    position: int


@dataclass(frozen=True)
class WantedPart:
    """A part as the client names it when it completes an upload."""

    number: int
    etag: str
    checksum: str | None = None


@dataclass(frozen=True)
class Page:
    """One page of a listing; next_start is the first key (in UTF-8) of the next page, None at the end."""

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]
    next_start: bytes | None


def no_such_bucket(bucket: str) -> StoreError:
    return StoreError("NoSuchBucket", 404, f"The specified bucket does not exist: {bucket}")


def no_such_key(key: str) -> StoreError:
    return StoreError("NoSuchKey", 404, f"The specified key does not exist: {key}")


def no_such_upload(upload_id: str) -> StoreError:
    return StoreError("NoSuchUpload", 404, f"The specified multipart upload does not exist: {upload_id}")


def precondition_failed(condition: str) -> StoreError:
    message = f"At least one of the pre-conditions you specified did not hold: {condition}"
    return StoreError("PreconditionFailed", 412, message)
