"""Can the base model, or a data set, be had? Asked before anything is billed, with the standard library alone."""

from __future__ import annotations

import enum
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 5.0


class Found(enum.Enum):
    YES = "yes"
    GATED = "gated"
    NO = "no"
    UNREACHABLE = "unreachable"


def look_up(name: str, revision: str = "", kind: str = "models") -> Found:
    """Ask the Hub for a model, or one of its `datasets`, as somebody who has no token."""
    url = f"{_hub()}/api/{kind}/{name}" + (f"/revision/{revision}" if revision else "")
    return _ask(urllib.request.Request(url))


def look_up_with(token: str, model: str, revision: str = "") -> Found:
    """Ask for a file of the model, which the Hub gives out only to whom the model is open."""
    url = f"{_hub()}/{model}/resolve/{revision or 'main'}/config.json"
    request = urllib.request.Request(url)
    request.add_unredirected_header(
        "Authorization", f"Bearer {token}"
    )  # for the Hub alone, not where it sends us on to
    return _ask(request)


def token_in(text: str) -> str:
    """A secret's text itself, or the one value of the object that AWS's console makes of it."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    return value.strip() if isinstance(value, str) else ""


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _ask(request: urllib.request.Request) -> Found:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return Found.GATED if json.load(answer).get("gated") else Found.YES
    except urllib.error.HTTPError as error:
        # The Hub answers 401 both for a private model and for one that does not exist.
        return Found.NO if error.code in (401, 403, 404) else Found.UNREACHABLE
    except ValueError:
        return Found.UNREACHABLE  # something else answers there, such as a hotel's sign-in page
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return Found.UNREACHABLE


def is_cached(model: str) -> bool:
    """Whether this machine's Hub cache holds a snapshot of the model."""
    return any((_cache_of(model) / "snapshots").glob("*/config.json"))


def find_snapshot(model: str, revision: str = "") -> Path | None:
    """Where this machine's Hub cache holds this revision of the model; the network is not asked."""
    cache = _cache_of(model)
    reference = cache / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = cache / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def _cache_of(model: str) -> Path:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return cache / f"models--{model.replace('/', '--')}"
