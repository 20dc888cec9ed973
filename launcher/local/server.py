"""The endpoint itself: one port on the loopback interface that answers as AWS does.

Training jobs, their logs, schedules and S3 are our own; moto answers for every other service.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import gc
import logging
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata
from io import BytesIO
from pathlib import Path
from threading import Lock, Thread
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from launcher.local.card import Card, load_card, save_card
from launcher.local.cloudformation import MakeBucket, mend_change_sets
from launcher.local.cloudwatch import TrainingLogs
from launcher.local.dispatcher import Dispatcher, RunnerCommand, make_runner_command
from launcher.local.jobs import JobBook, UnknownJob
from launcher.local.json_protocol import (
    ApiError,
    answer,
    answer_error,
    check_operation,
    parse_document,
    read_body,
)
from launcher.local.moto_parts import MotoParts
from launcher.local.processes import ProcessId
from launcher.local.rest_protocol import parse_request
from launcher.local.s3 import S3Service
from launcher.local.schedule_routes import ScheduleRoutes
from launcher.local.schedules import Schedules
from launcher.local.scheduling import Scheduling
from launcher.local.settings import Settings, load_settings
from launcher.local.state_changes import StateChanges
from launcher.local.store import ObjectStore
from launcher.local.training import TrainingJobs
from launcher.local.wsgi_server import LoopbackServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

SCOPE = re.compile(r"Credential=[^,\s]+/\d{8}/[^/,\s]+/([a-z0-9-]+)/aws4_request")
LOOPBACK = re.compile(r"(127(\.\d+){3}|\[::1\]|([a-z0-9.-]+\.)?localhost)(:\d+)?", re.IGNORECASE)
LAST_ANSWERS_S = 5.0
MOTO_ENVIRONMENT = {
    "MOTO_CALL_RESET_API": "false",
    "MOTO_DISABLE_GLOBAL_CORS": "true",  # no page of the browser's is to read anything here
    "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
    "MOTO_EVENTS_INVOKE_HTTP": "false",
}


class Moto:
    """moto's server for the services that are not ours, loaded with the first request: it takes a second."""

    def __init__(self, s3: WSGIApplication, make_bucket: MakeBucket) -> None:
        self._s3 = s3
        self._make_bucket = make_bucket
        self._lock = Lock()
        self._application: WSGIApplication | None = None
        self._grew = False

    @property
    def is_loaded(self) -> bool:
        return self._application is not None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self._load()(environ, start_response)
        except NotImplementedError as error:
            # moto means "not by me"; a status of 500 would make every client try again and again.
            refusal = ApiError("NotImplementedException", f"Not on the local endpoint: {error}", 501)
            return answer_error(start_response, refusal)
        finally:
            self._shrink()

    def _load(self) -> WSGIApplication:
        with self._lock:
            if self._application is None:
                from moto.moto_server.werkzeug_app import DomainDispatcherApplication

                self._application = DomainDispatcherApplication(self._create)
            return self._application

    def _create(self, service: str) -> WSGIApplication:
        """The part for one service. moto takes every request that it cannot place for one to its own S3."""
        if service == "s3":
            return self._s3
        if service in ("s3control", "moto_api"):
            return _refuse_moto_part
        from moto.moto_server.werkzeug_app import create_backend_app

        self._grew = True
        application: WSGIApplication = create_backend_app(service)
        if service == "cloudformation":
            mend_change_sets(self._make_bucket)
        return application

    def _shrink(self) -> None:
        """Give back what loading a part of moto left behind: a tenth of this process after CloudFormation's."""
        if self._grew:
            self._grew = False
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)


def _refuse_moto_part(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    message = f"The local endpoint does not answer {environ['PATH_INFO']}."
    return answer_error(start_response, ApiError("NotImplementedException", message, 501))


class Router:
    """Which part of the endpoint a request is for."""

    def __init__(
        self,
        training: TrainingJobs,
        logs: TrainingLogs,
        schedules: Schedules,
        s3: WSGIApplication,
        admin: WSGIApplication,
        moto: WSGIApplication,
    ) -> None:
        self._parts: dict[str, TrainingJobs | TrainingLogs] = {"SageMaker": training, "Logs_20140328": logs}
        self._schedules = schedules
        self._s3 = s3
        self._admin = admin
        self._moto = moto

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            _check_origin(environ)
            target, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
            if environ["PATH_INFO"].startswith("/_local/"):
                return self._admin(environ, start_response)
            if target in self._parts:
                return self._answer_json(self._parts[target], operation, environ, start_response)
            scope = _find_scope(environ)
            if scope == "s3":
                return self._s3(environ, start_response)
            if scope == self._schedules.service:
                return answer(start_response, self._schedules.call(*parse_request(scope, environ)))
        except ApiError as error:
            return answer_error(start_response, error)
        return self._moto(environ, start_response)

    def _answer_json(
        self,
        part: TrainingJobs | TrainingLogs,
        operation: str,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        body = read_body(environ)
        params = parse_document(body)
        if part.offers(operation, params):
            return answer(start_response, part.call(operation, params))
        check_operation(part.service, operation)
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        return self._moto(environ, start_response)


def _check_origin(environ: WSGIEnvironment) -> None:
    """Turn away web pages, also those whose host name was made to resolve to this machine."""
    host = environ.get("HTTP_HOST", "")
    origin = environ.get("HTTP_ORIGIN")
    if not LOOPBACK.fullmatch(host):
        raise ApiError("AccessDeniedException", f"The host {host!r} is not this machine.", 403)
    if origin is not None and not LOOPBACK.fullmatch(urlsplit(origin).netloc):
        raise ApiError("AccessDeniedException", f"The origin {origin!r} is not this machine.", 403)


def _find_scope(environ: WSGIEnvironment) -> str:
    """The service in the credential scope of its signature; without a signature, reading is S3's."""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if authorization.startswith("AWS "):
        return "s3"  # the signature of version 2, which only S3 still has
    signed = authorization or _find_query_credential(environ["QUERY_STRING"])
    if not signed:
        is_reading = environ["REQUEST_METHOD"] in ("GET", "HEAD") and "HTTP_X_AMZ_TARGET" not in environ
        return "s3" if is_reading else ""
    scope = SCOPE.search(signed)
    return scope[1] if scope else ""


def _find_query_credential(query: str) -> str:
    if "X-Amz-Credential" not in query:
        return ""
    values = parse_qs(query).get("X-Amz-Credential", [""])
    return f"Credential={values[0]}"


class Admin:
    """The endpoint's own routes, for the launcher's commands."""

    def __init__(
        self,
        root: Path,
        settings: Settings,
        book: JobBook,
        dispatcher: Dispatcher,
        schedules: ScheduleRoutes,
        moto: Moto,
    ) -> None:
        self._root = root
        self._settings = settings
        self._book = book
        self._dispatcher = dispatcher
        self._schedules = schedules
        self._moto = moto
        self._began = time.monotonic()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        route = (environ["REQUEST_METHOD"], *environ["PATH_INFO"].split("/")[2:])
        try:
            found = self._schedules.answer(route, environ)
            return answer(start_response, self._answer(route) if found is None else found)
        except UnknownJob as error:
            refusal = ApiError("ValidationException", f"There is no job {error}.", 404)
            return answer_error(start_response, refusal)

    def _answer(self, route: tuple[str, ...]) -> dict[str, Any]:
        match route:
            case ("GET", "health"):
                return self._describe_health()
            case ("GET", "jobs", name, "request"):
                return self._book.request(unquote(name))
            case ("POST", "jobs", name, "interrupt"):
                self._dispatcher.interrupt(unquote(name))
                return {}
            case ("POST", "shutdown"):
                os.kill(os.getpid(), signal.SIGTERM)
                return {}
            case _:
                raise ApiError("UnknownOperationException", f"No route {' '.join(route)}.", 404)

    def _describe_health(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "root": str(self._root),
            "version": find_version(),
            "settings": asdict(self._settings),
            "uptime_s": round(time.monotonic() - self._began, 3),
            "jobs": Counter(job["TrainingJobStatus"] for job in self._book.all()),
            "schedules": self._schedules.describe(),
            "is_moto_loaded": self._moto.is_loaded,
        }


def find_version() -> str:
    try:
        return metadata.version("qlora-launcher")
    except metadata.PackageNotFoundError:
        return "unknown"


class LocalServer:
    """The whole endpoint inside this process."""

    def __init__(
        self, root: Path, settings: Settings, port: int = 0, runner_command: RunnerCommand | None = None
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._book = JobBook(root / "jobs.sqlite")
        self._store = ObjectStore(root / "s3")
        s3 = S3Service(self._store)
        moto = Moto(s3, self._store.create_bucket)
        self._http = LoopbackServer(port, lambda *request: self._router(*request))
        command = runner_command or make_runner_command(root, self.url, settings)
        self._changes = StateChanges(self._book, MotoParts(settings), settings)
        announce = self._changes.announce
        self._dispatcher = Dispatcher(self._book, root, settings.jobs_at_once, command, announce)
        training = TrainingJobs(self._book, self._dispatcher, settings)
        logs = TrainingLogs(root / "logs", settings)
        self._scheduling = Scheduling(root, settings, training, self._book)
        admin = Admin(root, settings, self._book, self._dispatcher, self._scheduling.routes, moto)
        self._router = Router(training, logs, self._scheduling.operations, s3, admin, moto)
        self._thread = Thread(target=self._http.serve_forever, name="http", daemon=True)

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def port(self) -> int:
        return self._http.server_port

    def start(self) -> None:
        self._dispatcher.start()
        self._scheduling.start()
        self._thread.start()

    def close(self) -> None:
        """Answer what is being asked, and leave the runners to themselves."""
        self._http.shutdown()
        self._http.wait_until_idle(LAST_ANSWERS_S)
        self._scheduling.close()
        self._dispatcher.close()
        self._changes.close()
        self._http.server_close()
        self._store.close()
        self._book.close()


# The process


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launcher.local.server")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int, help="where to write the address as soon as it answers")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.update(MOTO_ENVIRONMENT)
    serve(options.root.absolute(), load_settings(), options.ready_fd)


def serve(root: Path, settings: Settings, ready_fd: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    wishes = os.eventfd(0, os.EFD_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.eventfd_write(wishes, 1))
    root.mkdir(parents=True, exist_ok=True)
    with (root / "endpoint.lock").open("w") as lock:
        take_over(lock, root)
        os.environ["MOTO_ACCOUNT_ID"] = settings.account
        server = open_server(root, settings)
        server.start()
        card = Card(ProcessId.current(), server.port, server.url, find_version(), settings)
        save_card(root, card)
        log.info("pid %d answers at %s", os.getpid(), server.url)
        if ready_fd is not None:
            os.write(ready_fd, server.url.encode())
            os.close(ready_fd)
        os.read(wishes, 8)  # unlike eventfd_read, it goes on when the signal interrupts it
        log.info("pid %d stops; runners go on", os.getpid())
        server.close()


def take_over(lock: IO[str], root: Path) -> None:
    """Be the only endpoint of this root; the kernel drops the lock with the process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"Another endpoint has {root}. Stop it first.")


def open_server(root: Path, settings: Settings) -> LocalServer:
    """On the port that is set, else on that of last time, else on any."""
    if settings.port:
        return LocalServer(root, settings, settings.port)
    card = load_card(root)
    try:
        return LocalServer(root, settings, card.port if card else 0)
    except OSError as error:
        if card is None or error.errno != errno.EADDRINUSE:
            raise
        log.info("port %s of last time is taken", card.port)
        return LocalServer(root, settings)


if __name__ == "__main__":
    main()
