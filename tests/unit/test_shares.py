"""A share that the split could not give is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.data.preparing import Prepared, load_prepared, prepare_channels
from launcher.data.settings import Prepare, Source
from launcher.data.sources import find_inputs


def run(folder: Path, texts: list[str], prepare: Prepare, channel: str = "") -> Prepared:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "lang": text[:2]}) + "\n" for text in texts))
    sources = [Source(path=str(path))]
    if channel:
        (folder / "own.jsonl").write_text('{"text": "own", "lang": "xx"}\n')
        sources.append(Source(path=str(folder / "own.jsonl"), channel="eval"))
    return prepare_channels(find_inputs(sources, lambda address: []), [], prepare, folder / "out")


LANGUAGES = [f"{'en' if number % 2 else 'de'} {number}" for number in range(500)]


def test_few_large_groups_are_said(tmp_path: Path) -> None:
    prepared = run(tmp_path, LANGUAGES, Prepare(split_by=("lang",)))
    assert any(note.startswith("eval got 0 of 500 rows, not its 10%: rows of the same lang") for note in prepared.notes)
    assert load_prepared(tmp_path / "out").notes == prepared.notes


def test_a_channel_of_its_own_does_not_hide_a_missed_share(tmp_path: Path) -> None:
    prepared = run(tmp_path, LANGUAGES, Prepare(split_by=("lang",)), channel="eval")
    assert any("eval got 0 of 500 rows" in note for note in prepared.notes)


def test_too_few_rows_are_said(tmp_path: Path) -> None:
    prepared = run(tmp_path, ["a", "b"], Prepare())
    assert len(prepared.notes) == 2
    assert all("there are too few rows to share out" in note for note in prepared.notes)


def test_rows_that_repeat_are_said_where_they_are_kept(tmp_path: Path) -> None:
    prepared = run(tmp_path, ["a"] * 50 + ["b"] * 50, Prepare(deduplicate=False))
    assert any("equal rows stay together" in note for note in prepared.notes)


@pytest.mark.parametrize("rows", [10, 11, 25, 500])
@pytest.mark.parametrize("split", [(80, 10, 10), (1,), (9, 1), (1, 0, 1)])
def test_a_split_that_is_exact_needs_no_words(rows: int, split: tuple[int, ...], tmp_path: Path) -> None:
    assert run(tmp_path, [str(number) for number in range(rows)], Prepare(split=split)).notes == ()


def test_many_small_groups_need_no_words(tmp_path: Path) -> None:
    texts = [f"{number % 50:02} {number}" for number in range(500)]
    assert run(tmp_path, texts, Prepare(split_by=("lang",))).notes == ()
