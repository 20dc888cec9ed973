"""JSON that every reader takes: NaN and Infinity, which only Python knows, become null. Stdlib only."""

from __future__ import annotations

import json
import math
from typing import Any


def make_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
