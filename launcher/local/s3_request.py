"""One S3 request out of WSGI's environ: what it names, its headers, and a body freed of its framings."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl
from wsgiref.types import WSGIEnvironment

from launcher.local.store_model import Readable, StoreError

DRAIN_CHUNK = 1 << 20
LONGEST_LINE = 8192
LONGEST_DOCUMENT = 16 << 20


class FixedBody:
    """Exactly so many bytes; fewer are an error, so that a cut upload never looks whole."""

    def __init__(self, stream: Readable, length: int) -> None:
        self._stream = stream
        self._left = length

    def read(self, size: int, /) -> bytes:
        if not self._left:
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise incomplete_body(f"{self._left} bytes were missing at the end")
        self._left -= len(data)
        return data


class ChunkedBody:
    """Chunked framing, which HTTP's transfer encoding and AWS's aws-chunked content encoding share."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = 0
        self._ended = False
        self.trailers: dict[str, str] = {}

    def read(self, size: int, /) -> bytes:
        if not self._left:
            self._start_chunk()
        if self._ended:
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise incomplete_body("it ended inside a chunk")
        self._left -= len(data)
        if not self._left:
            self._expect_line_end()
        return data

    def _start_chunk(self) -> None:
        if self._ended:
            return
        size = read_line(self._stream).split(b";")[0]  # behind it: chunk-signature, not checked
        try:
            self._left = int(size, 16)
        except ValueError as error:
            raise incomplete_body(f"it has a chunk of the size {size!r}") from error
        if not self._left:
            self._read_trailers()

    def _read_trailers(self) -> None:
        while line := read_line(self._stream):
            name, _, value = line.decode("latin-1").partition(":")
            self.trailers[name.strip().lower()] = value.strip()
        self._ended = True

    def _expect_line_end(self) -> None:
        if read_line(self._stream):
            raise incomplete_body("a chunk is longer than it says")


@dataclass
class S3Request:
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    environ: WSGIEnvironment
    body: Readable
    transport: Readable
    trailers: dict[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        plain = name.upper().replace("-", "_")
        value = self.environ.get(plain if plain in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{plain}")
        return str(value) if value else None

    def headers_with_prefix(self, prefix: str) -> dict[str, str]:
        """Names in lower case, without the prefix."""
        start = "HTTP_" + prefix.upper().replace("-", "_")
        found = {name: value for name, value in self.environ.items() if name.startswith(start)}
        return {name[len(start) :].lower().replace("_", "-"): str(value) for name, value in found.items()}

    def content_length(self) -> int | None:
        """Of the bytes without their framings; None if the client does not say."""
        chunked = self.header("transfer-encoding") or is_aws_chunked(self)
        value = self.header("x-amz-decoded-content-length" if chunked else "content-length")
        return int(value) if value is not None and value.isascii() and value.isdigit() else None

    def document(self) -> bytes:
        """The whole body, for the operations whose body is a document."""
        chunks, size = [], 0
        while chunk := self.body.read(DRAIN_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > LONGEST_DOCUMENT:
                raise StoreError("EntityTooLarge", 400, f"The body is longer than {LONGEST_DOCUMENT} bytes.")
        return b"".join(chunks)

    def drain(self) -> None:
        """Read what is left, or the connection's next request would begin inside this body."""
        if self.header("expect") and self.environ.get("wsgi.input_terminated"):
            return  # such a server need not ask for a body that nobody wants
        with suppress(StoreError):
            while self.transport.read(DRAIN_CHUNK):
                pass


def read_request(environ: WSGIEnvironment) -> S3Request:
    transport = open_transport(environ)
    request = S3Request(
        method=environ["REQUEST_METHOD"],
        bucket="",
        key="",
        query=dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)),
        environ=environ,
        body=transport,
        transport=transport,
    )
    if is_aws_chunked(request):
        unwrapped = ChunkedBody(transport)
        request.body, request.trailers = unwrapped, unwrapped.trailers
    return request


def parse_path(environ: WSGIEnvironment) -> tuple[str, str]:
    """Bucket and key. WSGI hands the path over as its bytes in latin-1."""
    try:
        path = environ.get("PATH_INFO", "").encode("latin-1").decode()
    except UnicodeError as error:
        raise StoreError("InvalidURI", 400, "Couldn't parse the specified URI: it is not UTF-8.") from error
    bucket, _, key = path.removeprefix("/").partition("/")
    return bucket, key


def open_transport(environ: WSGIEnvironment) -> Readable:
    stream: Readable = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):  # the server undid the transfer encoding
        return stream
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return ChunkedBody(stream)
    return FixedBody(stream, int(environ.get("CONTENT_LENGTH") or 0))


def is_aws_chunked(request: S3Request) -> bool:
    encodings = (request.header("content-encoding") or "").lower()
    return "aws-chunked" in encodings or (request.header("x-amz-content-sha256") or "").startswith("STREAMING-")


def read_line(stream: Readable) -> bytes:
    """A line without its end; byte by byte, since a framing must not read ahead into the next one."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = stream.read(1)
        if not byte or len(line) > LONGEST_LINE:
            raise incomplete_body("a line of its framing does not end")
        line += byte
    return bytes(line).rstrip(b"\r\n")


def incomplete_body(what: str) -> StoreError:
    return StoreError("IncompleteBody", 400, f"The request body is not what its headers announce: {what}.")
