"""Tokenizers without torch, whose import takes longer than all else that a command does with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = {"USE_TORCH": "0", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}


@contextmanager
def without_torch() -> Iterator[None]:
    """For what is imported within; afterwards the settings are gone, since a job started here must have its torch."""
    before = dict(os.environ)
    os.environ |= SETTINGS
    try:
        yield
    finally:
        for name in SETTINGS:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
