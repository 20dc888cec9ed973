"""`check` and `preview` of files and folders: which rows they are, which channel, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from container_src.sft.data import find_files
from container_src.sft.stand_in import make_tokenizer
from launcher.data.channels import find_rows_files
from launcher.data.checks import check_channels
from launcher.data.roles import assign_roles
from launcher.errors import DataError, RecipeError


def rows(count: int, word: str = "a") -> list[dict[str, str]]:
    return [{"prompt": f"{word} {number}?", "completion": f" Rest for {number} days."} for number in range(count)]


# a folder as a channel


def test_the_job_lists_a_folder_as_the_check_does(write_rows, tmp_path: Path) -> None:
    for name in ("many/b.jsonl", "many/a.jsonl", "many/.a.jsonl", "many/.ipynb_checkpoints/a.jsonl"):
        write_rows(name, rows(2))
    folder = tmp_path / "many"
    assert find_files(folder) == find_rows_files("train", folder) == [folder / "a.jsonl", folder / "b.jsonl"]


def test_rows_in_a_folder_below_are_refused_and_not_skipped(write_rows, tmp_path: Path) -> None:
    write_rows("fold/a.jsonl", rows(2))
    write_rows("fold/sub/b.jsonl", rows(2))
    write_rows("fold/sub/c.jsonl", rows(2))
    with pytest.raises(DataError, match=r"fold holds rows in a folder below it: sub/b.jsonl and 1 more"):
        find_rows_files("train", tmp_path / "fold")


def test_preview_refuses_what_check_refuses_in_the_same_words(launch, write_rows, tmp_path: Path) -> None:
    write_rows("fold/a.jsonl", rows(30))
    write_rows("fold/sub/b.jsonl", rows(30))
    (tmp_path / "rows.jsonl.gz").write_bytes(b"\x1f\x8b" + b"\0" * 100)
    for name in ("fold", "absent.jsonl", "rows.jsonl.gz"):
        flags = ("--train", name, "--set", "data.eval=")
        shown, checked = launch("preview", "--smoke", *flags), launch("check", *flags)
        assert (shown.returncode, shown.stderr) == (2, checked.stderr)


def test_preview_blames_a_bad_row_and_not_the_tokenizer(launch, write_rows) -> None:
    turns = [{"role": "human", "content": "a"}, {"role": "assistant", "content": "b"}]
    train = str(write_rows("train.jsonl", [{"messages": turns}] * 3))
    done = launch("preview", "--smoke", "--train", train, "--set", "data.eval=")
    assert done.returncode == 2
    assert done.stderr.startswith("error: train.jsonl:1: message 1 has the role 'human'.")
    assert "tokenizer" not in done.stderr


# which channel a file is


@pytest.mark.parametrize(
    ("names", "expected", "says"),
    [
        (["train.jsonl", "eval.jsonl"], ["train", "eval"], ""),
        (["mine.jsonl"], ["train"], "mine.jsonl is taken as train"),
        (
            ["my-train.jsonl", "my-eval.jsonl"],
            ["train", "eval"],
            "my-train.jsonl is taken as train; my-eval.jsonl is taken as eval",
        ),
        (
            ["rows.jsonl", "rows_val.jsonl"],
            ["train", "eval"],
            "rows_val.jsonl is taken as eval; rows.jsonl is taken as",
        ),
        (["train.jsonl", "evalmost.jsonl"], ["train", "evalmost"], "evalmost.jsonl is compared with no other file"),
        (["a.jsonl", "b.jsonl"], ["a", "b"], "a.jsonl, b.jsonl is compared with no other file"),
        (["train-1.jsonl", "train-2.jsonl"], ["train-1", "train-2"], "compared with no other file"),
        (["train-eval.jsonl", "x.jsonl"], ["train", "x"], "train-eval.jsonl is taken as train; x.jsonl is compared"),
    ],
)
def test_what_is_assumed_of_a_file_is_said(names: list[str], expected: list[str], says: str) -> None:
    roles = assign_roles([Path(name) for name in names], {})
    assert roles.files == {name: Path(path) for name, path in zip(expected, names, strict=True)}
    assert says in roles.assumed and bool(says) == bool(roles.assumed)


def test_a_flag_says_more_than_a_name() -> None:
    roles = assign_roles([Path("my-train.jsonl")], {"train": Path("x.jsonl")})
    assert roles.files == {"train": Path("x.jsonl"), "my-train": Path("my-train.jsonl")}
    with pytest.raises(RecipeError, match="eval.jsonl and y.jsonl are both the eval channel by name"):
        assign_roles([Path("eval.jsonl")], {"eval": Path("y.jsonl")})


def test_files_by_other_names_are_held_against_each_other(launch, write_rows, tmp_path: Path) -> None:
    write_rows("my-train.jsonl", rows(30))
    write_rows("my-eval.jsonl", rows(28))
    done = launch("check", "my-train.jsonl", "my-eval.jsonl")
    assert done.returncode == 2
    assert "28 of 28 rows also trained on" in done.stderr
    assert "note: my-train.jsonl is taken as train; my-eval.jsonl is taken as eval. --train, --eval and" in done.stderr
    answer = json.loads(launch("check", "my-train.jsonl", "--json").stdout)
    assert answer["channels"][0]["name"] == "train" and "taken as train" in answer["assumed"]


def test_a_folder_that_prepare_wrote_is_its_channels(launch, tmp_path: Path) -> None:
    assert launch("prepare", "tinyllama-healthcare-qa-exp_001", "--out", "made").returncode == 0
    done = launch("check", "made", "--json")
    assert done.returncode == 0, done.stderr
    assert [channel["name"] for channel in json.loads(done.stdout)["channels"]] == ["train", "eval", "test"]
    as_one = launch("plan", "--train", "made", "--set", "data.eval=")
    assert as_one.returncode == 2
    assert "made is what `launcher prepare` wrote: several channels, not one." in as_one.stderr


def test_what_is_no_file_of_rows_is_told_apart(launch, write_rows, tmp_path: Path) -> None:
    write_rows("rows.jsonl", rows(30))
    (tmp_path / "mine.toml").write_text("")
    among = launch("check", "mine.toml", "rows.jsonl")
    assert (among.returncode, "mine.toml is a recipe, and stands among files of rows" in among.stderr) == (2, True)
    away = launch("plan", "--train", "s3://bucket/x.jsonl", "--set", "data.eval=")
    assert (away.returncode, "rows are to come from s3://bucket/x.jsonl" in away.stderr) == (2, True)
    assert "[[data.sources]]" in away.stderr
    (tmp_path / "empty").mkdir()
    here = launch("check", ".", cwd=tmp_path / "empty")
    assert here.returncode == 2
    assert "holds no .jsonl file for the train channel" in here.stderr


# a tokenizer that was asked for


@pytest.mark.parametrize("name", ["some/typo", "folder", "broken"])
def test_a_tokenizer_that_is_named_must_be_had(launch, write_rows, tmp_path: Path, name: str) -> None:
    write_rows("train.jsonl", rows(30))
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer_config.json").write_text("{}")
    done = launch("check", "train.jsonl", "--tokenizer", name)
    assert done.returncode == 2, done.stderr
    first, hint = done.stderr.splitlines()[-2:]
    assert first.startswith("error: The rows cannot be counted in tokens: ") and name in first
    assert len(first) < 400 and "tokenizer" in hint


def test_a_tokenizer_of_a_folder_still_counts(launch, write_rows, tmp_path: Path) -> None:
    write_rows("chat.jsonl", rows(30))
    make_tokenizer(["What helps?"] * 4, "qwen2").save_pretrained(tmp_path / "mine")
    done = launch("check", "chat.jsonl", "--tokenizer", "mine")
    assert done.returncode == 0, done.stderr
    assert "train in tokens" in done.stdout


@pytest.mark.parametrize(
    "text",
    ['{"instruction": "a", "input": "b", "output": "c"}\n', "question,answer\n", '[{"text": "a"}]\n', "[\n{\n"],
    ids=["columns", "csv", "array", "pretty"],
)
def test_rows_in_another_form_are_sent_to_prepare(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        check_channels({"train": tmp_path / "train.jsonl"}).refuse()
    assert "`launcher prepare` makes rows of CSV, JSON and other columns" in caught.value.hint
    (tmp_path / "train.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(DataError) as caught:
        check_channels({"train": tmp_path / "train.jsonl"}).refuse()
    assert "prepare" not in caught.value.hint


def test_rows_that_a_flag_puts_aside_are_named(launch, write_rows) -> None:
    write_rows("mine.jsonl", rows(30))
    flags = ("tinyllama-healthcare-qa-exp_001", "--train", "mine.jsonl")
    says = "data.train names the rows, so the recipe's sources are left out, for eval and test as well"
    assert f"note: {says}." in launch("check", *flags, "--no-tokens").stderr
    assert says in launch("plan", *flags).stdout
