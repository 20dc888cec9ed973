"""AWS's REST-JSON protocol: an operation named by method and path, its parameters in path, query and body."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from launcher.aws.shapes import load_service
from launcher.local.json_protocol import ApiError, Params, parse_document, read_body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from botocore.model import OperationModel


def parse_request(service: str, environ: WSGIEnvironment) -> tuple[str, Params]:
    """The operation and its parameters, as botocore's model of the service lays them out."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].encode("latin-1").decode()
    operation, params = _find_operation(service, method, path)
    body = read_body(environ)
    if body:
        params = parse_document(body) | params
    return operation.name, params | _read_query(operation, environ["QUERY_STRING"])


def _find_operation(service: str, method: str, path: str) -> tuple[OperationModel, Params]:
    model = load_service(service)
    for name in model.operation_names:
        operation = model.operation_model(name)
        # The last label takes the rest of the path: an ARN in it has slashes, which WSGI has decoded.
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(operation.http["requestUri"]))
        if operation.http["method"] == method and (match := re.fullmatch(pattern, path.rstrip("/"))):
            return operation, dict(match.groupdict())
    raise ApiError("UnknownOperationException", f"{service} has no operation at {method} {path}.", 404)


def _read_query(operation: OperationModel, query: str) -> Params:
    values = parse_qs(query, keep_blank_values=True)
    params: Params = {}
    for name, shape in operation.input_shape.members.items():
        key = shape.serialization.get("name")
        if shape.serialization.get("location") == "querystring" and key in values:
            params[name] = _convert(shape.type_name, values[key])
    return params


def _convert(kind: str, values: list[str]) -> Any:
    if kind == "list":
        return values
    if kind == "integer" and re.fullmatch(r"-?[0-9]+", values[0]):
        return int(values[0])
    return values[0]
