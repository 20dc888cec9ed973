"""Preparing: columns by our names, and rows that the trainer would refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.data import sources
from launcher.data.checks import check_channels
from launcher.data.preparing import Prepared, prepare_channels
from launcher.data.settings import Filter, Prepare, Source
from launcher.data.sources import find_inputs
from launcher.errors import DataError

ALL_TO_TRAIN = Prepare(split=(1,))
CHAT = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


def run(
    folder: Path, source: Source | list[Source], prepare: Prepare = ALL_TO_TRAIN, filters: tuple[Filter, ...] = ()
) -> Prepared:
    named = source if isinstance(source, list) else [source]
    placed = [Source(**{**vars(item), "path": str(folder / item.path)}) for item in named]
    return prepare_channels(find_inputs(placed, lambda address: []), filters, prepare, folder / "out")


def rows_of(prepared: Prepared) -> list[dict[str, Any]]:
    return [json.loads(line) for line in prepared.channels[0].path.read_text("utf-8").splitlines()]


def write(folder: Path, records: list[dict[str, Any]], name: str = "rows.jsonl") -> Source:
    if name.endswith(".csv"):
        lines = [",".join(records[0]), *(",".join(map(str, record.values())) for record in records)]
    else:
        lines = [json.dumps(record) for record in records]
    (folder / name).write_text("\n".join(lines) + "\n")
    return Source(path=name)


# columns


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_mapped_column_goes_before_one_that_bears_our_name(name: str, tmp_path: Path) -> None:
    for record in ({"body": "meant", "text": "other"}, {"text": "other", "body": "meant"}):
        source = write(tmp_path, [record], name)
        prepared = run(tmp_path, Source(path=source.path, columns={"text": "body"}))
        assert rows_of(prepared) == [{"text": "meant"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_columns_may_change_places_or_stand_for_two(name: str, tmp_path: Path) -> None:
    source = write(tmp_path, [{"prompt": "a", "completion": "b"}], name)
    swapped = Source(path=source.path, columns={"prompt": "completion", "completion": "prompt"})
    assert rows_of(run(tmp_path, swapped)) == [{"prompt": "b", "completion": "a"}]
    twice = Source(path=source.path, columns={"prompt": "prompt", "completion": "prompt"})
    assert rows_of(run(tmp_path, twice)) == [{"prompt": "a", "completion": "a"}]


def test_the_shape_that_columns_are_mapped_to_is_meant(tmp_path: Path) -> None:
    source = write(tmp_path, [{"messages": CHAT, "summary": "short"}])
    assert rows_of(run(tmp_path, Source(path=source.path, columns={"text": "summary"}))) == [{"text": "short"}]
    with pytest.raises(DataError, match="is no row by itself"):
        run(tmp_path, Source(path=source.path, columns={"prompt": "summary"}))


def test_rows_without_a_template_may_be_kept_together_too(tmp_path: Path) -> None:
    source = write(tmp_path, [{"text": f"row {number}", "group": number % 20} for number in range(100)])
    prepared = run(tmp_path, source, Prepare(split=(50, 50), split_by=("group",)))
    sides = [
        {int(json.loads(line)["text"].split()[1]) % 20 for line in channel.path.read_text().splitlines()}
        for channel in prepared.channels
    ]
    assert sum(map(len, sides)) == 20 and not set.intersection(*sides)


@pytest.mark.parametrize(
    ("prepare", "filters", "key"),
    [
        (Prepare(template="{lang}"), (), "data.prepare.template asks"),
        (Prepare(drop_empty=("lang",)), (), "data.prepare.drop_empty asks"),
        (Prepare(split_by=("lang",)), (), "data.prepare.split_by asks"),
        (Prepare(sql_column="lang"), (), "data.prepare.sql_column asks"),
        (Prepare(), (Filter("text", min_chars=1), Filter("lang", min_chars=1)), "data.filters[2].column asks"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_missing_column_names_the_key_that_asks_for_it(
    prepare: Prepare, filters: tuple[Filter, ...], key: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, write(tmp_path, [{"text": "x"}], name), prepare, filters)
    assert "has no column 'lang'; it has text. " + key in caught.value.message
    assert 'columns = { lang = "text" }' in caught.value.hint


def test_a_mapping_of_a_column_that_is_not_there_names_itself(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "x"}])
    with pytest.raises(DataError, match=r"no column 'body'; it has text\. data\.sources\[1\]\.columns\.text asks"):
        run(tmp_path, Source(path="rows.jsonl", columns={"text": "body"}))


@pytest.mark.parametrize("prepare", [Prepare(template="{q}"), Prepare()])
def test_another_delimiter_is_named(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("q;a\nx;y\n")
    with pytest.raises(DataError) as caught:
        run(tmp_path, Source(path="rows.csv"), prepare)
    assert 'delimiter = ";"' in caught.value.hint


@pytest.mark.parametrize("prepare", [Prepare(template="{q}"), Prepare()])
def test_rows_inside_an_object_are_pointed_at(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"version": 1, "data": [{"q": "x"}]}')
    with pytest.raises(DataError) as caught:
        run(tmp_path, Source(path="rows.json"), prepare)
    assert "lie inside 'data'" in caught.value.hint


def test_a_workbook_is_to_be_saved_as_csv(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError) as caught:
        run(tmp_path, Source(path="rows.xlsx"))
    assert "save its sheet as CSV" in caught.value.hint


@pytest.mark.parametrize("format", ["", "jsonl"])
def test_an_object_of_unknown_ending_is_refused_as_a_file_is(format: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.dat").write_text('{"text": "x"}\n')
    source = Source(path="s3://bucket/rows.dat", format=format)
    if format:
        assert find_inputs([source], lambda address: [tmp_path / "rows.dat"])[0].files
        return
    with pytest.raises(DataError, match=r"data\.sources\[1\]: the format of rows\.dat cannot be told"):
        find_inputs([source], lambda address: [tmp_path / "rows.dat"])


def test_rows_that_a_data_set_does_not_have_are_named_with_those_it_has(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"text": "x"}])
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(tmp_path / "saved")
    source = Source(dataset=str(tmp_path / "saved"), rows="nope")
    with pytest.raises(DataError, match="it has no rows 'nope', but 'train', 'validation'"):
        prepare_channels(find_inputs([source], lambda address: []), [], ALL_TO_TRAIN, tmp_path / "out")


# values


@pytest.mark.parametrize("template", ["", "{text} {score}"])
@pytest.mark.parametrize("value", [0, False, 0.0])
def test_zero_and_false_are_values(template: str, value: object, tmp_path: Path) -> None:
    source = write(tmp_path, [{"text": "a row", "score": value}])
    wanted = Filter("score", one_of=("0", "false", "0.0"))
    prepared = run(tmp_path, source, Prepare(template=template, drop_empty=("score",), split=(1,)), (wanted,))
    assert (prepared.kept, prepared.dropped) == (1, {})


@pytest.mark.parametrize("template", ["", "{text}"])
@pytest.mark.parametrize("name", ["rows.json", "rows.parquet"])
def test_not_a_number_is_empty(template: str, name: str, tmp_path: Path) -> None:
    if name.endswith("json"):
        (tmp_path / name).write_text('[{"text": NaN}, {"text": "x"}]')
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": [float("nan")], "x": ["y"]}), tmp_path / name)
        write(tmp_path, [{"text": "x", "x": "y"}], "more.jsonl")
    found = [Source(path=path.name) for path in sorted(tmp_path.glob("*.*"))]
    prepared = run(tmp_path, found, Prepare(template=template, split=(1,)))
    assert (rows_of(prepared), prepared.dropped) == ([{"text": "x"}], {"text is empty": 1})


# what cannot be trained on


def accepted(prepared: Prepared) -> bool:
    return not check_channels({channel.name: channel.path for channel in prepared.channels}).errors


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (Prepare(template="{a}\n", split=(1,)), "text is empty"),
        (Prepare(prompt="{q}", completion=" {a}", split=(1,)), "completion is empty"),
        (Prepare(user="{q}", assistant="{a}", split=(1,)), "assistant is empty"),
        (Prepare(system="S", user="{a}", assistant="{q}", split=(1,)), "user is empty"),
    ],
)
def test_a_template_that_leaves_nothing_to_train_drops_the_row(prepare: Prepare, reason: str, tmp_path: Path) -> None:
    source = write(tmp_path, [{"q": "why", "a": "so"}, {"q": "who", "a": "\t"}, {"q": "how", "a": "thus"}])
    prepared = run(tmp_path, source, prepare)
    assert (prepared.kept, prepared.dropped) == (2, {reason: 1})
    assert accepted(prepared)


@pytest.mark.parametrize(
    ("sound", "empty", "reason"),
    [
        ({"text": "x"}, {"text": " "}, "text is empty"),
        ({"text": "x"}, {"text": None}, "text is empty"),
        ({"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": ""}, "completion is empty"),
        ({"messages": CHAT}, {"messages": []}, "no answer of the assistant"),
        ({"messages": CHAT}, {"messages": CHAT[:1]}, "no answer of the assistant"),
        ({"messages": CHAT}, {"messages": [CHAT[0], {"role": "assistant", "content": None}]}, "a turn is empty"),
    ],
)
def test_a_ready_row_with_nothing_to_train_is_dropped(
    sound: dict[str, Any], empty: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    prepared = run(tmp_path, write(tmp_path, [empty, sound]))
    assert (rows_of(prepared), prepared.dropped) == ([sound], {reason: 1})
    assert accepted(prepared)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"text": 5}, '"text" is a number'),
        ({"text": ["a"]}, '"text" is a list'),
        ({"prompt": None, "completion": "c"}, '"prompt" is null'),
        ({"messages": "x"}, '"messages" must be a list'),
        ({"messages": [{"role": "human", "content": "x"}]}, "message 1 has the role 'human'"),
        ({"messages": [*CHAT, CHAT[1]]}, "message 3, the assistant's, follows"),
        ({"messages": ["x"]}, "message 1 must be an object"),
    ],
)
def test_a_ready_row_that_the_trainer_refuses_is_refused_where_it_stands(
    record: dict[str, Any], says: str, tmp_path: Path
) -> None:
    name = next(iter(record))
    sound = {"messages": {"messages": CHAT}, "prompt": {"prompt": "p", "completion": "c"}, "text": {"text": "x"}}[name]
    with pytest.raises(DataError) as caught:
        run(tmp_path, write(tmp_path, [sound, {**sound, "text": "", **record} if name == "text" else record]))
    assert f"data.sources[1]: rows.jsonl:2: {says}" in caught.value.message
    assert not list((tmp_path / "out").iterdir())


def test_the_place_is_the_rows_own_after_others_were_dropped(tmp_path: Path) -> None:
    source = write(tmp_path, [{"text": "a"}, {"text": ""}, {"text": "b"}, {"text": 7}])
    with pytest.raises(DataError, match=r"rows\.jsonl:4: .text. is a number"):
        run(tmp_path, source)


def test_a_row_longer_than_check_allows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.data.pipeline.MAX_LINE_BYTES", 1 << 20)
    source = write(tmp_path, [{"text": "x"}, {"text": "y" * (1 << 20)}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the row is longer than 1 MiB"):
        run(tmp_path, source)


def test_one_channel_has_one_shape(tmp_path: Path) -> None:
    texts = write(tmp_path, [{"text": "x"}])
    pairs = write(tmp_path, [{"prompt": "p", "completion": "c"}], "pairs.jsonl")
    with pytest.raises(DataError) as caught:
        run(tmp_path, [texts, pairs])
    assert (
        "train channel would mix shapes: text (first at data.sources[1]: rows.jsonl:1) and completion (first at "
        "data.sources[2]: pairs.jsonl:1)" in caught.value.message
    )
    apart = Source(path=pairs.path, channel="test")
    assert {channel.name for channel in run(tmp_path, [texts, apart]).channels} == {"train", "test"}


# keys twice


@pytest.mark.parametrize(
    "content", ['{"text": "a"}\n{"text": "b", "text": "c"}\n', '{"text":"a"}\n{"text":"\\"",\n"text":1}']
)
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_key_given_twice_is_refused_as_check_does(content: str, ending: str, tmp_path: Path) -> None:
    text = content.replace(",\n", ",") if ending == "jsonl" else content
    (tmp_path / f"rows.{ending}").write_text(text)
    with pytest.raises(DataError, match=rf"rows\.{ending}:2: .text. is given twice"):
        run(tmp_path, Source(path=f"rows.{ending}"))


def test_nested_and_escaped_strings_are_no_keys_given_twice(tmp_path: Path) -> None:
    record = {"text": 'a "quoted\\" \\\\" word', "more": {"a": ["b", {"c": "\\"}], "d": None}, "e": [1, [], ""]}
    assert rows_of(run(tmp_path, write(tmp_path, [record] * 2))) == [{"text": record["text"]}]


# what unpacks without end


def test_a_gzip_bomb_of_sound_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(sources, "BOMB_BYTES", 1_000_000)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"text": "again"}\n' * 400_000))
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz unpacks to more than 200 times its size"):
        run(tmp_path, Source(path="rows.jsonl.gz"))
    assert not list((tmp_path / "out").iterdir())
