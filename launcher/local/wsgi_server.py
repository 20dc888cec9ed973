"""A threaded HTTP/1.1 server for one WSGI application on the loopback interface, with bodies of any size."""

from __future__ import annotations

import io
import logging
import os
import socket
import socketserver
import sys
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
IDLE_S = 300  # a connection that says nothing for so long is closed
BLOCK_BYTES = 1 << 18
MAX_LINE_BYTES = 1 << 16
# What the application left unread up to this size is read and dropped: a client that is still sending when
# its connection is closed never sees the answer.
MAX_DRAIN_BYTES = 64 << 20


class BrokenBody(OSError):
    """The client broke off within the body, or framed it wrongly."""


class LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, application: WSGIApplication) -> None:
        self.application = application
        self._active = 0
        self._idle = Condition()
        super().__init__((HOST, port), RequestHandler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's full name, which can wait for a name server.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.socket.getsockname()[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Only this user, and root, come in: a training job is any command that its creator wants to run."""
        owner = find_socket_owner(client_address, (HOST, self.server_port))
        return owner in (None, 0, os.getuid())

    def begin_request(self) -> None:
        with self._idle:
            self._active += 1

    def end_request(self) -> None:
        with self._idle:
            self._active -= 1
            self._idle.notify_all()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """True when no request is being answered any more."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._active, timeout_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no news
            log.exception("a connection broke")


class RequestHandler(BaseHTTPRequestHandler):
    server: LoopbackServer
    protocol_version = "HTTP/1.1"
    server_version = "launcher-local"
    disable_nagle_algorithm = True
    timeout = IDLE_S
    rbufsize = BLOCK_BYTES
    wbufsize = BLOCK_BYTES

    def handle_one_request(self) -> None:
        if not self._read_request_line():
            self.close_connection = True
            return
        self._expects_continue = False
        if self.parse_request():
            self.server.begin_request()
            try:
                self._answer()
            finally:
                self.server.end_request()
        self.wfile.flush()

    def handle_expect_100(self) -> bool:
        """Put off until the application reads: a refused upload is then never sent."""
        self._expects_continue = True
        return True

    def version_string(self) -> str:
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _read_request_line(self) -> bool:
        try:
            self.raw_requestline = self.rfile.readline(MAX_LINE_BYTES + 1)
        except (TimeoutError, ConnectionError):
            return False
        return 0 < len(self.raw_requestline) <= MAX_LINE_BYTES

    def _answer(self) -> None:
        try:
            body = self._make_body()
        except ValueError:
            self.close_connection = True
            self.send_error(HTTPStatus.BAD_REQUEST, "Content-Length is no length")
            return
        response = Response(self, body)
        try:
            self._run_application(body, response)
        except OSError as error:
            self.close_connection = True
            if not isinstance(error, BrokenBody | ConnectionError | TimeoutError):
                self._report_failure(response)
        except Exception:
            self.close_connection = True
            self._report_failure(response)

    def _run_application(self, body: Body, response: Response) -> None:
        chunks = self.server.application(make_environ(self, body), response.start)
        try:
            if isinstance(chunks, FileChunks):
                response.send_file(chunks.file)
            else:
                for chunk in chunks:
                    response.write(chunk)
            response.finish()
        finally:
            if close := getattr(chunks, "close", None):
                close()

    def _report_failure(self, response: Response) -> None:
        log.exception("%s %s failed", self.command, self.path)
        if not response.is_sent:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _make_body(self) -> Body:
        source = cast(BinaryIO, self.rfile)
        go_on = self._continue if self._expects_continue else None
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return ChunkedBody(source, go_on)
        length = int(self.headers.get("Content-Length") or 0)
        if length < 0:
            raise ValueError(length)
        return SizedBody(source, go_on, length)

    def _continue(self) -> None:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wfile.flush()


class Body(io.RawIOBase):
    """The body of one request; its end is the end of the file."""

    def __init__(self, source: BinaryIO, go_on: Callable[[], None] | None) -> None:
        self._source = source
        self._go_on = go_on
        self.is_finished = False

    def readable(self) -> bool:
        return True

    def drain(self) -> bool:
        """Drop what was not read; False if the connection cannot be used any more."""
        if self.is_finished:
            return True
        if self._go_on:
            return False  # nobody knows whether the client will send it
        scratch = bytearray(BLOCK_BYTES)
        dropped = 0
        while dropped < MAX_DRAIN_BYTES:
            size = self.readinto(scratch)
            if not size:
                return True
            dropped += size
        return False

    def _begin(self) -> None:
        if self._go_on:
            self._go_on()
            self._go_on = None

    def _read_some(self, buffer: memoryview) -> int:
        size: int = self._source.readinto1(buffer)  # type: ignore[attr-defined]
        if not size:
            raise BrokenBody("the client closed the connection within the body")
        return size


class SizedBody(Body):
    def __init__(self, source: BinaryIO, go_on: Callable[[], None] | None, length: int) -> None:
        super().__init__(source, go_on)
        self._left = length
        self.is_finished = not length

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        if not view:
            return 0
        self._begin()
        size = self._read_some(view)
        self._left -= size
        self.is_finished = not self._left
        return size


class ChunkedBody(Body):
    _left = 0  # of the current chunk

    def readinto(self, buffer: Any) -> int:
        self._begin()
        if not self._left and not self.is_finished:
            self._read_chunk_size()
        view = memoryview(buffer)[: self._left]
        if not view:
            return 0
        size = self._read_some(view)
        self._left -= size
        if not self._left and self._read_line():
            raise BrokenBody("a chunk is longer than it says")
        return size

    def _read_chunk_size(self) -> None:
        digits = self._read_line().partition(b";")[0].strip()
        try:
            self._left = int(digits, 16)
        except ValueError as error:
            raise BrokenBody(f"{digits!r} is no chunk size") from error
        if not self._left:
            while self._read_line():
                pass  # trailers
            self.is_finished = True

    def _read_line(self) -> bytes:
        line = self._source.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise BrokenBody("the client closed the connection within the body")
        return line.rstrip(b"\r\n")


class FileChunks:
    """`wsgi.file_wrapper`: a file to be sent from its position on, as far as Content-Length says."""

    def __init__(self, file: BinaryIO, block_bytes: int = BLOCK_BYTES) -> None:
        self.file = file
        self._block_bytes = block_bytes

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.file.read(self._block_bytes), b"")

    def close(self) -> None:
        self.file.close()


class Response:
    """WSGI's start_response and write over the handler's connection."""

    def __init__(self, handler: RequestHandler, body: Body) -> None:
        self._handler = handler
        self._body = body
        self._status = HTTPStatus.OK
        self._headers: list[tuple[str, str]] = []
        self._length: int | None = None
        self._written = 0
        self._is_chunked = False
        self.is_sent = False

    def start(self, status: str, headers: Iterable[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        if self.is_sent and exc_info:
            raise exc_info[1].with_traceback(exc_info[2])
        self._code, _, self._reason = status.partition(" ")
        self._headers = list(headers)
        return self.write

    def write(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._send_head()
        if not self._has_body:
            return
        self._written += len(chunk)
        if self._is_chunked:
            self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            self._handler.wfile.write(chunk)

    def send_file(self, file: BinaryIO) -> None:
        self._send_head()
        if self._length is None:
            for chunk in FileChunks(file):
                self.write(chunk)
        elif self._has_body and self._length:
            self._handler.wfile.flush()
            sent = self._handler.connection.sendfile(file, file.tell(), self._length)
            self._written += sent

    def finish(self) -> None:
        if not self.is_sent and self._find_length() is None:
            self._headers.append(("Content-Length", "0"))
        self._send_head()
        if self._is_chunked:
            self._handler.wfile.write(b"0\r\n\r\n")
        if self._has_body and self._length is not None and self._written != self._length:
            self._handler.close_connection = True  # the client must not wait for the rest
        self._handler.wfile.flush()

    @property
    def _has_body(self) -> bool:
        return self._handler.command != "HEAD" and self._code not in ("204", "304")

    def _find_length(self) -> int | None:
        return next((int(value) for name, value in self._headers if name.lower() == "content-length"), None)

    def _send_head(self) -> None:
        if self.is_sent:
            return
        handler = self._handler
        self._length = self._find_length()
        if not self._body.drain():
            handler.close_connection = True
        if self._has_body and self._length is None:
            self._is_chunked = handler.request_version != "HTTP/1.0"
            handler.close_connection |= not self._is_chunked
        self.is_sent = True
        handler.send_response(int(self._code), self._reason)
        for name, value in self._headers:
            handler.send_header(name, value)
        if self._is_chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        if handler.close_connection:
            handler.send_header("Connection", "close")
        handler.end_headers()


def find_socket_owner(local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user whose socket it is; None where the kernel does not tell."""
    wanted = [_as_in_proc(local), _as_in_proc(remote)]
    try:
        rows = Path("/proc/net/tcp").read_text().splitlines()
    except OSError:
        return None
    return next((int(fields[7]) for fields in map(str.split, rows) if fields[1:3] == wanted), None)


def _as_in_proc(address: tuple[str, int]) -> str:
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def make_environ(handler: RequestHandler, body: Body) -> WSGIEnvironment:
    path, _, query = handler.path.partition("?")
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": handler.command,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": handler.path,
        "RAW_URI": handler.path,
        "SERVER_NAME": HOST,
        "SERVER_PORT": str(handler.server.server_port),
        "SERVER_PROTOCOL": handler.request_version,
        "REMOTE_ADDR": handler.client_address[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BufferedReader(body, BLOCK_BYTES),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileChunks,
    }
    for name, value in handler.headers.items():
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ
