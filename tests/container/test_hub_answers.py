"""What the Hub's real client makes of each answer of a server, and what a failure file says of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from container_src.sft import failure

REJECTED = "The Hub rejected the token"
GATED = "The model is gated"
MISSING = "The model was not found"
# path's owner -> status, X-Error-Code, X-Error-Message; and what is said of it without a token and with one
ANSWERS = {
    "stale": (401, "", "Invalid credentials in Authorization header", REJECTED, REJECTED),
    "stale-and-named": (401, "RepoNotFound", "Invalid credentials in Authorization header", REJECTED, REJECTED),
    "hidden": (401, "RepoNotFound", "Invalid username or password.", MISSING, REJECTED),
    "gated": (401, "GatedRepo", "You must have access to it and be authenticated.", GATED, REJECTED),
    "licensed": (403, "GatedRepo", "You are not in the authorized list.", GATED, GATED),
    "forbidden": (403, "", "Not allowed.", "The Hub refused", "The Hub refused"),
    "disabled": (403, "", "Access to this resource is disabled.", "The Hub refused", "The Hub refused"),
    "missing": (404, "RepoNotFound", "Repository not found", MISSING, MISSING),
    "unrevised": (404, "RevisionNotFound", "Invalid rev id", MISSING, MISSING),
    "lost": (404, "", "", MISSING, MISSING),
    "crowded": (429, "", "Rate limit", "The Hub takes no more requests", "The Hub takes no more requests"),
    "broken": (500, "", "Internal Error", "The Hub answered with an error", "The Hub answered with an error"),
    "resting": (503, "", "", "The Hub answered with an error", "The Hub answered with an error"),
    "behind": (520, "", "", "The Hub answered with an error", "The Hub answered with an error"),
}
# after these the client tries a file again for most of a minute, but not a model's description
RETRIED = {"broken", "resting"}


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        owner = next(part for part in self.path.split("/") if part in ANSWERS)
        status, code, message, *_ = ANSWERS[owner]
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", message)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("owner", ANSWERS)
@pytest.mark.parametrize("token", [False, "hf_of_the_test"])
def test_every_answer_of_the_hub_is_told_apart(hub: str, tmp_path: Path, owner: str, token: str | bool) -> None:
    said = ANSWERS[owner][4 if token else 3]
    with pytest.raises(OSError) as caught:
        huggingface_hub.HfApi(hub, token).model_info(f"{owner}/model")
    assert failure.explain(caught.value).startswith(said)
    if owner in RETRIED:
        return
    with pytest.raises(OSError) as caught:
        huggingface_hub.hf_hub_download(f"{owner}/model", "config.json", endpoint=hub, token=token, cache_dir=tmp_path)
    assert failure.explain(caught.value).startswith(said)


def test_a_hub_out_of_reach_is_no_answer() -> None:
    with pytest.raises(OSError) as caught:
        huggingface_hub.HfApi("http://127.0.0.1:9", "hf_of_the_test").model_info("any/model")
    assert "no network reaches the Hub" in failure.explain(caught.value)
