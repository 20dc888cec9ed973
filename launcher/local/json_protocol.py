"""AWS's JSON protocol over WSGI: an operation named by X-Amz-Target, one document in, one document out."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from launcher.aws.shapes import find_operation, find_violations, format_violations

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Params = dict[str, Any]
Operation = Callable[[Params], dict[str, Any]]


class ApiError(Exception):
    """A refusal that the client shall see."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def validation_error(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def parse_document(body: bytes) -> Params:
    try:
        document = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("SerializationException", f"The request is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ApiError("SerializationException", "The request is not a JSON object.")
    return document


def check_operation(service: str, operation: str) -> None:
    if find_operation(service, operation) is None:
        raise ApiError("UnknownOperationException", f"{service} has no operation {operation}.")


def check_params(service: str, operation: str, params: Params, *, code: str = "ValidationException") -> None:
    """Raise the error AWS would answer with to a request that breaks the operation's shape."""
    if violations := find_violations(operation, params, service):
        raise ApiError(code, format_violations(violations))


def answer(start_response: StartResponse, document: dict[str, Any], status: int = 200) -> Iterable[bytes]:
    body = json.dumps(document).encode()
    headers = [
        ("Content-Type", "application/x-amz-json-1.1"),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    if status >= 400 and "__type" in document:
        headers.append(("x-amzn-ErrorType", document["__type"]))
    start_response(f"{status} {HTTPStatus(status).phrase}", headers)
    return [body]


def answer_error(start_response: StartResponse, error: ApiError) -> Iterable[bytes]:
    return answer(start_response, {"__type": error.code, "message": error.message}, error.status)


def read_body(environ: WSGIEnvironment) -> bytes:
    """The whole body of a request that is small by its nature."""
    body: bytes = environ["wsgi.input"].read()
    return body


def encode_token(*parts: Any) -> str:
    """A paging token that means nothing to the client."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def decode_token(token: str, count: int, *, code: str = "ValidationException") -> list[Any]:
    """The parts of a token that `encode_token` made."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(token.encode()))
    except ValueError as error:
        raise ApiError(code, "The pagination token is not valid.") from error
    if not isinstance(parts, list) or len(parts) != count:
        raise ApiError(code, "The pagination token is not valid.")
    return parts


def read_time(value: Any) -> float:
    """A timestamp of the wire: epoch seconds by the protocol, but ISO 8601 is accepted too."""
    try:
        if isinstance(value, int | float):
            datetime.fromtimestamp(value, UTC)  # raises where no date is: NaN, the year 10000
            return float(value)
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ApiError("SerializationException", f"{str(value)[:80]!r} is not a timestamp.") from error
