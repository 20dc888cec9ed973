"""What tests of schedules share: the endpoint's session, recipes of their own, the command line in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import load_recipe
from launcher.aws.session import Session, open_session
from launcher.cli import main
from launcher.recipe import Recipe


@pytest.fixture
def session(endpoint: Path) -> Session:
    return open_session("local")


@pytest.fixture
def make_recipe(tmp_path: Path, write_rows: Callable[..., Path], session: Session) -> Callable[..., Recipe]:
    """A recipe of its own for each name, since publications and champions go by it."""

    def make(name: str, **overrides: Any) -> Recipe:
        write_rows("train.jsonl", [{"text": f"row {number}"} for number in range(8)])
        write_rows("eval.jsonl", [{"text": f"other {number}"} for number in range(6)])
        text = '[data]\ntrain = "train.jsonl"\neval = "eval.jsonl"\n[compute]\ninstance = "local"\n'
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / f"{name}.toml", overrides, smoke=True)

    return make


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def losing_the_first_answer() -> Callable[[Any, str], contextlib.AbstractContextManager[None]]:
    """The first put of this key arrives and its answer does not, so that botocore sends it again."""

    @contextlib.contextmanager
    def losing(client: Any, key: str) -> Iterator[None]:
        sent: list[str] = []

        def again(request_dict: dict[str, Any], **_: Any) -> float | None:
            if key not in request_dict["url"]:
                return None
            sent.append(request_dict["url"])
            return 0.0 if len(sent) == 1 else None

        client.meta.events.register_first("needs-retry.s3.PutObject", again, "lost-answer")
        yield
        client.meta.events.unregister("needs-retry.s3.PutObject", unique_id="lost-answer")
        assert len(sent) > 1

    return losing
