"""Requests held against botocore's models as strictly as AWS does it; botocore itself checks only a part."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from launcher import leaks
from launcher.aws.loader import make_loader
from launcher.errors import InputError

if TYPE_CHECKING:
    from botocore.model import OperationModel, ServiceModel, Shape

# botocore keeps the patterns in Java's dialect. Python's \w is letters, digits and "_" of any script.
JAVA_CLASSES = {
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
    r"\p{Alnum}": "a-zA-Z0-9",
}
SHOWN_VALUES = 12
TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float, str, datetime),
    "blob": (bytes, str),
}


@cache
def load_service(service: str) -> ServiceModel:
    """botocore's model of a service, as the client of this installation has it."""
    from botocore.model import ServiceModel

    # a loader keeps the raw models of every service it ever read; this one is dropped at once
    return ServiceModel(make_loader().load_service_model(service, "service-2"), service)


def find_operation(service: str, operation: str) -> OperationModel | None:
    model = load_service(service)
    return model.operation_model(operation) if operation in model.operation_names else None


def find_violations(operation: str, params: dict[str, Any], service: str = "sagemaker") -> list[str]:
    """Every constraint that the request breaks, in AWS's words; empty for a good request."""
    shape = load_service(service).operation_model(operation).input_shape
    return [] if shape is None else list(_walk(shape, params, ""))


def check_request(request: dict[str, Any]) -> None:
    """AWS would refuse it with the same words, but only after the upload; a secret it would take, and show."""
    leaks.refuse(request, "The request")
    violations = find_violations("CreateTrainingJob", request)
    if violations:
        raise InputError(
            "SageMaker would refuse this request:\n  " + "\n  ".join(violations),
            hint="`launcher plan --json` shows the request; `launcher recipe show` where each value came from.",
        )


def format_violations(violations: list[str]) -> str:
    errors = "error" if len(violations) == 1 else "errors"
    return f"{len(violations)} validation {errors} detected: {'; '.join(violations)}"


def _walk(shape: Shape, value: Any, path: str) -> Iterator[str]:
    """The violations of one value and of all that is in it."""
    kind = shape.type_name
    allowed = TYPES[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        yield _violation(value, path, f"Member must be of type {kind}")
        return
    yield from (_violation(value, path, broken) for broken in _broken_limits(shape, value))
    yield from PARTS.get(kind, _no_parts)(shape, value, path)


def _no_parts(shape: Any, value: Any, path: str) -> Iterator[str]:
    return iter(())


def _walk_structure(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"Value null at '{_join(path, name)}' failed to satisfy constraint: Member must not be null"
    for name, member in value.items():
        if name not in shape.members:
            # AWS drops what it does not know. Refusing it shows a misspelt key before it costs anything.
            yield _violation(member, _join(path, name), f"{shape.name} has no member {name}")
        elif member is not None:
            yield from _walk(shape.members[name], member, _join(path, name))


def _walk_list(shape: Any, value: list[Any], path: str) -> Iterator[str]:
    for number, member in enumerate(value, start=1):
        yield from _walk(shape.member, member, f"{path}.{number}.member")


def _walk_map(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for key, member in value.items():
        for broken in _broken_limits(shape.key, key):
            yield _violation(key, path, f"Map keys must satisfy constraint: [{broken}]")
        yield from _walk(shape.value, member, f"{path}.{key}.member")


PARTS: dict[str, Callable[[Any, Any, str], Iterator[str]]] = {
    "structure": _walk_structure,
    "list": _walk_list,
    "map": _walk_map,
}


def _broken_limits(shape: Shape, value: Any) -> Iterator[str]:
    limits = shape.metadata
    what, size = ("value", value) if isinstance(value, int | float) else ("length", _length(value))
    if "min" in limits and size < limits["min"]:
        yield f"Member must have {what} greater than or equal to {limits['min']}"
    if "max" in limits and size > limits["max"]:
        yield f"Member must have {what} less than or equal to {limits['max']}"
    elif "pattern" in limits and not _compile(limits["pattern"]).fullmatch(value):
        yield f"Member must satisfy regular expression pattern: {limits['pattern']}"
    if "enum" in limits and value not in limits["enum"]:
        yield f"Member must satisfy enum value set: {_enum_words(value, limits['enum'])}"


def _enum_words(value: str, allowed: list[str]) -> str:
    """A long set only by what comes closest: AWS's 200 instance types would bury what is wrong."""
    if len(allowed) <= SHOWN_VALUES:
        return f"[{', '.join(allowed)}]"
    close = difflib.get_close_matches(value, allowed, n=1)
    return f"one of {len(allowed)}" + (f"; did you mean {close[0]}?" if close else "")


def _length(value: Any) -> int:
    return 0 if isinstance(value, datetime) else len(value)


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    for java, python in JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    try:
        return re.compile(pattern)
    except re.error:
        # A dozen of AWS's patterns are no regular expression in any dialect; none is in a training job.
        return re.compile(r"[\s\S]*")


def _violation(value: Any, path: str, constraint: str) -> str:
    shown = str(value)
    shown = shown if len(shown) <= 300 else shown[:300] + "..."
    return f"Value '{shown}' at '{path}' failed to satisfy constraint: {constraint}"


def _join(path: str, name: str) -> str:
    """AWS writes members in its messages with a small first letter."""
    member = name[:1].lower() + name[1:]
    return f"{path}.{member}" if path else member
