"""Secrets stay out of the log: every stream of the job and its failure file pass one mask."""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO

MASK = "[secret]"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
SHORTEST = 8  # a shorter text is no token, and hiding it would blot out words
_known: set[str] = set()


def remember(secret: str) -> None:
    """Hide this text, and each line of it, from now on."""
    _known.update(part for part in (secret, *secret.splitlines()) if len(part) >= SHORTEST)


def hide(text: str) -> str:
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return TOKEN.sub(MASK, text)


class MaskedText(io.TextIOWrapper):
    """A text stream that hides secrets in what is written to it; tracebacks and libraries go through it too."""

    def write(self, text: str) -> int:
        super().write(hide(text))
        return len(text)


def mask_streams() -> None:
    sys.stdout, sys.stderr = _masked(sys.stdout), _masked(sys.stderr)


def _masked(stream: TextIO) -> TextIO:
    if isinstance(stream, MaskedText):
        return stream
    stream.flush()
    return MaskedText(stream.buffer, encoding=stream.encoding, errors=stream.errors, write_through=True)
