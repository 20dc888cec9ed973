"""The request held against botocore's model, strictly, before anything is sent."""

from __future__ import annotations

from typing import Any

from launcher.errors import InputError
from launcher.local.shapes import find_violations


def check_request(request: dict[str, Any]) -> None:
    """AWS would refuse it with the same words, but only after the upload."""
    violations = find_violations("CreateTrainingJob", request)
    if violations:
        raise InputError(
            "SageMaker would refuse this request:\n  " + "\n  ".join(violations),
            hint="`launcher plan --json` shows the request; `launcher recipe show` where each value came from.",
        )
