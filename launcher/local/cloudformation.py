"""What moto's CloudFormation leaves undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MakeBucket = Callable[[str, str], object]


def mend_change_sets(make_bucket: MakeBucket) -> None:
    """moto 5.2 makes the resources, but the stack keeps the empty template it was proposed with, so that it has no
    description, outputs or exports; and its buckets lie in moto's S3, which is not the one that answers here."""
    from moto.cloudformation.models import CloudFormationBackend

    _mend_lists()
    carry_out = CloudFormationBackend.execute_change_set

    def execute_change_set(self: Any, change_set_name: str, stack_name: str | None = None) -> None:
        carry_out(self, change_set_name, stack_name)
        change_set = next(one for one in self.change_sets.values() if change_set_name in _names(one))
        _refresh(self, self.stacks[change_set.stack_id], change_set.parameters, make_bucket)

    CloudFormationBackend.execute_change_set = execute_change_set


def _mend_lists() -> None:
    """moto 5.2 drops what is AWS::NoValue from objects, but leaves a null in its place in a list."""
    from moto.cloudformation import parsing

    clean = parsing.clean_json

    def clean_json(value: Any, resources: Any) -> Any:
        cleaned = clean(value, resources)
        return [item for item in cleaned if item is not None] if isinstance(value, list) else cleaned

    parsing.clean_json = clean_json


def _names(change_set: Any) -> tuple[str, str]:
    return change_set.change_set_id, change_set.change_set_name


def _refresh(backend: Any, stack: Any, parameters: dict[str, Any], make_bucket: MakeBucket) -> None:
    stack._parse_template()
    stack.description = stack.template_dict.get("Description")
    stack.parameters = parameters
    stack.output_map = stack._create_output_map()
    for export in stack.exports:
        backend.exports[export.name] = export
    for logical, resource in stack.template_dict["Resources"].items():
        if resource["Type"] == "AWS::S3::Bucket":
            make_bucket(stack.resource_map[logical].name, stack.region_name)
