"""`preview` against what the trainer's first batch holds, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from container_src.sft.batches import Padding, StepDataset
from container_src.sft.data import encode, load_rows
from container_src.sft.model import Base, load_tokenizer, safe_pad_id
from container_src.sft.stand_in import save_tokenizer
from container_src.sft.steps import make_steps
from launcher.plan import find_prepared, find_row_files
from launcher.recipe import Recipe, load_recipe, shipped_recipes

CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} and {number}?"},
            {"role": "assistant", "content": f"It is {2 * number}."},
            {"role": "user", "content": "Are you sure?"},
            {"role": "assistant", "content": "I am."},
        ]
    }
    for number in range(20)
]


def make_first_step(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The first optimizer step's tensors, built as the job builds them."""
    config = recipe.config
    rows = load_rows(find_row_files(recipe, find_prepared(recipe))["train"])
    save_tokenizer(Base(config.model_name_or_path, config.model_name_or_path), config, rows, folder)
    tokenizer = load_tokenizer(Base(str(folder), "base"), config)
    train = [encode(row, tokenizer, config) for row in rows]
    steps = make_steps(len(train), config.effective_batch_size, 1, config.seed)
    length = config.max_length if config.padding == "max_length" else 0
    padding = Padding(safe_pad_id(tokenizer, len(tokenizer)), length)
    return StepDataset(train, steps, config.per_device_train_batch_size, padding, 0, 1)[0]


def rows_of(step: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Each row's ids and labels without its padding."""
    found = []
    for batch in step["batches"]:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            length = int(mask.sum())
            assert all(label == -100 for label in labels[length:].tolist())
            found.append((ids[:length].tolist(), labels[:length].tolist()))
    return found


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_preview_is_the_trainers_first_batch(name: str, launch, tmp_path: Path) -> None:
    recipe = load_recipe(name, smoke=True)
    first = rows_of(make_first_step(recipe, tmp_path / "base"))
    count = str(recipe.config.effective_batch_size)
    done = launch("preview", name, "--smoke", "-n", count, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)["rows"]
    assert [(row["input_ids"], row["labels"]) for row in shown] == first


def test_preview_is_the_trainers_first_batch_where_rows_are_cut_or_are_chats(
    launch, tmp_path: Path, write_rows
) -> None:
    train = str(write_rows("chat.jsonl", CHAT))
    settings = {"data.train": train, "data.eval": "", "data.max_length": 50}
    first = rows_of(make_first_step(load_recipe(None, settings, smoke=True), tmp_path / "base"))
    done = launch(
        "preview",
        "--smoke",
        "--train",
        train,
        "--set",
        "data.eval=",
        "--set",
        "data.max_length=50",
        "-n",
        "8",
        "--json",
    )
    rows = json.loads(done.stdout)["rows"]
    assert [(row["input_ids"], row["labels"]) for row in rows] == first
    assert any(row["truncated"] for row in rows)
    for row in rows:
        parts = row["segments"]
        assert sum(part["tokens"] for part in parts if part["kind"] != "cut") == len(row["input_ids"])
        masked = sum(part["tokens"] for part in parts if part["kind"] == "masked")
        assert masked == sum(label == -100 for label in row["labels"])


def test_marks_show_what_is_trained_and_what_is_cut(launch, write_rows) -> None:
    train = str(write_rows("mine.jsonl", [{"prompt": "Say yes:", "completion": " yes"}] * 30))
    words = ("preview", "--smoke", "--train", train, "--set", "data.eval=", "-n", "1")
    assert "\nSay yes:[[ yes]][[<|endoftext|>]]\n" in launch(*words).stdout
    tokens = launch(*words, "--ids").stdout.partition("LABEL")[2].splitlines()[1:]
    assert tokens[0].split()[2] == "-" and tokens[-1].split()[1] == tokens[-1].split()[2]
    cut = launch(*words, "--set", f"data.max_length={len(tokens) - 1}").stdout
    assert "~~<|endoftext|>~~" in cut and "and its end token is lost" in cut


def test_a_row_that_the_trainer_refuses_says_so(launch, write_rows) -> None:
    train = str(write_rows("mine.jsonl", [{"prompt": "a long question " * 9, "completion": "x"}] * 5))
    done = launch(
        "preview", "--smoke", "--train", train, "--set", "data.eval=", "--set", "data.max_length=4", "-n", "1"
    )
    assert done.returncode == 0, done.stderr
    assert "refused: mine.jsonl:" in done.stdout and "Raise max_length" in done.stdout


def test_other_channels_come_in_the_order_of_their_file(launch) -> None:
    done = launch("preview", "tinyllama-healthcare-qa-exp_001", "--smoke", "--channel", "test", "-n", "2", "--json")
    assert [(row["file"], row["line"]) for row in json.loads(done.stdout)["rows"]] == [
        ("test.jsonl", 1),
        ("test.jsonl", 2),
    ]
    missing = launch("preview", "--smoke", "--channel", "test")
    assert (missing.returncode, "has no test channel; it has train, eval" in missing.stderr) == (2, True)


def test_a_tokenizer_from_a_folder_and_one_that_cannot_be_had(launch, tmp_path: Path) -> None:
    recipe = load_recipe(None, smoke=True)
    make_first_step(recipe, tmp_path / "base")
    done = launch("preview", "--model", "base", "-n", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokenizer"] == str(tmp_path / "base")
    away = launch("preview", "-n", "1")
    assert away.returncode == 2
    assert "--smoke" in away.stderr and "Traceback" not in away.stderr


def test_control_characters_of_a_row_do_not_reach_the_terminal(launch, write_rows) -> None:
    train = str(write_rows("mine.jsonl", [{"text": "red \x1b[31m alert"}] * 3))
    shown = launch("preview", "--smoke", "--train", train, "--set", "data.eval=", "-n", "1").stdout
    assert "\x1b" not in shown and "\\x1b[31m" in shown


def test_a_rows_own_signs_cannot_be_taken_for_marks(launch, write_rows) -> None:
    row = {"prompt": "use [[x]] ~~y~~ [", "completion": "a[[1]] [b]"}
    train = str(write_rows("mine.jsonl", [row] * 3))
    shown = launch("preview", "--smoke", "--train", train, "--set", "data.eval=", "-n", "1").stdout
    assert "\nuse \\[\\[x\\]\\] \\~\\~y\\~\\~ \\[[[a\\[\\[1\\]\\] [b\\]]][[<|endoftext|>]]\n" in shown


def test_names_do_not_reach_the_terminal_as_they_are(launch, write_rows) -> None:
    write_rows("red\x1b[31m.jsonl", [{"text": "a row"}] * 3)
    write_rows("bad\x1b[31m.jsonl", [{"text": ""}])
    for words in (
        ("check", "red\x1b[31m.jsonl"),
        ("check", "bad\x1b[31m.jsonl"),
        ("plan", "--train", "red\x1b[31m.jsonl", "--set", "data.eval="),
        ("preview", "--smoke", "-n", "1", "--train", "red\x1b[31m.jsonl", "--set", "data.eval="),
    ):
        done = launch(*words)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\\x1b[31m.jsonl" in done.stdout + done.stderr
