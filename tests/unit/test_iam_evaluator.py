"""The evaluator that proves the policies is itself held against AWS's rules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def load(name: str) -> ModuleType:
    path = Path(__file__).parent / "iam" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"iam_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


evaluator = load("evaluator")


def statement(condition: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    return plain | parts | ({"Condition": condition} if condition else {})


def decide(*statements: dict[str, Any], resource: str = "arn:aws:s3:::b/k", **context: Any) -> str:
    keys = {key.replace("__", ":"): value for key, value in context.items()}
    return str(evaluator.decide(statements, evaluator.Request("s3:GetObject", resource, keys, "a.amazonaws.com")))


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("s3:Get*", "s3:GetObject", True),
        ("s3:Get?bject", "s3:GetObject", True),
        ("s3:Get", "s3:GetObject", False),
        ("a.b", "axb", False),  # a dot is a dot
        ("a[bc]", "ab", False),  # and brackets are brackets
        ("a*", "a/b:c", True),
    ],
)
def test_patterns_know_two_wildcards(pattern: str, text: str, expected: bool) -> None:
    assert evaluator.matches(pattern, text) is expected


def test_nothing_is_allowed_by_itself_and_a_denial_wins() -> None:
    assert decide() == "nothing"
    assert decide(statement()) == "allow"
    assert decide(statement(), statement(Effect="Deny")) == "deny"
    assert decide(statement(Effect="Deny"), statement()) == "deny"


def test_actions_know_no_case_and_resources_do() -> None:
    assert decide(statement(Action="S3:getOBJECT")) == "allow"
    assert decide(statement(Resource="arn:aws:s3:::B/*")) == "nothing"


def test_policy_variables_are_filled_from_the_request_and_match_nothing_without_a_value() -> None:
    own = statement(Resource="arn:aws:s3:::b/${aws:username}")
    assert decide(own, aws__username="k") == "allow"
    assert decide(own) == "nothing"


def test_a_principal_has_to_be_named() -> None:
    assert decide(statement(Principal={"Service": ["a.amazonaws.com", "b.amazonaws.com"]})) == "allow"
    assert decide(statement(Principal={"Service": "b.amazonaws.com"})) == "nothing"
    assert decide(statement(Principal="*")) == "allow"


CONDITIONS = [
    ({"StringEquals": {"k:a": ["x", "y"]}}, {"k__a": "y"}, True),
    ({"StringEquals": {"k:a": "x"}}, {"K__A": "x"}, True),  # keys know no case
    ({"StringEquals": {"k:a": "x"}}, {"k__a": "X"}, False),
    ({"StringEquals": {"k:a": "x*"}}, {"k__a": "xy"}, False),
    ({"StringEquals": {"k:a": "x"}}, {}, False),
    ({"StringEquals": {"k:a": "x", "k:b": "y"}}, {"k__a": "x"}, False),  # every key has to hold
    ({"StringNotEquals": {"k:a": ["x", "y"]}}, {"k__a": "y"}, False),
    ({"StringNotEquals": {"k:a": "x"}}, {}, True),
    ({"StringLike": {"k:a": "ml.g5.*"}}, {"k__a": "ml.g5.xlarge"}, True),
    ({"StringLike": {"k:a": "ml.g5.*"}}, {"k__a": "ml.g5x"}, False),
    ({"StringLikeIfExists": {"k:a": "p/*"}}, {}, True),
    ({"StringLikeIfExists": {"k:a": "p/*"}}, {"k__a": ""}, False),
    ({"ArnLike": {"k:a": "arn:aws:x:r:*:job/*"}}, {"k__a": "arn:aws:x:r:1:job/a/b"}, True),
    ({"ArnLike": {"k:a": "arn:aws:x:*:job/*"}}, {"k__a": "arn:aws:x:r:1:job/a"}, False),  # stars end at a colon
    ({"ArnLike": {"k:a": "arn:aws:x:r:*:job/*"}}, {"k__a": "arn:aws:x:s:1:job/a"}, False),
    ({"ArnEquals": {"k:a": "arn:aws:x:r:1:rule/a"}}, {"k__a": "arn:aws:x:r:1:rule/b"}, False),
    ({"NumericLessThanEquals": {"k:a": "3600"}}, {"k__a": "3600"}, True),
    ({"NumericLessThanEquals": {"k:a": "3600"}}, {"k__a": "10000"}, False),  # numbers, not texts
    ({"NumericLessThanEquals": {"k:a": "3600"}}, {}, False),
    ({"Bool": {"k:a": "true"}}, {"k__a": "True"}, True),
    ({"Bool": {"k:a": "false"}}, {}, False),
    ({"Null": {"k:a": "true"}}, {}, True),
    ({"Null": {"k:a": "false"}}, {}, False),
    ({"Null": {"k:a": "false"}}, {"k__a": "x"}, True),
    ({"ForAllValues:StringLike": {"k:a": ["x*", "y"]}}, {"k__a": ["x1", "y"]}, True),
    ({"ForAllValues:StringLike": {"k:a": "x*"}}, {"k__a": ["x1", "y"]}, False),
    ({"ForAllValues:StringLike": {"k:a": "x*"}}, {}, True),  # the trap that Null is there for
    ({"ForAnyValue:StringEquals": {"k:a": "x"}}, {"k__a": ["y", "x"]}, True),
    ({"ForAnyValue:StringEquals": {"k:a": "x"}}, {"k__a": ["y"]}, False),
    ({"ForAnyValue:StringEquals": {"k:a": "x"}}, {}, False),
]


@pytest.mark.parametrize(("condition", "context", "holds"), CONDITIONS)
def test_conditions(condition: dict[str, Any], context: dict[str, Any], holds: bool) -> None:
    assert decide(statement(condition), **context) == ("allow" if holds else "nothing")


@pytest.mark.parametrize(
    "unknown",
    [
        statement({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}),
        statement({"ForMost:StringEquals": {"k:a": "x"}}),
        statement(NotAction="s3:*"),
    ],
)
def test_what_it_does_not_know_is_refused_loudly(unknown: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError):
        decide(unknown, aws__SourceIp="10.0.0.1", k__a="x")
