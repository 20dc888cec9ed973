"""The README's commands: every one parses, and those that need no AWS account run as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cli import make_parser

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> Iterator[list[str]]:
    for block in blocks("sh"):
        for line in block.splitlines():
            for part in line.split("&&"):
                words = shlex.split(part.partition(" > ")[0])
                if words[:3] == ["python", "-m", "launcher"]:
                    yield words[3:]


def test_there_are_commands_to_test() -> None:
    assert len(list(commands())) > 10


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_parses(words: list[str]) -> None:
    assert make_parser().parse_args(words).run


def test_the_local_commands_run_in_the_order_in_which_they_stand(launch, endpoint) -> None:
    skipped = {"down"}  # the endpoint is shared with other tests
    for words in commands():
        if "--train" in words or skipped & set(words):
            continue
        done = launch(*words)
        if words[:1] == ["submit"] and "local" not in words:
            assert done.returncode == 3, done.stderr  # nobody is signed in here
        else:
            assert done.returncode == 0, (words, done.stderr)


def test_the_python_block_runs(endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch) -> None:
    (block,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(launch("recipe", "show").stdout)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
