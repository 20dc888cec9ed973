"""Which channel a file is, where its name alone says so: and what was assumed is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.data.preparing import MANIFEST
from launcher.data.settings import CHANNELS
from launcher.errors import RecipeError

WORDS = {
    "train": {"train", "training"},
    "eval": {"eval", "evaluation", "valid", "validation", "val", "dev"},
    "test": {"test", "testing"},
}
FLAGS = "--train, --eval and --test say what a file is"


@dataclass(frozen=True)
class Roles:
    """Files by channel. A file that may be any channel is its own, which no rule compares with another."""

    files: dict[str, Path]
    assumed: str = ""


def assign_roles(paths: Sequence[Path], named: Mapping[str, Path]) -> Roles:
    """`named` are those that a flag has given a role; a folder that prepare wrote is its channels."""
    files = dict(named)
    unsure: list[Path] = []
    for path in paths:
        if (path / MANIFEST).is_file():
            for name in CHANNELS:
                if (path / f"{name}.jsonl").is_file():
                    _put(files, name, path / f"{name}.jsonl")
        elif _own_name(path) in CHANNELS:
            _put(files, _own_name(path), path)
        else:
            unsure.append(path)
    taken = _guess(unsure, files)
    for path in unsure:
        _put(files, taken.get(path) or _own_name(path), path)
    alone = [path.name for path in unsure if path not in taken]
    words = [f"{path.name} is taken as {name}" for path, name in taken.items()]
    words += [f"{', '.join(alone)} is compared with no other file"] if alone else []
    return Roles(files, f"{'; '.join(words)}. {FLAGS}" if words else "")


def _guess(unsure: Sequence[Path], files: Mapping[str, Path]) -> dict[Path, str]:
    """By a word in its name that no other file has; and the only file that is left is there to be trained on."""
    taken: dict[Path, str] = {}
    for name, words in WORDS.items():
        found = [path for path in unsure if words & set(re.split(r"[^a-z]+", path.name.lower()))]
        if name not in files and len(found) == 1 and found[0] not in taken:
            taken[found[0]] = name
    left = [path for path in unsure if path not in taken]
    if len(left) == 1 and "train" not in {*files, *taken.values()}:
        taken[left[0]] = "train"
    return taken


def _own_name(path: Path) -> str:
    """eval.jsonl is the eval channel; `.` has the name of the folder that it stands for."""
    name = path.name or path.absolute().name
    return name.partition(".")[0] or name


def _put(files: dict[str, Path], name: str, path: Path) -> None:
    if name in files:
        raise RecipeError(
            f"{path} and {files[name]} are both the {name} channel by name.",
            hint="Rename one, or check them apart.",
        )
    files[name] = path
