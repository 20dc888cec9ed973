"""What the Hub's real client makes of each answer of a server, and what a failure file says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from container_src.sft import failure

REJECTED = "The Hub rejected the token"
GATED = "The model is gated"
MISSING = "The model was not found"
REFUSED = "The Hub refused"
CROWDED = "The Hub takes no more requests"
TROUBLED = "The Hub answered with an error"
# what is said of the fixture's answers, by owner, without a token and with one
SAID = {
    "stale": (REJECTED, REJECTED),
    "stale-and-named": (REJECTED, REJECTED),
    "hidden": (MISSING, REJECTED),
    "wordless": (REFUSED, REJECTED),
    "gated": (GATED, REJECTED),
    "licensed": (GATED, GATED),
    "forbidden": (REFUSED, REFUSED),
    "disabled": (REFUSED, REFUSED),
    "missing": (MISSING, MISSING),
    "unrevised": (MISSING, MISSING),
    "lost": (MISSING, MISSING),
    "crowded": (CROWDED, CROWDED),
    "broken": (TROUBLED, TROUBLED),
    "resting": (TROUBLED, TROUBLED),
    "behind": (TROUBLED, TROUBLED),
}
# after these the client tries a file again for most of a minute, but not a model's description
RETRIED = {"broken", "resting"}


@pytest.mark.parametrize("owner", SAID)
@pytest.mark.parametrize("token", [False, "hf_of_the_test"])
def test_every_answer_of_the_hub_is_told_apart(hub: Any, tmp_path: Path, owner: str, token: str | bool) -> None:
    said = SAID[owner][1 if token else 0]
    with pytest.raises(OSError) as caught:
        huggingface_hub.HfApi(hub.url, token).model_info(f"{owner}/model")
    assert failure.explain(caught.value).startswith(said)
    if owner in RETRIED:
        return
    with pytest.raises(OSError) as caught:
        huggingface_hub.hf_hub_download(
            f"{owner}/model", "config.json", endpoint=hub.url, token=token, cache_dir=tmp_path
        )
    assert failure.explain(caught.value).startswith(said)


def test_a_hub_out_of_reach_is_no_answer() -> None:
    with pytest.raises(OSError) as caught:
        huggingface_hub.HfApi("http://127.0.0.1:9", "hf_of_the_test").model_info("any/model")
    assert "no network reaches the Hub" in failure.explain(caught.value)
