"""`prepare` as a user runs it: the shipped recipes, S3, a run that is broken off, and a submit of what was prepared."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.recipe import load_recipe, shipped_recipes

COUNTS = {
    "gemma-2b-text-to-sql": {"train": 160, "eval": 40},
    "tinyllama-chatdoctor": {"train": 160, "eval": 40},
    "tinyllama-healthcare-qa-exp_001": {"train": 232, "eval": 29, "test": 29},
    "tinyllama-healthcare-qa-exp_002": {"train": 232, "eval": 29, "test": 29},
    "tinyllama-healthcare-qa-exp_003": {"train": 232, "eval": 29, "test": 29},
}
RECIPE = '[[data.sources]]\npath = "{path}"\n[data.prepare]\ntemplate = "{{question}}"\nsplit = [4, 1]\n'


def test_every_shipped_recipe_with_sources_is_counted_here() -> None:
    with_sources = {name for name in shipped_recipes() if load_recipe(name).data.sources}
    assert with_sources == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_shipped_recipe_is_prepared(name: str, launch, tmp_path: Path) -> None:
    done = launch("prepare", name, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert {channel: found["rows"] for channel, found in summary["channels"].items()} == COUNTS[name]
    for channel, rows in COUNTS[name].items():
        assert len((tmp_path / "data" / f"{channel}.jsonl").read_text("utf-8").splitlines()) == rows
    if "sql" in name:
        assert summary["bad_sql"] == 3
    if "healthcare" in name:
        assert summary["dropped"] == {"duplicate": 7, "question is empty": 3, "answer is empty": 3}


def test_what_is_prepared_is_what_a_plan_takes_and_the_words_to_submit_it_are_said(launch, tmp_path: Path) -> None:
    name = "tinyllama-chatdoctor"
    prepared = launch("prepare", name, "--out", "mine")
    assert "READ" in prepared.stdout and "CHANNEL" in prepared.stdout
    flags = prepared.stderr.split(f"launcher submit {name} ")[1].split("`")[0].split()
    assert flags == ["--train", "mine/train.jsonl", "--eval", "mine/eval.jsonl"]
    plans = [json.loads(launch("plan", name, "--json", *more).stdout) for more in ([], flags)]
    uris = [[channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in plan["InputDataConfig"]] for plan in plans]
    assert uris[0] == uris[1]


def test_ready_channels_lose_their_repeats_and_what_they_share(launch, write_rows, tmp_path: Path) -> None:
    train = write_rows("train.jsonl", [{"text": text} for text in ("one", "two", "two", "three")])
    held_out = write_rows("eval.jsonl", [{"text": text} for text in ("three", "four")])
    (tmp_path / "my.toml").write_text(f'[data]\ntrain = "{train.name}"\neval = "{held_out.name}"\n')
    done = launch("prepare", "my.toml", "--json", "--out", "clean")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dropped"] == {"duplicate": 2}
    rows = {name: (tmp_path / "clean" / f"{name}.jsonl").read_text().count("\n") for name in ("train", "eval")}
    assert rows == {"train": 3, "eval": 1}
    assert '"four"' in (tmp_path / "clean" / "eval.jsonl").read_text()


def test_sources_in_s3_are_fetched_first(launch, endpoint, tmp_path: Path) -> None:
    from launcher.aws import s3
    from launcher.aws.session import open_session

    session = open_session("local")
    session.client("s3").create_bucket(Bucket="raw-rows")
    for name, numbers in (("part/a.csv", range(30)), ("part/deep/b.csv", range(30, 60))):
        content = "question\n" + "".join(f"{number}\n" for number in numbers)
        s3.put_bytes(session, content.encode(), "raw-rows", name)
    s3.put_bytes(session, b"no rows", "raw-rows", "part/README.md")
    for path, kept in (("s3://raw-rows/part/", 60), ("s3://raw-rows/part", 60), ("s3://raw-rows/part/a.csv", 30)):
        (tmp_path / "my.toml").write_text(RECIPE.format(path=path))
        done = launch("prepare", "my.toml", "--instance", "local", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["kept"] == kept
    (tmp_path / "my.toml").write_text(RECIPE.format(path="s3://raw-rows/nothing/"))
    missing = launch("prepare", "my.toml", "--instance", "local")
    assert (missing.returncode, "neither an object nor a folder" in missing.stderr) == (2, True)
    planned = launch("plan", "my.toml", "--instance", "local")
    assert (planned.returncode, "launcher prepare" in planned.stderr) == (2, True)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with (tmp_path / "big.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question",), *((f"{number} " + "why " * 100,) for number in range(100_000))])
    (tmp_path / "my.toml").write_text(RECIPE.format(path="big.csv"))
    command = subprocess.Popen(
        [sys.executable, "-m", "launcher", "prepare", "my.toml", "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob(".preparing-*/rows")):
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.01)
    command.send_signal(signal.SIGINT)
    _, talk = command.communicate(timeout=120)
    assert (command.returncode, talk) == (130, b"")
    assert list((tmp_path / "out").iterdir()) == []


def test_submit_prepares_by_itself_and_trains_on_it(launch, endpoint) -> None:
    steps = ("--set", "training.max_steps=2", "--set", "training.logging_steps=1")
    done = launch(
        "submit", "tinyllama-healthcare-qa-exp_003", "--instance", "local", "--name", "prepared", "--json", *steps
    )
    assert done.returncode == 0, done.stderr
    assert "note: prepared from 2 sources: 290 of 303 rows kept" in done.stderr
    assert "Rows: 232 train, 29 eval, 29 test." in done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
