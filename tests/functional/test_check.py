"""`check` as a user meets it: the words, the exit codes, JSON, tokens; and that plan and submit say the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from container_src.sft.config import TrainConfig
from container_src.sft.stand_in import make_tokenizer
from launcher.data import tokens
from launcher.data.channels import confirm_unchanged, rows_channel
from launcher.data.rows import check_file
from launcher.data.tokens import count_tokens
from launcher.errors import DataError


def _rows(count: int, word: str) -> list[dict[str, str]]:
    return [{"prompt": f"{word} {number}?", "completion": f" Rest for {number} days."} for number in range(count)]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small real tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    made = make_tokenizer([row["prompt"] + row["completion"] for row in _rows(50, "What helps")], "qwen2")
    made.save_pretrained(folder)
    return folder


def test_sound_files_are_accepted_and_counted(launch, write_rows, tokenizer: Path) -> None:
    write_rows("train.jsonl", _rows(60, "a"))
    write_rows("eval.jsonl", _rows(30, "b"))
    done = launch("check", "train.jsonl", "eval.jsonl", "--tokenizer", str(tokenizer))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["train", "60", "completion"]
    assert "train in tokens" in done.stdout and "eval in tokens" in done.stdout
    assert "truncated       0 of 60 rows (0.0%) at 1,024" in done.stdout
    assert "########################################" in done.stdout
    assert done.stderr == ""


def test_without_a_tokenizer_it_says_what_was_not_checked(launch, write_rows) -> None:
    write_rows("train.jsonl", _rows(60, "a"))
    done = launch("check", "train.jsonl")
    assert done.returncode == 0
    assert "note: not checked: how long rows are in tokens" in done.stderr
    assert "Give --tokenizer FOLDER" in done.stderr


def test_a_shipped_recipe_is_checked_by_name(launch) -> None:
    done = launch("check", "llama2-lora")
    assert done.returncode == 0, done.stderr
    assert "(the Hub cannot be reached). Give --tokenizer FOLDER" in done.stderr


def test_check_plan_and_submit_refuse_in_the_same_words(launch, write_rows) -> None:
    write_rows("train.jsonl", [*_rows(30, "a"), {"prompt": "q", "completion": ""}, {"prompt": 7}])
    said = []
    for words in (["check"], ["plan"], ["submit", "--instance", "local"]):
        done = launch(*words, "--train", "train.jsonl", "--set", 'data.eval=""')
        assert done.returncode == 2
        said.append(done.stderr[done.stderr.index("error: ") :])
    assert said[0] == said[1] == said[2]
    assert 'train.jsonl:31: "completion" is empty. Fix the row or drop it.' in said[0]
    assert 'train.jsonl:32: "prompt" is a number. It must be text.' in said[0]


def test_plan_repeats_the_warnings(launch, write_rows) -> None:
    write_rows("train.jsonl", [*_rows(30, "a"), *_rows(2, "a")])
    done = launch("plan", "--train", "train.jsonl", "--set", 'data.eval=""')
    assert done.returncode == 0, done.stderr
    assert "train.jsonl:31: the first of 2 rows that repeats an earlier one, here train.jsonl:1." in done.stdout


def test_json_is_for_programs(launch, write_rows, tokenizer: Path) -> None:
    write_rows("train.jsonl", [*_rows(30, "a"), {"prompt": "q"}])
    refused = launch("check", "train.jsonl", "--json")
    assert refused.returncode == 2
    answer = json.loads(refused.stdout)
    assert answer["refused"] is True
    assert answer["findings"] == [
        {
            "level": "error",
            "channel": "train",
            "file": "train.jsonl",
            "line": 31,
            "field": "completion",
            "count": 1,
            "problem": '"completion" is missing. It must be text.',
        }
    ]
    write_rows("train.jsonl", _rows(30, "a"))
    taken = json.loads(launch("check", "train.jsonl", "--json", "--tokenizer", str(tokenizer)).stdout)
    assert taken["refused"] is False and taken["unchecked"] == ""
    assert sum(bar["rows"] for bar in taken["tokens"][0]["histogram"]) == taken["tokens"][0]["rows"] == 30


def test_the_cut_is_told_and_what_it_ruins_is_refused(launch, write_rows, tokenizer: Path) -> None:
    rows = _rows(30, "a")
    rows[4] = {"prompt": "long " * 40, "completion": " Rest."}
    rows[6] = {"prompt": "q", "completion": " word" * 40}
    write_rows("train.jsonl", rows)
    done = launch("check", "train.jsonl", "--tokenizer", str(tokenizer), "--max-length", "40")
    assert done.returncode == 2
    assert "train.jsonl:5: no token of its answer is left after the cut at max_length = 40" in done.stderr
    assert "1 of 29 rows lose their end token to the cut at max_length = 40" in done.stderr
    done = launch("check", "train.jsonl", "--tokenizer", str(tokenizer), "--max-length", "5")
    assert done.returncode == 2
    assert "no row keeps its end token after the cut at max_length = 5" in done.stderr


def test_a_template_that_writes_no_end_is_refused(write_rows, tmp_path: Path) -> None:
    made = make_tokenizer(["a b c"], "qwen2")
    made.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    )
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write_rows("train.jsonl", [{"messages": turns}])
    report = count_tokens("train", [check_file("train", path)], made, TrainConfig())
    assert ["no row trains an end token" in finding.problem for finding in report.findings()] == [True]


def test_tokens_over_many_processes_are_those_of_one(
    write_rows, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = _rows(400, "a")
    rows[333] = {"prompt": "long " * 60, "completion": " Rest."}
    file = check_file("train", write_rows("train.jsonl", rows))
    made = tokens.find_tokenizer(str(tokenizer), TrainConfig())
    alone = count_tokens("train", [file], made, TrainConfig(max_length=50))
    monkeypatch.setattr(tokens, "PART_BYTES", 4096)
    monkeypatch.setattr(tokens, "count_processors", lambda: 2)
    together = count_tokens("train", [file], made, TrainConfig(max_length=50))
    assert together.as_json() == alone.as_json()
    assert [str(error) for error in together.tally.refused] == [str(error) for error in alone.tally.refused]
    assert together.tally.refused[0].line == 334


def test_what_is_no_channel_ends_with_exit_code_2(launch, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "rows.jsonl.gz").write_bytes(b"\x1f\x8b" + b"\0" * 1000)
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("train.jsonl", "loop.jsonl", "rows.jsonl.gz", "pipe.jsonl", "absent.jsonl"):
        done = launch("check", name)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), name


def test_an_endless_line_is_refused_in_bounded_memory(launch, tmp_path: Path) -> None:
    with (tmp_path / "train.jsonl").open("wb") as file:
        file.truncate(500_000_000)  # a hole: 500 MB of NUL bytes, and one line
    script = "import resource; resource.setrlimit(resource.RLIMIT_AS, (700_000_000, 700_000_000))"
    (tmp_path / "sitecustomize.py").write_text(script)
    done = launch("check", "train.jsonl", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert done.returncode == 2, done.stderr
    assert "train.jsonl:1: the line is longer than 16 MiB. Split it into rows, or drop it." in done.stderr


# between the check and the upload


def test_the_digest_decides_whether_a_file_is_the_one_that_was_checked(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a"}\n')
    upload = rows_channel("train", path).uploads[0]
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    confirm_unchanged(upload)  # touched, and still what was checked
    path.write_text('{"text": "b"}\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="changed after it was checked"):
        confirm_unchanged(upload)
    path.unlink()
    with pytest.raises(DataError, match="changed after it was checked"):
        confirm_unchanged(upload)


def test_a_file_touched_while_it_is_sent_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a"}\n')
    upload = rows_channel("train", path).uploads[0]
    seen = confirm_unchanged(upload)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="changed after it was checked"):
        confirm_unchanged(upload, seen)


def test_an_unknown_flag_is_shown_beside_the_verbs_own(launch) -> None:
    done = launch("check", "--smoke")
    assert done.returncode == 2
    assert "usage: launcher check" in done.stderr and "--tokenizer" in done.stderr
    assert "unrecognized arguments: --smoke" in done.stderr
