"""Prepared channels that are kept: commands at once, damage, folders and disks that cannot be written."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher.data import prepared, scratch
from launcher.data.prepared import find_or_prepare
from launcher.data.preparing import Prepared, prepare_channels
from launcher.data.settings import Prepare, Source
from launcher.data.sources import find_inputs
from launcher.errors import DataError

SETTINGS = Prepare(template="{question}", split=(8, 2))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "rows.csv"
    path.write_text("question\n" + "".join(f"what is {number}?\n" for number in range(40)))
    return Source(path=str(path))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "prepared"


def find(source: Source, seed: int = 1) -> Prepared:
    return find_or_prepare([source], [], Prepare(**{**vars(SETTINGS), "seed": seed}))


def test_commands_at_once_do_not_disturb_each_other(source: Source, home: Path) -> None:
    """Each makes folders that come and go while the others look for what is old."""
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(25):
                found = find(source, number * 1000 + turn)
                assert sum(channel.rows for channel in found.channels) == 40
                found = find(source, turn)  # the same by all
                assert all(channel.path.stat().st_size == channel.bytes for channel in found.channels)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not list(home.glob(".*"))


def test_what_goes_while_it_is_looked_at_is_passed_over(source: Source, home: Path) -> None:
    (home / ".making-other").mkdir(parents=True)
    (home / "gone").symlink_to(home / "nowhere")  # looks as a folder does that vanishes after it was listed
    assert find(source).kept == 40


@pytest.mark.parametrize("damage", ["no JSON", "another JSON", "no manifest", "no channel", "half a channel"])
def test_damaged_channels_are_made_again(source: Source, home: Path, damage: str) -> None:
    first = find(source)
    train = first.channels[0].path
    content = train.read_bytes()
    manifest = first.folder / "prepared.json"
    if damage == "no JSON":
        manifest.write_text("{")
    elif damage == "another JSON":
        manifest.write_text(json.dumps({"channels": {}}))
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "no channel":
        train.unlink()
    else:
        train.write_bytes(content[:100])
    again = find(source)
    assert (again.folder, train.read_bytes()) == (first.folder, content)
    assert [path.name for path in home.iterdir()] == [first.folder.name]


def test_old_ones_go_and_those_of_today_stay(source: Source, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "KEPT", 2)
    folders = [find(source, seed).folder for seed in range(4)]
    assert all(folder.is_dir() for folder in folders)
    for folder in folders[:3]:
        os.utime(folder, (1, 1))
    find(source, 9)
    assert [folder.is_dir() for folder in folders] == [False, False, False, True]


# folders and disks


def prepare_into(source: Source, out: Path) -> Prepared:
    return prepare_channels(find_inputs([source], lambda address: []), [], SETTINGS, out)


def test_an_out_folder_that_cannot_be_made_is_refused(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"could not be written: Not a directory") as caught:
        prepare_into(source, tmp_path / "file" / "out")
    assert "--out" in caught.value.hint


def test_a_state_folder_that_cannot_be_made_is_refused(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("x")
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match="could not be written: Not a directory") as caught:
        find(source)
    assert "LAUNCHER_HOME" in caught.value.hint


FULL = """
import resource, signal, sys
from pathlib import Path
from launcher.data.preparing import prepare_channels
from launcher.data.settings import Prepare, Source
from launcher.data.sources import find_inputs
from launcher.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    inputs = find_inputs([Source(path=sys.argv[1])], lambda address: [])
    prepare_channels(inputs, [], Prepare(template="{question}"), Path(sys.argv[2]))
except DataError as error:
    print(error)
"""


def test_a_disk_without_room_is_said_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question\n" + "".join(f"what is {number}?\n" for number in range(9000)))
    words = [sys.executable, "-c", FULL, str(tmp_path / "rows.csv"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "out could not be written: File too large.\nMake room there" in done.stdout, done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_command_left_goes_with_the_next(source: Source, tmp_path: Path) -> None:
    left, held = tmp_path / "out" / ".preparing-left", tmp_path / "out" / ".preparing-held"
    for folder in (left, held):
        folder.mkdir(parents=True)
        (folder / "rows").write_text("x")
    descriptor = os.open(held, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as a command does that is still at work
    prepare_into(source, tmp_path / "out")
    os.close(descriptor)
    assert not left.exists()
    assert (held / "rows").exists()


def test_a_folder_that_is_worked_in_is_not_taken_for_a_left_one(tmp_path: Path) -> None:
    with scratch.working_folder(tmp_path, ".making-") as first:
        with scratch.working_folder(tmp_path, ".making-") as second:
            assert first.is_dir() and second.is_dir() and first != second
        assert first.is_dir() and not second.exists()
    assert list(tmp_path.iterdir()) == []
