"""Can the base model be had? Asked before anything is billed, with the standard library alone."""

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


def look_up(model: str, revision: str = "") -> Found:
    """Ask the Hub for a model, as a job would that has no token."""
    base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{base}/api/models/{model}" + (f"/revision/{revision}" if revision else "")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
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
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any((cache / f"models--{model.replace('/', '--')}" / "snapshots").glob("*/config.json"))
