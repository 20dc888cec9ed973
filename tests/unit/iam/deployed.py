"""A template as CloudFormation would deploy it: parameters, conditions and functions worked out, resources named."""

from __future__ import annotations

import re
from typing import Any

ACCOUNT, REGION, STACK = "111122223333", "eu-west-1", "launcher"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::StackName": STACK,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{STACK}/1234",
    "AWS::URLSuffix": "amazonaws.com",
}
GONE = object()
ARNS = {
    "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{STACK}-%s",
    "AWS::IAM::ManagedPolicy": f"arn:aws:iam::{ACCOUNT}:policy/{STACK}-%s",
    "AWS::SNS::Topic": f"arn:aws:sns:{REGION}:{ACCOUNT}:{STACK}-%s",
    "AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{STACK}-%s",
    "AWS::Events::Rule": f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{STACK}-%s",
}
REF_IS_ARN = {"AWS::IAM::ManagedPolicy", "AWS::SNS::Topic"}


class Deployed:
    """`resources` has only those whose condition holds."""

    def __init__(self, template: dict[str, Any], **parameters: str) -> None:
        self._template = template
        self._parameters = {
            name: str(about["Default"]) for name, about in template["Parameters"].items() if "Default" in about
        } | parameters
        self.resources: dict[str, dict[str, Any]] = {
            name: self._value(resource["Properties"])
            for name, resource in template["Resources"].items()
            if self._exists(resource)
        }
        self.outputs: dict[str, Any] = {
            name: self._value(output["Value"]) for name, output in template["Outputs"].items() if self._exists(output)
        }

    def _exists(self, part: dict[str, Any]) -> bool:
        return "Condition" not in part or self._is_true(part["Condition"])

    def _is_true(self, condition: str) -> bool:
        return bool(self._value(self._template["Conditions"][condition]))

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [found for part in value if (found := self._value(part)) is not GONE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._call(name.removeprefix("Fn::"), argument)
        return {key: found for key, part in value.items() if (found := self._value(part)) is not GONE}

    def _call(self, function: str, argument: Any) -> Any:
        if function == "If":
            return self._value(argument[1] if self._is_true(argument[0]) else argument[2])
        if function == "Sub":
            return re.sub(r"\$\{(!?)([^}]+)\}", self._substitute, argument)
        if function == "Equals":
            return self._value(argument[0]) == self._value(argument[1])
        if function == "And":
            return all(
                self._is_true(part["Condition"]) if "Condition" in part else self._value(part) for part in argument
            )
        if function == "Not":
            return not self._value(argument[0])
        if function == "Join":
            return argument[0].join(self._value(argument[1]))
        if function == "Split":
            return self._value(argument[1]).split(argument[0])
        if function == "Ref":
            return self._ref(argument)
        if function == "GetAtt":
            return self._attribute(*argument)
        if function == "GetAZs":
            return [f"{REGION}a", f"{REGION}b"]
        if function == "Select":
            return self._value(argument[1])[argument[0]]
        raise NotImplementedError(function)

    def _substitute(self, match: re.Match[str]) -> str:
        if match[1]:
            return f"${{{match[2]}}}"
        name, _, attribute = match[2].partition(".")
        return str(self._attribute(name, attribute) if attribute else self._ref(name))

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return GONE
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self._parameters:
            return self._parameters[name]
        resource = self._template["Resources"][name]
        if "BucketName" in resource.get("Properties", {}):
            return self._value(resource["Properties"]["BucketName"])
        return ARNS[resource["Type"]] % name if resource["Type"] in REF_IS_ARN else f"{STACK}-{name}"

    def _attribute(self, name: str, attribute: str) -> str:
        if attribute.endswith("Name"):
            return str(self._ref(name))
        if attribute != "Arn":
            raise NotImplementedError(f"{name}.{attribute}")
        kind = self._template["Resources"][name]["Type"]
        return f"arn:aws:s3:::{self._ref(name)}" if kind == "AWS::S3::Bucket" else ARNS[kind] % name

    def statements_of_role(self, role: str) -> list[dict[str, Any]]:
        """Its own policies, and those of the template that name it."""
        name = self._ref(role)
        found = [policy["PolicyDocument"] for policy in self.resources[role].get("Policies", [])]
        found += [part["PolicyDocument"] for part in self.resources.values() if name in part.get("Roles", [])]
        return [statement for document in found for statement in document["Statement"]]

    def statements(self, logical: str, key: str = "PolicyDocument") -> list[dict[str, Any]]:
        document: dict[str, Any] = self.resources[logical][key]
        return list(document["Statement"])
