"""What only tokens tell is told by plan, submit and publish too, wherever a tokenizer lies on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from container_src.sft.config import TrainConfig
from container_src.sft.stand_in import make_tokenizer
from launcher import load_recipe, make_plan
from launcher.cli.without_torch import without_torch
from launcher.data.checking import Subject, check
from launcher.errors import DataError
from launcher.plan import Plan

CUT = "train.jsonl:3: no token of its answer is left after the cut at max_length = 64"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a base: its tokenizer is what a plan reads of it."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    make_tokenizer(["What helps against a headache?"] * 4, "qwen2").save_pretrained(folder)
    return folder


@pytest.fixture
def rows(write_rows) -> Path:
    """The third has no room for its answer within 64 tokens."""
    sound = [{"prompt": f"What helps {number}?", "completion": " Rest."} for number in range(30)]
    sound[2] = {"prompt": "why " * 100, "completion": " Rest."}
    return write_rows("train.jsonl", sound)


def plan_of(rows: Path, model: str, **other: Any) -> Plan:
    settings = {"data.train": str(rows), "data.eval": "", "data.max_length": 64, "model.id": model}
    return make_plan(load_recipe(None, {**settings, **other.pop("settings", {})}, **other))


def put_into_cache(model: Path, cache: Path, name: str) -> None:
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("c0ffee")
    (home / "snapshots").mkdir()
    (home / "snapshots" / "c0ffee").symlink_to(model)


def test_a_plan_counts_with_the_tokenizer_of_a_model_folder(rows: Path, model: Path) -> None:
    with pytest.raises(DataError, match=CUT):
        plan_of(rows, str(model))
    notes = plan_of(rows, str(model), settings={"data.max_length": 1024}).notes
    assert [note for note in notes if note.endswith("0 of 30 rows cut at max_length = 1,024")]
    assert not [note for note in notes if note.startswith("not checked")]


def test_a_plan_counts_with_the_tokenizer_in_the_hubs_cache(
    rows: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    put_into_cache(model, tmp_path / "hub", "some/model")
    with pytest.raises(DataError, match=CUT):
        plan_of(rows, "some/model")
    other = plan_of(rows, "some/model", settings={"model.revision": "v2"})
    assert any("the tokenizer of some/model is not on this machine" in note for note in other.notes)


def test_a_named_tokenizer_is_not_of_the_revision_of_the_recipes_model(
    rows: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    put_into_cache(model, tmp_path / "hub", "some/model")
    subject = Subject({"train": rows}, "other/model", TrainConfig(model_revision="v2", max_length=64))
    assert CUT in str(check(subject.counted_with("some/model")).errors[0])


def test_a_stand_in_has_tokens_of_its_own(rows: Path, model: Path) -> None:
    assert not [note for note in plan_of(rows, str(model), smoke=True).notes if "token" in note]


def test_a_row_whose_only_trouble_is_a_warning_is_noted(rows: Path, model: Path, write_rows) -> None:
    write_rows("train.jsonl", [{"prompt": "q", "completion": " Rest." * count} for count in range(1, 31)])
    notes = plan_of(rows, str(model)).notes
    assert any("lose their end token to the cut at max_length = 64" in note for note in notes)


def test_without_a_tokenizer_a_plan_says_so_and_imports_nothing_for_it(rows: Path) -> None:
    script = f"""
import sys
from launcher import load_recipe, make_plan
settings = {{"data.train": {str(rows)!r}, "data.eval": "", "model.id": "Qwen/Qwen2.5-1.5B"}}
print(*make_plan(load_recipe(None, settings, smoke=False)).notes, sep="\\n")
print(sorted(sys.modules.keys() & {{"transformers", "tokenizers", "torch"}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert "not checked: how long rows are in tokens" in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_submit_and_publish_refuse_in_the_words_of_check(launch, rows: Path, model: Path) -> None:
    flags = ("--train", str(rows), "--set", "data.eval=", "--set", "data.max_length=64")
    said = []
    for words in (["check"], ["submit", "--no-smoke"], ["publish", "--no-smoke"]):
        place = ["--instance", "local"] if words[0] != "check" else []
        done = launch(*words, *flags, *place, "--set", f"model.id={model}")
        assert done.returncode == 2, done.stderr
        said.append(done.stderr[done.stderr.index("error: ") :])
    assert said[0] == said[1] == said[2]
    assert CUT in said[0]


def test_what_keeps_torch_out_does_not_reach_what_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_NO_ADVISORY_WARNINGS", "0")
    monkeypatch.delenv("USE_TORCH", raising=False)
    with pytest.raises(DataError), without_torch():
        assert os.environ["USE_TORCH"] == "0"
        raise DataError("a refusal")
    assert "USE_TORCH" not in os.environ
    assert os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] == "0"
