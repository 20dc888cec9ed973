"""The README's commands: every one parses, and those that need no AWS account run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
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


def test_the_local_blocks_run_as_they_stand(endpoint, tmp_path: Path) -> None:
    """With bash, in one folder, in the order in which they stand."""
    needs_more = ("pip install", "bootstrap --region")  # a package registry, an AWS account
    script = "\n".join(block for block in blocks("sh") if not any(word in block for word in needs_more))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_the_python_block_runs(endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch) -> None:
    (block,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(launch("recipe", "show").stdout)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
