"""Rows and channels: what is refused, and with which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.data.channels import folder_channel, rows_channel, s3_channel
from launcher.errors import DataError, RecipeError


def test_a_channel_is_counted_and_digested(write_rows) -> None:
    path = write_rows("rows.jsonl", [{"text": "one"}, {"text": "two"}])
    channel = rows_channel("train", path)
    assert (channel.rows, channel.shape, channel.bytes) == (2, "text", path.stat().st_size)
    assert channel.uploads[0].name == "train.jsonl"
    assert channel.key == f"data/train/{channel.digest[:16]}/"


def test_the_digest_follows_the_content_alone(write_rows) -> None:
    one = rows_channel("train", write_rows("a/x.jsonl", [{"text": "one"}]))
    other = rows_channel("train", write_rows("b/y.jsonl", [{"text": "one"}]))
    changed = rows_channel("train", write_rows("c/x.jsonl", [{"text": "two"}]))
    assert one.digest == other.digest != changed.digest


def test_a_folder_of_files_is_one_channel(write_rows, tmp_path: Path) -> None:
    write_rows("many/1.jsonl", [{"text": "one"}])
    write_rows("many/2.jsonl", [{"text": "two"}])
    channel = rows_channel("train", tmp_path / "many")
    assert (channel.rows, [upload.name for upload in channel.uploads]) == (2, ["1.jsonl", "2.jsonl"])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b'{"text": "ok"}\n{"txt": "x"}\n', "rows.jsonl:2: unknown shape"),
        (b'{"text": "ok"}\n{"text": ""}\n', 'rows.jsonl:2: "text" is empty'),
        (b'{"text": "ok"}\nnot json\n', "rows.jsonl:2: not JSON"),
        (b"[1]\n", "rows.jsonl:1: a list, not an object"),
        (b'{"text": "\xff"}\n', "rows.jsonl:1: not UTF-8"),
        (b'{"prompt": "q"}\n', 'rows.jsonl:1: "completion" is missing'),
        (b'{"prompt": "q", "completion": 3}\n', '"completion" is a number'),
        (b'{"messages": []}\n', "at least one message"),
        (b'{"messages": [{"role": "user", "content": "hi"}]}\n', "nothing to train"),
        (b'{"text": "a"}\n{"prompt": "q", "completion": "c"}\n', "mixes shapes: text (first at rows.jsonl:1)"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(tmp_path: Path, lines: bytes, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines)
    with pytest.raises(DataError) as caught:
        rows_channel("train", path)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_problems_are_shown_up_to_a_limit(write_rows) -> None:
    with pytest.raises(DataError) as caught:
        rows_channel("train", write_rows("rows.jsonl", [{"text": ""}] * 30))
    assert "and 10 more" in caught.value.message
    assert caught.value.message.count("rows.jsonl:") == 20


def test_a_missing_file_a_folder_without_rows_and_a_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        rows_channel("train", tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match=r"holds no \.jsonl"):
        rows_channel("train", tmp_path)
    with pytest.raises(DataError, match="not a file"):
        rows_channel("train", Path("/dev/null"))


def test_a_model_folder_needs_its_config(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no config.json"):
        folder_channel("model", tmp_path, wants="config.json")
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / ".hidden").write_text("x")
    assert [upload.name for upload in folder_channel("model", tmp_path, wants="config.json").uploads] == ["config.json"]


def test_an_s3_address_must_be_one() -> None:
    assert s3_channel("model", "s3://b/base").s3_uri == "s3://b/base/"
    with pytest.raises(RecipeError, match="not an S3 address"):
        s3_channel("model", "https://b/base")
