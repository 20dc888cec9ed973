"""Tokens and keys where everybody can read them: a request, a bundle, a recipe. Refused before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.errors import InputError

KINDS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "an AWS secret key": re.compile(r"(?i)aws_?(?:secret|session)\w*[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+=]{40}"),
    "an API key": re.compile(r"\bsk-(?:[a-z0-9]+-){0,2}[A-Za-z0-9_]{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def refuse(value: Any, where: str) -> None:
    """Raise when a value, or anything inside it, looks like a secret; the error never repeats it."""
    for place, text in _iter_texts(value, where):
        for kind, pattern in KINDS.items():
            if pattern.search(text):
                raise _error(place, kind)


def refuse_in_file(path: Path) -> None:
    """Raise with file:line. A file that is not text is read as far as it is."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    for kind, pattern in KINDS.items():
        if found := pattern.search(text):
            line = text.count("\n", 0, found.start()) + 1
            raise _error(f"code.files: {path}:{line}", kind)


def _iter_texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{where}: a key", str(key)
            yield from _iter_texts(part, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _iter_texts(part, where)


def _error(where: str, kind: str) -> InputError:
    return InputError(
        f"{where} holds {kind}, which everybody who may describe the job or read the bucket would see.",
        hint="Take it out and replace it where it was issued; store the Hub's token in AWS Secrets Manager and name "
        "the secret as secrets.hf_token.",
    )
