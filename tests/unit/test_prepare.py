"""Preparing: what is read, kept, dropped and refused, and where each row goes."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from launcher.data import preparing
from launcher.data.preparing import Prepared, prepare_channels
from launcher.data.settings import Filter, Prepare, Source
from launcher.data.sources import find_inputs
from launcher.errors import DataError

TEXT = Prepare(template="{question} {answer}", split=(1,))


CHAT = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


def run(folder: Path, sources: list[Source], prepare: Prepare = TEXT, filters: tuple[Filter, ...] = ()) -> Prepared:
    placed = [
        Source(**{**vars(source), "path": str(folder / source.path) if source.path else ""}) for source in sources
    ]
    return prepare_channels(find_inputs(placed, lambda address: []), filters, prepare, folder / "out")


def rows_of(prepared: Prepared, name: str = "train") -> list[dict[str, Any]]:
    (file,) = [channel.path for channel in prepared.channels if channel.name == name]
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def texts_of(prepared: Prepared, name: str = "train") -> list[str]:
    return [row["text"] for row in rows_of(prepared, name)]


def write_csv(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("question", "answer")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# formats

ROWS = [{"question": "Füße?", "answer": "zwei"}, {"question": 'a "b",\nc', "answer": "d"}]
TEXTS = ["Füße? zwei", 'a "b",\nc d']


def write_as(kind: str, folder: Path) -> Path:
    path = folder / f"rows.{kind}"
    if kind.startswith("csv"):
        path = write_csv(folder / "rows.csv", [(row["question"], row["answer"]) for row in ROWS])
    elif kind == "tsv":
        path.write_text("question\tanswer\n" + 'Füße?\tzwei\n"a ""b"",\nc"\td\n', encoding="utf-8")
    elif kind.startswith("jsonl"):
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif kind.startswith("json"):
        path = folder / "rows.json"
        path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8")
    elif kind.startswith("parquet"):
        import pyarrow
        import pyarrow.parquet

        path = folder / "rows.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    if kind.endswith(".gz"):
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        return packed
    return path


@pytest.mark.parametrize(
    "kind", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz", "jsonl.gz", "json.gz", "parquet.gz"]
)
def test_every_format_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    assert texts_of(run(tmp_path, [Source(path=write_as(kind, tmp_path).name)])) == TEXTS


def test_a_folder_and_a_pattern_take_every_file_by_name_and_pass_over_hidden_ones(tmp_path: Path) -> None:
    for name, text in (("b.csv", "2"), ("a.csv", "1"), (".hidden.csv", "0"), ("notes.md", "no")):
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / name).write_text(f"question,answer\n{text},x\n")
    assert texts_of(run(tmp_path, [Source(path="raw")])) == ["1 x", "2 x"]
    assert texts_of(run(tmp_path, [Source(path="raw/b*.csv")])) == ["2 x"]


def test_a_data_set_that_was_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": table, "validation": table.select([0])}).save_to_disk(tmp_path / "saved")
    whole = run(tmp_path, [Source(dataset=str(tmp_path / "saved"))])
    assert texts_of(whole) == TEXTS
    assert texts_of(run(tmp_path, [Source(dataset=str(tmp_path / "saved"), rows="validation")])) == TEXTS[:1]


def test_a_data_set_that_cannot_be_had_says_what_to_check(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(
        DataError, match=r"data\.sources\[1\]: the data set nobody/nothing.*Hub cannot be reached"
    ) as caught:
        run(tmp_path, [Source(dataset="nobody/nothing")])
    assert "HF_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfquestion,answer\r\nwhy?,so\r\n",
        b"question,answer\n\n\nwhy?,so\n\n",
        b"question,answer\nwhy?,so",
        b'"question","answer"\n"why?","so"\n',
    ],
    ids=["BOM and CRLF", "blank lines", "no last line end", "all quoted"],
)
def test_csv_as_programs_write_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    assert texts_of(run(tmp_path, [Source(path="rows.csv")])) == ["why? so"]


def test_json_objects_one_after_another_are_rows_too(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("\n\n".join(json.dumps(row, indent=1) for row in ROWS))
    assert texts_of(run(tmp_path, [Source(path="rows.json")])) == TEXTS


def test_numbers_become_text_and_null_is_empty(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"question": 2, "answer": 0.5}\n{"question": true, "answer": null}\n{"question": null, "answer": "x"}\n'
    )
    prepared = run(tmp_path, [Source(path="rows.jsonl")], Prepare(template="{question}|{answer}", split=(1,)))
    assert texts_of(prepared) == ["2|0.5", "true|", "|x"]


# refusals

BAD = {
    "short row": ("rows.csv", "question,answer\na,b\nc\n", "rows.csv:3: 1 fields, but the header has 2"),
    "long row after a quoted line end": ("rows.csv", 'question,answer\n"a\nb",c\nd,e,f\n', "rows.csv:4: 3 fields"),
    "stray quote": ("rows.csv", 'question,answer\na,b\nc,5" screw\n', "rows.csv:3: field 2 is neither plain nor"),
    "open quote": ("rows.csv", 'question,answer\na,b\n"c,d\ne,f\n', "rows.csv:3: field 1 is neither plain nor"),
    "column twice": ("rows.csv", "question,question\na,b\n", "rows.csv:1: the column 'question' stands twice"),
    "column missing": (
        "rows.csv",
        "question,reply\na,b\n",
        "data.sources[1]: rows.csv has no column 'answer'; it has question, reply",
    ),
    "empty CSV": ("rows.csv", "", "rows.csv is empty"),
    "not JSON": ("rows.jsonl", '{"question": "a", "answer": "b"}\n\n{"question"\n', "rows.jsonl:3: not JSON"),
    "no object": ("rows.jsonl", "[1]\n", "rows.jsonl:1: a list, not an object"),
    "key missing": (
        "rows.jsonl",
        '{"question": "a", "answer": "b"}\n{"question": "a"}\n',
        "data.sources[1]: rows.jsonl:2 has no column 'answer'; it has question",
    ),
    "list in a template": (
        "rows.jsonl",
        '{"question": "a", "answer": ["b"]}\n',
        "rows.jsonl:1: 'answer' is a list, which a template cannot hold",
    ),
    "array without comma": ("rows.json", '[{"question": "a"}\n{"question": "b"}]', "rows.json:2: a comma"),
    "array not closed": ("rows.json", '[{"question": "a", "answer": ""}', "rows.json:1: a comma or the array's end"),
    "broken object": ("rows.json", '[\n{"question": tru}]', "rows.json:2: not JSON"),
    "array of numbers": ("rows.json", "[1, 2]", "rows.json:1: an object was expected"),
    "unknown ending": ("rows.xlsx", "PK", "the format of rows.xlsx cannot be told from its name"),
    "not gzip": ("rows.csv.gz", "question,answer\n", "rows.csv.gz is not a whole gzip file"),
    "not Parquet": ("rows.parquet", "question", "is not a Parquet file that can be read"),
    "half a character": ("rows.json", '[{"question": "\\ud800", "answer": "b"}]', "rows.json, row 1: a value cannot"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_refused_with_its_place(case: str, tmp_path: Path) -> None:
    name, content, says = BAD[case]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        run(tmp_path, [Source(path=name)])
    assert says in str(caught.value)
    assert caught.value.hint
    assert not list((tmp_path / "out").iterdir())


def test_what_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    for name, before in (
        ("rows.csv", b"question,answer\na,b\n"),
        ("rows.jsonl", b'{"question": "", "answer": ""}\n\n'),
    ):
        (tmp_path / name).write_bytes(before + b'{"caf\xe9"}\n')
        with pytest.raises(DataError, match=f"{name}:3: not UTF-8"):
            run(tmp_path, [Source(path=name)])


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"question,answer\n" + b"a,b\n" * 9999)
    (tmp_path / "rows.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole gzip file"):
        run(tmp_path, [Source(path="rows.csv.gz")])


def test_a_row_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.data.blocks.MAX_ROW_BYTES", 1_000_000)
    (tmp_path / "rows.csv").write_text('question,answer\n"a,b\n' + "c,d\n" * 700_000)
    with pytest.raises(DataError, match=r"rows\.csv:2: no row ends within 1,000,000 bytes"):
        run(tmp_path, [Source(path="rows.csv")])


def test_quotes_may_be_plain_letters(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text('question\tanswer\nwhich?\t5" screw\n"half\tno\n')
    assert texts_of(run(tmp_path, [Source(path="rows.tsv", quote="")])) == ['which? 5" screw', '"half no']


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a file nor a folder or pattern"):
        run(tmp_path, [Source(path="nothing.csv")])


# what is kept


def test_sources_with_other_columns_are_merged_and_everything_dropped_is_counted(tmp_path: Path) -> None:
    write_csv(tmp_path / "one.csv", [("q1", "a1"), ("", "a"), ("q2", " "), ("q1", "a1")])
    write_csv(tmp_path / "two.csv", [("q3", "a3"), ("q1", "a1")], ("question", "rationale"))
    prepared = run(
        tmp_path,
        [Source(path="one.csv"), Source(path="two.csv", columns={"answer": "rationale"})],
        Prepare(template="{question} {answer}", drop_empty=("question", "answer"), split=(1,)),
    )
    assert texts_of(prepared) == ["q1 a1", "q3 a3"]
    one, two = prepared.sources
    assert (one.read, one.kept) == (4, 1)
    assert one.dropped == {"question is empty": 1, "answer is empty": 1, "duplicate": 1}
    assert (two.read, two.kept, two.dropped) == (2, 1, {"duplicate": 1})
    assert prepared.words().startswith("2 of 6 rows kept (2 duplicate")


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        (Filter("question", one_of=("a", "bb")), ["a", "bb"]),
        (Filter("question", none_of=("a", "bb")), ["ccc"]),
        (Filter("question", matches="^[ab]"), ["a", "bb"]),
        (Filter("question", lacks="c{3}"), ["a", "bb"]),
        (Filter("question", min_chars=2, max_chars=2), ["bb"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else "filter",
)
def test_filters(item: Filter, kept: list[str], tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [("a", "x"), ("bb", "x"), ("ccc", "x")])
    prepared = run(tmp_path, [Source(path="rows.csv")], Prepare(template="{question}", split=(1,)), (item,))
    assert texts_of(prepared) == kept
    assert sum(prepared.dropped.values()) == 3 - len(kept)


@pytest.mark.parametrize(
    ("prepare", "row"),
    [
        (Prepare(template="{{{question}}} 100% {answer}"), {"text": "{q} 100% a"}),
        (Prepare(prompt="Q: {question}", completion="{answer}"), {"prompt": "Q: q", "completion": "a"}),
        (Prepare(completion="{answer}"), {"prompt": "", "completion": "a"}),
        (
            Prepare(system="Be brief.", user="{question}", assistant="{answer}"),
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a"},
                ]
            },
        ),
    ],
)
def test_templates_make_the_trainers_shapes(prepare: Prepare, row: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [("q", "a")])
    assert rows_of(run(tmp_path, [Source(path="rows.csv")], prepare)) == [row]


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"text": "t", "id": 7}, {"text": "t"}),
        ({"ask": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}),
        ({"messages": CHAT, "text": "t"}, {"messages": CHAT}),
    ],
)
def test_rows_that_have_a_shape_need_no_template(
    record: dict[str, Any], row: dict[str, Any], tmp_path: Path, write_rows
) -> None:
    write_rows("rows.jsonl", [record])
    source = Source(path="rows.jsonl", columns={"prompt": "ask"} if "ask" in record else {})
    assert rows_of(run(tmp_path, [source], Prepare(split=(1,)))) == [row]


def test_rows_without_a_shape_need_a_template(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [("q", "a")])
    with pytest.raises(DataError, match="question, answer is no row by itself"):
        run(tmp_path, [Source(path="rows.csv")], Prepare())


def test_the_first_rows_of_a_source_and_a_limit_drawn_by_the_seed(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [(str(number), "x") for number in range(5000)])
    first = run(tmp_path, [Source(path="rows.csv", first=30)], Prepare(template="{question}", split=(1,)))
    assert texts_of(first) == [str(number) for number in range(30)]
    drawn = run(tmp_path, [Source(path="rows.csv")], Prepare(template="{question}", split=(1,), limit=30))
    numbers = [int(text) for text in texts_of(drawn)]
    assert len(numbers) == 30 and numbers == sorted(numbers) and max(numbers) > 3000
    assert drawn.dropped == {"beyond the limit": 4970}


def test_sql_that_does_not_parse_is_counted_and_dropped_on_request(tmp_path: Path, write_rows) -> None:
    pytest.importorskip("sqlglot")
    write_rows("rows.jsonl", [{"sql": sql} for sql in ("SELECT 1", "SELECT (1", "SELECT 'x", "SELECT a FROM b WHERE")])
    counted = run(tmp_path, [Source(path="rows.jsonl")], Prepare(template="{sql}", sql_column="sql", split=(1,)))
    assert (counted.kept, counted.bad_sql, counted.dropped) == (4, 3, {})
    dropped = run(
        tmp_path,
        [Source(path="rows.jsonl")],
        Prepare(template="{sql}", sql_column="sql", drop_bad_sql=True, split=(1,)),
    )
    assert texts_of(dropped) == ["SELECT 1"]
    assert dropped.dropped == {"SQL does not parse": 3}


def test_nothing_left_says_why(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [("", "a"), ("", "b")])
    with pytest.raises(DataError, match="of 2 that were read: 2 question is empty"):
        run(tmp_path, [Source(path="rows.csv")], Prepare(template="{answer}", drop_empty=("question",)))


# the split


def numbered(folder: Path, count: int, name: str = "rows.csv", start: int = 0) -> Source:
    write_csv(folder / name, [(str(number), "x") for number in range(start, start + count)])
    return Source(path=name)


def test_the_split_is_exact_and_always_the_same(tmp_path: Path) -> None:
    prepared = run(tmp_path, [numbered(tmp_path, 290)], Prepare(template="{question}"))
    assert {channel.name: channel.rows for channel in prepared.channels} == {"train": 232, "eval": 29, "test": 29}
    # these very rows on every machine, Python and numpy: a changed hash would mix train and eval of earlier runs
    assert texts_of(prepared, "eval")[:8] == ["20", "26", "40", "48", "54", "56", "62", "64"]


def test_the_order_of_rows_and_files_does_not_move_a_row(tmp_path: Path) -> None:
    forward = run(tmp_path, [numbered(tmp_path, 200)], Prepare(template="{question}"))
    sides = {name: set(texts_of(forward, name)) for name in ("train", "eval", "test")}
    write_csv(tmp_path / "rows.csv", [(str(number), "x") for number in reversed(range(200))])
    backward = run(tmp_path, [Source(path="rows.csv")], Prepare(template="{question}"))
    assert {name: set(texts_of(backward, name)) for name in sides} == sides


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    source = numbered(tmp_path, 200)
    one = texts_of(run(tmp_path, [source], Prepare(template="{question}")), "eval")
    assert one != texts_of(run(tmp_path, [source], Prepare(template="{question}", seed=43)), "eval")


def test_a_row_that_is_added_moves_few_others(tmp_path: Path) -> None:
    def sides(count: int) -> dict[str, str]:
        prepared = run(tmp_path, [numbered(tmp_path, count)], Prepare(template="{question}"))
        return {text: name for name in ("train", "eval", "test") for text in texts_of(prepared, name)}

    before, after = sides(1000), sides(1010)
    assert sum(before[text] != after[text] for text in before) < 20


def test_duplicates_that_are_kept_stay_on_one_side(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [(str(number % 40), "x") for number in range(400)])
    prepared = run(tmp_path, [Source(path="rows.csv")], Prepare(template="{question}", deduplicate=False))
    sides = {name: Counter(texts_of(prepared, name)) for name in ("train", "eval", "test")}
    assert sum(map(len, sides.values())) == 40
    assert all(count == 10 for side in sides.values() for count in side.values())


def test_rows_of_one_group_stay_on_one_side(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [(f"q{number % 50}", f"a{number}") for number in range(500)])
    prepared = run(tmp_path, [Source(path="rows.csv")], Prepare(template="{question} {answer}", split_by=("question",)))
    sides = [{text.split()[0] for text in texts_of(prepared, name)} for name in ("train", "eval", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 50


def test_a_source_may_have_its_own_channel(tmp_path: Path) -> None:
    sources = [
        numbered(tmp_path, 100, "a.csv"),
        Source(**{**vars(numbered(tmp_path, 10, "b.csv", 100)), "channel": "test"}),
    ]
    prepared = run(tmp_path, sources, Prepare(template="{question}", split=(90, 10)))
    assert {channel.name: channel.rows for channel in prepared.channels} == {"train": 90, "eval": 10, "test": 10}
    assert texts_of(prepared, "test") == [str(number) for number in range(100, 110)]


# blocks, workers, files


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_workers_and_small_blocks_change_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f'q{number},"\n{number}', "é" * (number % 90)) for number in range(3000)]
    if kind == "csv":
        write_csv(tmp_path / "rows.csv", rows)
    else:
        lines = (json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in rows)
        (tmp_path / "rows.jsonl").write_text("".join(lines))
    prepare = Prepare(template="{question} {answer}")
    run(tmp_path, [Source(path=f"rows.{kind}")], prepare)
    plain = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("launcher.data.blocks.BLOCK_BYTES", 1000)
    monkeypatch.setattr(preparing, "WORTH_WORKERS_BYTES", 0)
    monkeypatch.setattr(preparing, "count_workers", lambda: 3)
    run(tmp_path, [Source(path=f"rows.{kind}")], prepare)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == plain


def test_an_error_in_a_worker_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.data.blocks.BLOCK_BYTES", 1000)
    monkeypatch.setattr(preparing, "WORTH_WORKERS_BYTES", 0)
    monkeypatch.setattr(preparing, "count_workers", lambda: 2)
    (tmp_path / "rows.csv").write_text("question,answer\n" + "a,b\n" * 5000 + "c\n" + "a,b\n" * 5000)
    with pytest.raises(DataError, match=r"rows\.csv:5002: 1 fields") as caught:
        run(tmp_path, [Source(path="rows.csv")])
    assert "must stand in quotes" in caught.value.hint


def test_channels_of_an_earlier_run_go_and_files_of_others_stay(tmp_path: Path) -> None:
    source = numbered(tmp_path, 100)
    run(tmp_path, [source], Prepare(template="{question}"))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    run(tmp_path, [source], Prepare(template="{question}", split=(90, 10)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "eval.jsonl",
        "notes.txt",
        "prepared.json",
        "train.jsonl",
    ]


def test_a_channel_that_prepare_did_not_make_is_not_written_over(tmp_path: Path) -> None:
    source = numbered(tmp_path, 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match="was not made by `prepare`"):
        run(tmp_path, [source], Prepare(template="{question}"))
    assert (tmp_path / "out" / "train.jsonl").read_text() == "{}"


def test_a_source_is_not_written_over(tmp_path: Path, write_rows) -> None:
    write_rows("out/train.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match="is one of the sources"):
        run(tmp_path, [Source(path="out/train.jsonl")], Prepare())
