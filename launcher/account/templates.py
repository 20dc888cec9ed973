"""The CloudFormation templates that ship with the launcher, and what they allow whom. No network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

TRAINING, SCHEDULE = "training", "schedule"
NO_VALUE = {"Ref": "AWS::NoValue"}
# Resource types whose policy stands under one property and names its own principals.
RESOURCE_POLICIES = {
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::EC2::VPCEndpoint",
}


@dataclass(frozen=True)
class Grant:
    """One statement of a policy, as text; `only_if` names the template's condition for it, and is mostly empty."""

    template: str
    who: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[str, ...]
    only_if: str

    def lines(self) -> Iterator[tuple[str, str, str, str]]:
        """Who, action, resource, condition; lists run down the table."""
        only_if = (f"only if {self.only_if}",) if self.only_if else ()
        actions = tuple(f"DENY {action}" if self.effect == "Deny" else action for action in self.actions)
        cells = zip_longest((self.who,), actions, self.resources, (*self.conditions, *only_if), fillvalue="")
        yield from cells

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def template_folder() -> Path:
    """infra/: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent.parent / "infra"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "infra"


def template_text(name: str) -> str:
    return (template_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def shipped_templates() -> list[str]:
    return [path.stem for path in sorted(template_folder().glob("*.yaml"))]


def load_template(name: str) -> dict[str, Any]:
    return parse_template(template_text(name))


def find_broken(template: str, values: Mapping[str, str]) -> dict[str, str]:
    """Parameter -> what it must be, for each value that CloudFormation would refuse."""
    known = load_template(template)["Parameters"]
    return {
        name: about.get("ConstraintDescription") or f"as the template describes it: {about['Description']}"
        for name, about in known.items()
        if name in values and not _is_allowed(about, values[name])
    }


def _is_allowed(about: Mapping[str, Any], value: str) -> bool:
    if about["Type"] == "Number":
        low, high = about.get("MinValue", -math.inf), about.get("MaxValue", math.inf)
        return value.isdecimal() and low <= int(value) <= high
    choices = about.get("AllowedValues", [value])
    return value in choices and bool(re.fullmatch(about.get("AllowedPattern", ".*"), value))


def parse_template(text: str) -> dict[str, Any]:
    """As CloudFormation's JSON: `!Ref X` becomes {"Ref": "X"}, any other `!Name` {"Fn::Name": ...}."""
    import yaml

    template: dict[str, Any] = yaml.load(text, Loader=_make_loader())  # a SafeLoader with more tags
    return template


@cache
def _make_loader() -> Any:
    import yaml

    class TemplateLoader(yaml.SafeLoader):  # type: ignore[misc]  # no types of its own
        pass

    def make_function(loader: Any, name: str, node: Any) -> dict[str, Any]:
        if isinstance(node, yaml.ScalarNode):
            value = loader.construct_scalar(node)
            if name == "GetAtt":
                value = value.split(".", 1)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            value = loader.construct_mapping(node, deep=True)
        return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}

    TemplateLoader.add_multi_constructor("!", make_function)
    return TemplateLoader


def find_grants(name: str) -> list[Grant]:
    """Everything a template allows or denies anybody, in the order in which it stands there."""
    found = load_template(name)["Resources"].items()
    return [grant for logical, resource in found for grant in _iter_grants(name, logical, resource)]


def _iter_grants(template: str, logical: str, resource: dict[str, Any]) -> Iterator[Grant]:
    kind, properties, only_if = resource["Type"], resource.get("Properties", {}), resource.get("Condition", "")
    documents: list[tuple[str, Any]] = []
    if kind == "AWS::IAM::Role":
        documents.append(("", properties["AssumeRolePolicyDocument"]))
        documents.extend((logical, policy["PolicyDocument"]) for policy in properties.get("Policies", []))
    elif kind in ("AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"):
        roles = [role["Ref"] for role in properties.get("Roles", []) if isinstance(role, dict) and "Ref" in role]
        documents.append((", ".join(roles) or logical, properties["PolicyDocument"]))
    elif kind in RESOURCE_POLICIES and "PolicyDocument" in properties:
        documents.append(("", properties["PolicyDocument"]))
    for who, document in documents:
        for statement in document["Statement"]:
            condition, plain = _unwrap(statement)
            yield _make_grant(template, who, logical, plain, condition or only_if)


def _make_grant(template: str, who: str, logical: str, statement: dict[str, Any], only_if: str) -> Grant:
    return Grant(
        template=template,
        who=who or _principal(statement.get("Principal", "*")),
        effect=statement["Effect"],
        actions=_texts(statement["Action"]),
        resources=_texts(statement["Resource"]) if "Resource" in statement else (f"${{{logical}}}",),
        conditions=tuple(_iter_conditions(statement.get("Condition", {}))),
        only_if=only_if,
    )


def _unwrap(value: Any) -> tuple[str, Any]:
    """`!If [Condition, value, NoValue]` -> its condition and value."""
    if isinstance(value, dict) and "Fn::If" in value:
        condition, first, second = value["Fn::If"]
        return (condition, first) if second == NO_VALUE else (condition, value)
    return "", value


def _principal(principal: Any) -> str:
    if not isinstance(principal, dict):
        return "anybody" if principal == "*" else str(principal)
    return ", ".join(text for value in principal.values() for text in _texts(value))


def _iter_conditions(block: dict[str, Any]) -> Iterator[str]:
    for operator, tests in block.items():
        for key, value in tests.items():
            yield f"{operator} {key} = {' | '.join(_texts(value))}"


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(part) for part in (value if isinstance(value, list) else [value]))


def _text(value: Any) -> str:
    """A value of a template for people: `!GetAtt Bucket.Arn` reads ${Bucket.Arn}."""
    condition, value = _unwrap(value)
    if isinstance(value, dict):
        ((function, argument),) = value.items()
        if function == "Ref":
            value = f"${{{argument}}}"
        elif function == "Fn::GetAtt":
            value = f"${{{'.'.join(argument)}}}"
        elif function == "Fn::Sub":
            value = argument
        elif function == "Fn::Split":
            value = _text(argument[1])
        elif function == "Fn::If":  # of two values, where the second is not AWS::NoValue
            return f"{_text(argument[1])} (if {argument[0]}, else {_text(argument[2])})"
    return f"{value} (if {condition})" if condition else str(value)
