"""Every broken channel and what is said of it; what is said of whole channels; and the two ways of reading agree."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from container_src.sft.config import TrainConfig
from container_src.sft.data import RowError, encode, load_rows
from launcher.data import quick, quick_keys, rows, tally
from launcher.data.checks import check_channels
from launcher.data.rows import Tally, check_file, check_line, check_part, split_lines
from launcher.errors import DataError


def _load_table() -> ModuleType:
    path = Path(__file__).parent / "broken_rows" / "table.py"
    spec = importlib.util.spec_from_file_location("broken_rows_table", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = _load_table()


@pytest.mark.parametrize("broken", TABLE.REFUSED, ids=lambda broken: broken.name)
def test_a_broken_channel_is_refused_with_its_place_and_a_way_out(tmp_path: Path, broken: Any) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(broken.content)
    with pytest.raises(DataError) as caught:
        check_channels({"train": path}).refuse()
    assert caught.value.exit_code == 2
    said = caught.value.message.splitlines()[1:]
    assert all(f"  {says}" in said for says in broken.says.split("|")), said


@pytest.mark.parametrize("broken", [row for row in TABLE.REFUSED if row.field], ids=lambda broken: broken.name)
def test_a_finding_names_the_field(tmp_path: Path, broken: Any) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(broken.content)
    assert [error.field for error in check_channels({"train": path}).errors] == [broken.field]


@pytest.mark.parametrize("odd", TABLE.WARNED, ids=lambda odd: odd.name)
def test_an_odd_channel_is_taken_with_a_warning(tmp_path: Path, odd: Any) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(odd.content)
    report = check_channels({"train": path})
    report.refuse()
    assert odd.says in [str(warning) for warning in report.warnings]


def test_there_are_at_least_thirty() -> None:
    assert len(TABLE.REFUSED) >= 30
    assert len({broken.name for broken in TABLE.REFUSED}) == len(TABLE.REFUSED)


# whole channels


def _texts(count: int, word: str) -> list[dict[str, str]]:
    return [{"text": f"{word} {number}"} for number in range(count)]


def test_a_sound_pair_of_channels_has_no_findings(write_rows) -> None:
    paths = {
        "train": write_rows("train.jsonl", _texts(50, "a")),
        "eval": write_rows("eval.jsonl", _texts(30, "b")),
    }
    report = check_channels(paths)
    assert report.findings == ()
    assert [(channel.name, channel.rows) for channel in report.channels] == [("train", 50), ("eval", 30)]


def test_a_few_leaked_rows_are_a_warning_and_most_are_an_error(write_rows) -> None:
    train = write_rows("train.jsonl", _texts(50, "a"))
    few = write_rows("few.jsonl", [*_texts(30, "b"), {"text": "a 7"}])
    most = write_rows("most.jsonl", [*_texts(14, "b"), *_texts(16, "a")])
    report = check_channels({"train": train, "eval": few})
    assert [str(warning) for warning in report.warnings] == [
        "few.jsonl:31: 1 of 31 rows also trained on, the first here and at train.jsonl:8. They make the score look "
        "better than it is. Remove them from one of the two, or split again with `launcher prepare`."
    ]
    assert not report.errors
    with pytest.raises(DataError, match=r"most.jsonl:15: 16 of 30 rows also trained on.*learnt by heart"):
        check_channels({"train": train, "test": most}).refuse()


def test_a_leak_is_found_however_the_row_is_spelt(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(TABLE.chat(("user", "caf\u00e9"), ("assistant", "b")))
    escaped = '{"messages":[{"content":"caf\\u00e9","role":"user"},{"content":"b","role":"assistant", "id": 1}]}\n'
    (tmp_path / "eval.jsonl").write_text(escaped * 2)
    report = check_channels({"train": tmp_path / "train.jsonl", "eval": tmp_path / "eval.jsonl"})
    assert [error.count for error in report.errors] == [2]


def test_an_evaluation_of_few_rows_or_of_another_shape_is_a_warning(write_rows) -> None:
    report = check_channels(
        {
            "train": write_rows("train.jsonl", _texts(50, "a")),
            "eval": write_rows("eval.jsonl", [{"prompt": "q", "completion": "a"}]),
        }
    )
    assert [str(warning) for warning in report.warnings] == [
        "the eval channel: 1 row only, too few for a loss that means anything. Use 25 or more.",
        "the eval channel: its rows are completion and those of train are text, so their losses cannot be compared. "
        "Use one shape for both.",
    ]


def test_places_are_counted_over_files_and_blank_lines(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "1.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    (folder / "2.jsonl").write_text('\n\n{"text": "b"}\n{"text": ""}\n')
    report = check_channels({"train": folder})
    assert [(error.file, error.line) for error in report.errors] == [("2.jsonl", 4)]
    assert "2.jsonl:3: a row that repeats an earlier one, here 1.jsonl:3." in str(report.warnings[0])


def test_errors_are_counted_beyond_those_that_are_shown(write_rows) -> None:
    with pytest.raises(DataError) as caught:
        check_channels({"train": write_rows("train.jsonl", [{"text": ""}] * 1234)}).refuse()
    assert caught.value.message.splitlines()[-1].strip() == "and 1,214 more"
    assert caught.value.message.count("train.jsonl:") == 20


# what is no file of rows


@pytest.mark.parametrize("kind", ["folder", "loop", "dangling", "fifo", "device", "gz", "holds_gz", "holds_folder"])
def test_what_is_no_file_of_rows_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "train.jsonl"
    if kind == "folder":
        path.mkdir()
        says = "is a folder, though its name is a file's"
    elif kind == "loop":
        path.symlink_to(path)
        says = "is a link that leads nowhere"
    elif kind == "dangling":
        path.symlink_to(tmp_path / "absent")
        says = "is a link that leads nowhere"
    elif kind == "fifo":
        os.mkfifo(path)
        says = "is not a file"
    elif kind == "device":
        path, says = Path("/dev/zero"), "is not a file"
    elif kind == "gz":
        path, says = tmp_path / "train.jsonl.gz", "is compressed"
        path.write_bytes(b"\x1f\x8b")
    elif kind == "holds_gz":
        path, says = tmp_path / "many", "train.jsonl.gz is compressed"
        path.mkdir()
        (path / "a.jsonl").write_bytes(TABLE.GOOD)
        (path / "train.jsonl.gz").write_bytes(b"\x1f\x8b")
    else:
        path, says = tmp_path / "many", "a.jsonl is not a file"
        (path / "a.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match=says) as caught:
        check_channels({"train": path})
    assert caught.value.exit_code == 2


def test_a_fifo_that_takes_a_files_place_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="is not a plain file"):
        check_file("train", tmp_path / "train.jsonl")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(TABLE.GOOD * 1000)

    def append(count: int) -> None:
        with path.open("ab") as file:
            file.write(TABLE.GOOD)

    with pytest.raises(DataError, match="changed while it was being checked"):
        check_file("train", path, append)


# parts and blocks


def test_a_file_in_many_parts_is_as_one_in_a_single_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"text": f"row {number} " + "x" * (number % 700)}) for number in range(900)]
    lines[100] = ""
    lines[333] = '{"text": 1}'
    lines[500] = json.dumps({"text": "y" * 40_000})
    lines[700] = json.dumps({"text": "z\0", "id": 1})
    lines[899] = lines[898]
    path.write_text("\n".join(lines), encoding="utf-8")
    whole = check_file("train", path)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1024)
    blocks = check_file("train", path)
    monkeypatch.setattr(rows, "MAX_LINE_BYTES", 30_000)
    capped = check_file("train", path)
    assert blocks == whole
    assert len(whole.tally.identities) == len(capped.tally.identities) == 900
    assert [problem.line for problem in capped.tally.problems] == [334, 501]


def test_many_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"text": f"row {number % 800}"}) for number in range(1000)]
    lines[777] = '{"text": 1}'
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    alone = check_file("train", path)
    monkeypatch.setattr(rows, "count_processors", lambda: 2)
    monkeypatch.setattr(rows._split, "__defaults__", (2048,))
    together = check_file("train", path)
    assert together == alone
    assert together.tally.problems[0].line == 778


# the quick way and the exact way


def _exactly(content: bytes) -> Tally:
    tally = Tally()
    for line in split_lines(content):
        check_line(line, tally)
    return tally


def _as_checked(content: bytes) -> Tally:
    """The whole way, on a file that is nowhere."""
    descriptor = os.memfd_create("rows")
    try:
        os.write(descriptor, content)
        return check_part(descriptor, range(len(content)))
    finally:
        os.close(descriptor)


def _assert_same(found: Tally, exact: Tally) -> None:
    for one in (found, exact):
        if "crlf" in one.remarks:
            one.remarks["crlf"].line = 0  # a block's first line stands for it
    assert found == exact


def _assert_agreement(content: bytes) -> None:
    """Whatever a quick way takes, the exact way takes too: the same rows, and the same remarks."""
    if len(content) <= rows.MAX_LINE_BYTES:  # of which only blocks know
        _assert_same(_as_checked(content), _exactly(content))
    exact = _exactly(content)
    for shape in quick.SHAPES:
        identities = quick.accept(content, shape)
        if identities is not None:
            assert exact.problems == []
            assert list(exact.shapes) == [shape]
            assert identities == exact.identities.tolist()
            assert exact.remarks.keys() <= {"crlf", "long"}  # those are the caller's


@pytest.mark.parametrize("broken", [*TABLE.REFUSED, *TABLE.WARNED], ids=lambda broken: broken.name)
def test_both_ways_agree_on_every_broken_channel(broken: Any) -> None:
    _assert_agreement(broken.content)


def test_the_quick_way_takes_ordinary_rows() -> None:
    chats = TABLE.chat(("user", 'a \\"quoted\\" \\\\ word\\n'), ("assistant", "b")) * 3
    pairs = b'{"prompt": "", "completion": "a \\"b\\" \xc3\xa9 \\u00e9"}\r\n' * 3
    assert quick.accept(TABLE.GOOD * 3, "text")
    assert quick.accept(TABLE.GOOD * 3 + TABLE.GOOD.strip(), "text")
    assert quick.accept(chats, "messages")
    assert quick.accept(pairs, "completion")


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("text", '{"id": 1, "text": "a", "tags": ["x", {"y": "z"}], "ok": true, "none": null}'),
        ("completion", '{"prompt": "", "id": "a \\"b\\"", "completion": "c", "text": "beside"}'),
        ("messages", TABLE.chat(("user", "a"), ("assistant", "b")).decode().strip()[:-1] + ', "score": 0.5}'),
    ],
)
def test_the_quick_way_takes_rows_with_further_keys(shape: Any, row: str) -> None:
    lines = [row] * 3
    plain = json.loads(row)
    lines[1] = json.dumps({key: plain[key] for key in rows.TRAINED_KEYS[shape]})
    content = "\n".join(lines).encode()
    taken = quick_keys.accept(content, shape)
    assert taken and (taken.with_keys, taken.first) == (2, 0)
    assert set(taken.keys) == plain.keys() - rows.TRAINED_KEYS[shape]
    assert len(set(taken.identities)) == 1  # what is not trained makes no other row of it
    _assert_agreement(content)
    _assert_agreement(lines[1].encode() + b"\n" + content)


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "a", "id": 1, "id": 2}',
        '{"text": "a", "id": {"b": 1, "b": "c"}}',
        '{"text": "a", "i\\u0064": 1, "id": 2}',
        '{"text": "a", "id": ' + "1" * 5000 + "}",
        '{"text": "a", "id": ' + "[" * 400 + "]" * 400 + "}",
        '{"text": "a", "id": NaN}',
        '{"text": "a", "id": "\\ud800"}',
        '{"text": "a", "prompt": "b"}',
        '{"text": "a", "completion": 1}',
        '{"text": " ", "id": 1}',
        '{"text": "a", "": 1}',
        '{"text": "a", "\\u0000\\"": 1}',
        "{" + ", ".join(f'"k{number}": 1' for number in range(25)) + ', "text": "a"}',
    ],
)
def test_rows_with_odd_further_keys_get_the_closer_look(row: str) -> None:
    good = '{"text": "b", "id": 7}'
    for lines in ([row], [good, row], [row, good], [good, row, good]):
        _assert_agreement("\n".join(lines).encode())
    assert quick_keys.accept(row.encode(), "text") is None


def test_rows_of_no_shape_are_only_counted_after_those_that_are_shown() -> None:
    good, bad = '{"text": "x"}', '{"a": "text", "b": {"text": 1}}'
    content = "\n".join([*[bad] * 40_000, good, *[bad] * 3000, good, "", bad]).encode()
    found = _as_checked(content)
    assert (found.rows, found.problem_count, len(found.identities)) == (2, 43_001, 43_004)
    assert found == _exactly(content)


# empty lines


def test_rows_with_empty_lines_between_them_are_taken_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\n \r\n" + b'{"text": "a", "id": 1}\n\n\r\n{"text": "b"}\n' * 500 + b"\n\n  "
    exact = _exactly(content)

    def refuse(line: bytes, tally: Tally) -> None:
        raise AssertionError(line)

    monkeypatch.setattr(rows, "check_line", refuse)
    _assert_same(_as_checked(content), exact)
    assert exact.rows == 1000


def test_a_file_of_empty_lines_is_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(TABLE.GOOD + b"\n" * 40_000_000)
    checked = check_file("train", path)
    (problem,) = checked.tally.problems
    assert problem.text.startswith("more than 1,000,000 empty lines up to here")
    assert len(checked.tally.identities) < 1_200_000


def test_empty_lines_are_refused_alike_over_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_BLANK_LINES", 100)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 64)
    monkeypatch.setattr(rows._split, "__defaults__", (200,))
    path = tmp_path / "train.jsonl"
    path.write_bytes(TABLE.GOOD + b"\n" * 150 + TABLE.GOOD * 100)
    found = check_channels({"train": path})
    assert [error.problem.partition(" up to")[0] for error in found.errors] == ["more than 100 empty lines"]
    path.write_bytes((TABLE.GOOD + b"\n") * 500)  # as many as rows
    assert not check_channels({"train": path}).errors


SEEDS = [
    TABLE.GOOD * 2,
    b'{"prompt": "q \\"x\\"", "completion": "a\\n"}\n{"prompt": "", "completion": "\xc3\xa9"}\n',
    TABLE.chat(("system", ""), ("user", "a"), ("assistant", "b"), ("tool", ""), ("assistant", "c")) * 2,
    b'{"id": 1, "text": "a"}\n{"text": "b", "tags": ["c", {"d": "e"}], "id": "f"}\n\n{"text": "b", "score": 0.5}\n',
    TABLE.chat(("user", "a"), ("assistant", "b")).strip()[:-1] + b', "text": "x", "id": null}\n\n',
]
PIECES = st.sampled_from(
    [
        *(b'"', b"\\", b"\n", b"\r", b" ", b"{", b"}", b",", b"[", b"\0", b"\xff", b"\xef\xbb\xbf", b"NaN", b"}\n{"),
        *(b'"text": "b", ', b'"role": "user", ', b'"id": 1, ', b"\\u0022", b"\\ud800", b"\\u0000"),
    ]
)
ANYTHING = st.one_of(PIECES, st.binary(max_size=2))
EDITS = st.lists(st.tuples(st.integers(0, 400), ANYTHING, st.integers(0, 3)), max_size=4)


def _edited(seed: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    """Bytes put in at a place, over some that stood there."""
    for place, piece, over in edits:
        place %= len(seed) + 1
        seed = seed[:place] + piece + seed[place + over :]
    return seed


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(SEEDS), EDITS)
def test_both_ways_agree_on_whatever_a_file_holds(seed: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    _assert_agreement(_edited(seed, edits))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from container_src.sft.stand_in import make_tokenizer

    return make_tokenizer(["fine words to learn from", "q x a b c"], "qwen2")


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SEEDS), EDITS)
def test_what_is_taken_trains_and_what_is_refused_has_a_place(
    tmp_path: Path, tokenizer: Any, seed: bytes, edits: list[tuple[int, bytes, int]]
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(_edited(seed, edits))
    report = check_channels({"train": path})
    if report.errors:
        assert all(str(error).startswith("train.jsonl:") for error in report.errors)
        return
    trained = load_rows(path)
    assert len(trained) == report.channels[0].rows
    for row in trained:
        try:
            assert encode(row, tokenizer, TrainConfig()).trained
        except RowError as error:  # only a tokenizer can know of these; `check` with one refuses them
            assert "chat template" in error.problem or "left after the cut" in error.problem
