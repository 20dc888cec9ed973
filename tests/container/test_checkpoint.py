"""Which checkpoint a job continues from."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_src.sft.checkpoint import (
    MARKER,
    REPLACED,
    CheckpointError,
    Origin,
    clean_staging,
    find_newest,
    list_checkpoints,
    prune,
    publish,
    staging_folder,
)

ORIGIN = Origin("recipe-a", "data-a")


def _save(root: Path, step: int, text: str = "weights") -> Path:
    staged = staging_folder(root, step) / f"checkpoint-{step}"
    (staged / "deep").mkdir(parents=True)
    (staged / "adapter_model.safetensors").write_text(text)
    (staged / "deep" / "rng_state.pth").write_text("state")
    return publish(root, step, ORIGIN).path


def test_newest_is_by_number_and_not_by_name(tmp_path: Path) -> None:
    for step in (908, 1000, 99):
        _save(tmp_path, step)
    newest = find_newest(tmp_path, ORIGIN)
    assert newest is not None and newest.step == 1000
    assert [found.step for found in list_checkpoints(tmp_path)] == [99, 908, 1000]


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert find_newest(tmp_path / "missing", ORIGIN) is None


@pytest.mark.parametrize(
    "damage", ["no marker", "missing file", "short file", "changed file", "garbled marker", "odd marker"]
)
def test_a_broken_one_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _save(tmp_path, 5)
    broken = _save(tmp_path, 10)
    if damage == "no marker":
        (broken / MARKER).unlink()
    elif damage == "missing file":
        (broken / "deep" / "rng_state.pth").unlink()
    elif damage == "short file":
        (broken / "adapter_model.safetensors").write_text("w")
    elif damage == "changed file":  # of the same size
        (broken / "adapter_model.safetensors").write_text("wEights")
    elif damage == "odd marker":
        (broken / MARKER).write_text('{"files": {"adapter_model.safetensors": 7}}')
    else:
        (broken / MARKER).write_text('{"files": 3')
    newest = find_newest(tmp_path, ORIGIN)
    assert newest is not None and newest.step == 5
    assert "checkpoint-10 is passed over" in capsys.readouterr().out


def test_a_save_that_was_killed_is_invisible_and_cleaned(tmp_path: Path) -> None:
    (staging_folder(tmp_path, 5) / "checkpoint-5").mkdir(parents=True)
    assert find_newest(tmp_path, ORIGIN) is None
    clean_staging(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [Origin("recipe-b", "data-a"), Origin("recipe-a", "data-b")])
def test_one_of_another_recipe_or_other_data_is_refused(tmp_path: Path, other: Origin) -> None:
    _save(tmp_path, 5)
    with pytest.raises(CheckpointError, match="belongs to another (recipe|data).*--fresh"):
        find_newest(tmp_path, other)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    again = _save(tmp_path, 5, text="newer")
    assert (again / "adapter_model.safetensors").read_text() == "newer"
    assert not staging_folder(tmp_path, 5).exists()


def test_a_kill_while_a_step_is_saved_again_loses_neither(tmp_path: Path) -> None:
    """Between the two renames the checkpoint is not in its place."""
    saved = _save(tmp_path, 5)
    staged = staging_folder(tmp_path, 5)
    (staged / "checkpoint-5").mkdir(parents=True)
    saved.rename(staged / REPLACED)
    clean_staging(tmp_path)
    newest = find_newest(tmp_path, ORIGIN)
    assert newest is not None and newest.step == 5
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_pruning_keeps_the_newest_whole_ones(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        _save(tmp_path, step)
    (_save(tmp_path, 200) / MARKER).unlink()
    prune(tmp_path, keep=2)
    assert [found.step for found in list_checkpoints(tmp_path)] == [10, 100]
