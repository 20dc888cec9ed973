"""The integrity checks of an upload: Content-MD5 and S3's additional checksums, in headers or trailers."""

from __future__ import annotations

from base64 import b64decode, b64encode

from launcher.local.s3_request import S3Request
from launcher.local.store_model import Checksum, Content, StoreError

# those that are not computed here are kept and given back as the client sent them
ALGORITHMS = (
    "crc32",
    "crc32c",
    "crc64nvme",
    "sha1",
    "sha256",
    "sha512",
    "md5",
    "xxhash64",
    "xxhash3",
    "xxhash128",
)
PREFIX = "x-amz-checksum-"
DIGESTED_HERE = ("sha1", "sha256")


def algorithms_to_digest(request: S3Request) -> tuple[str, ...]:
    """What must be computed while the bytes come in, beside CRC32, which always is."""
    trailers = (request.header("x-amz-trailer") or "").lower()
    wanted = (request.header("x-amz-sdk-checksum-algorithm") or "").lower()
    given = (name for name in DIGESTED_HERE if request.header(PREFIX + name) or PREFIX + name in trailers)
    return tuple({"md5", wanted, *given} & {"md5", *DIGESTED_HERE})


def part_algorithms(request: S3Request) -> tuple[str, ...]:
    """A part's MD5 is left out where the client sends a CRC32: it was half the work of a big upload."""
    is_checked = request.header(PREFIX + "crc32") and not request.header("content-md5")
    return tuple(name for name in algorithms_to_digest(request) if name != "md5" or not is_checked)


def check_content(request: S3Request, content: Content) -> Checksum:
    """Refuse bytes that are not the client's; else the checksum to keep: the one it gave, or our CRC32."""
    check_length(request, content)
    check_md5(request, content)
    given = find_given(request)
    if given is None:
        return own_checksum(request, content)
    computed = content.digests.get(given.algorithm)
    if computed is not None and computed != decode(given.value):
        raise bad_digest(given.algorithm.upper())
    return given


def find_given(request: S3Request) -> Checksum | None:
    for algorithm in ALGORITHMS:
        value = request.header(PREFIX + algorithm) or request.trailers.get(PREFIX + algorithm)
        if value:
            return Checksum(algorithm, value)
    return None


def own_checksum(request: S3Request, content: Content) -> Checksum:
    wanted = (request.header("x-amz-sdk-checksum-algorithm") or "").lower()
    algorithm = wanted if wanted in content.digests else "crc32"
    return Checksum(algorithm, b64encode(content.digests[algorithm]).decode())


def check_length(request: S3Request, content: Content) -> None:
    announced = request.header("x-amz-decoded-content-length")
    if announced is not None and int(announced) != content.size:
        message = f"You announced {announced} bytes and sent {content.size}."
        raise StoreError("IncompleteBody", 400, message)


def check_md5(request: S3Request, content: Content) -> None:
    given = request.header("content-md5")
    if given is not None and decode(given) != content.digests["md5"]:
        raise bad_digest("Content-MD5")


def checksum_headers(checksum: Checksum | None) -> dict[str, str]:
    if checksum is None:
        return {}
    return {PREFIX + checksum.algorithm: checksum.value, PREFIX + "type": checksum.kind}


def member_name(checksum: Checksum) -> str:
    return f"Checksum{checksum.algorithm.upper()}"


def decode(value: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except ValueError as error:
        raise StoreError("InvalidDigest", 400, f"The checksum you specified is not valid: {value}") from error


def bad_digest(name: str) -> StoreError:
    message = f"The {name} you specified did not match what we received. Send the object again."
    return StoreError("BadDigest", 400, message)
