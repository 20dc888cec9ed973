"""IAM's evaluation of one request, for the parts of the policy language that our templates use; anything else raises.

Written from AWS's reference of policy elements, and apart from the launcher: it is what the templates are held against.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

ARN_PARTS = 6


@dataclass(frozen=True)
class Request:
    """`context` has a text for a key with one value, a list for one with several."""

    action: str
    resource: str
    context: dict[str, str | list[str]] = field(default_factory=dict)
    principal: str = ""

    def values(self, key: str) -> list[str] | None:
        """Keys know no case. None when the request does not have it."""
        for name, value in self.context.items():
            if name.lower() == key.lower():
                return value if isinstance(value, list) else [value]
        return None


def decide(statements: Iterable[dict[str, Any]], request: Request) -> str:
    """ "deny" by a statement, "allow", or "nothing", which for AWS is a denial too."""
    effects = {statement["Effect"] for statement in statements if applies(statement, request)}
    if "Deny" in effects:
        return "deny"
    return "allow" if "Allow" in effects else "nothing"


def applies(statement: dict[str, Any], request: Request) -> bool:
    known = {"Sid", "Effect", "Action", "Resource", "Condition", "Principal"}
    if statement.keys() - known:
        raise NotImplementedError(f"elements {statement.keys() - known}")
    return (
        any(matches(action.lower(), request.action.lower()) for action in listed(statement["Action"]))
        and _has_resource(statement, request)
        and _has_principal(statement, request)
        and all(
            _holds(operator, key, listed(wanted), request)
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    )


def _has_resource(statement: dict[str, Any], request: Request) -> bool:
    if "Resource" not in statement:  # a role's trust is about the role itself
        return True
    return any(matches(_filled(pattern, request), request.resource) for pattern in listed(statement["Resource"]))


def _has_principal(statement: dict[str, Any], request: Request) -> bool:
    if "Principal" not in statement or statement["Principal"] == "*":
        return True
    return any(request.principal in listed(names) for names in statement["Principal"].values())


def _filled(pattern: str, request: Request) -> str:
    """With policy variables; one without a value matches nothing."""

    def value(match: re.Match[str]) -> str:
        found = request.values(match[1])
        return found[0] if found else "\0"

    return re.sub(r"\$\{([\w:/-]+)\}", value, pattern)


def matches(pattern: str, text: str) -> bool:
    """`*` and `?`, and nothing else, are special."""
    parts = (".*" if part == "*" else "." if part == "?" else re.escape(part) for part in re.split(r"([*?])", pattern))
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def arn_matches(pattern: str, text: str) -> bool:
    """Part by part: an account's `*` does not reach into the region."""
    wanted, found = pattern.split(":", ARN_PARTS - 1), text.split(":", ARN_PARTS - 1)
    return len(wanted) == len(found) and all(matches(one, other) for one, other in zip(wanted, found, strict=True))


TESTS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, found: wanted == found,
    "StringLike": matches,
    "ArnEquals": arn_matches,
    "ArnLike": arn_matches,
    "NumericLessThanEquals": lambda wanted, found: float(found) <= float(wanted),
    "NumericGreaterThan": lambda wanted, found: float(found) > float(wanted),
    "Bool": lambda wanted, found: wanted.lower() == found.lower(),
}
NEGATED = {"StringNotEquals": "StringEquals", "StringNotLike": "StringLike", "ArnNotLike": "ArnLike"}


def _holds(operator: str, key: str, wanted: list[str], request: Request) -> bool:
    found = request.values(key)
    if operator == "Null":
        return [str(found is None).lower()] == [text.lower() for text in wanted]
    quantifier, _, name = operator.rpartition(":")
    if name.endswith("IfExists"):
        if found is None:
            return True
        name = name.removesuffix("IfExists")
    test = _test(name, wanted)
    if quantifier == "ForAllValues":
        return all(test(value) for value in found or [])  # and so of a request without the key
    if quantifier == "ForAnyValue":
        return any(test(value) for value in found or [])
    if quantifier:
        raise NotImplementedError(operator)
    if found is None:
        return name in NEGATED
    return all(test(value) for value in found) if name in NEGATED else any(test(value) for value in found)


def _test(name: str, wanted: list[str]) -> Callable[[str], bool]:
    """True of a value that equals one of the wanted; for a negated operator, none of them."""
    if name in NEGATED:
        return lambda value: not any(TESTS[NEGATED[name]](one, value) for one in wanted)
    if name not in TESTS:
        raise NotImplementedError(f"operator {name}")
    return lambda value: any(TESTS[name](one, value) for one in wanted)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
