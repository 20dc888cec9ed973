"""What a recipe says about its sources, and how plan uses it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.console import print_recipe
from launcher.data.blocks import Dialect, iter_csv_blocks, parse_csv
from launcher.data.settings import Filter, Source
from launcher.errors import DataError, RecipeError
from launcher.plan import find_prepared, find_row_files, make_plan
from launcher.recipe import load_recipe

RECIPE = """
[data]
max_length = 128

[[data.sources]]
path = "rows.csv"
columns = { answer = "their answer" }
first = 50

[[data.sources]]
dataset = "saved"
channel = "test"

[[data.filters]]
column = "answer"
min_chars = 2

[data.prepare]
template = "Q: {question}\\nA: {answer}"
split = [9, 1]
seed = 7
"""
SIMPLE = '[[data.sources]]\npath = "rows.csv"\n[data.prepare]\ntemplate = "{question}"\nsplit = [8, 1, 1]\n'


@pytest.fixture
def write_recipe(tmp_path: Path):
    def write(text: str, name: str = "my.toml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("question\n" + "".join(f"what is {number}?\n" for number in range(40)))
    return path


def test_tables_become_typed_and_frozen_parts(write_recipe) -> None:
    recipe = load_recipe(write_recipe(RECIPE))
    first, second = recipe.data.sources
    assert (first.path, first.columns, first.first) == ("rows.csv", {"answer": "their answer"}, 50)
    assert (second.dataset, second.channel, second.rows) == ("saved", "test", "train")
    assert recipe.data.filters == (Filter("answer", min_chars=2),)
    assert (recipe.prepare.split, recipe.prepare.seed, recipe.prepare.deduplicate) == ((9, 1), 7, True)
    assert recipe.config.max_length == 128
    assert recipe.origins["data.prepare.seed"] == recipe.origins["data.sources"] == "my.toml"


def test_a_printed_recipe_loads_to_the_same_values_from_another_folder(
    write_recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_recipe(recipe := load_recipe(write_recipe(RECIPE)))
    (tmp_path / "elsewhere").mkdir()
    again = load_recipe(write_recipe(capsys.readouterr().out, "elsewhere/again.toml"))
    assert [row[:2] for row in again.rows()] == [row[:2] for row in recipe.rows()]
    assert again.data.sources[0].path == str(tmp_path / "rows.csv")
    assert again.prepare == recipe.prepare


def test_settings_reach_into_nested_tables(write_recipe) -> None:
    recipe = load_recipe(write_recipe(RECIPE), {"data.prepare.limit": 5}, origins={"data.prepare.limit": "--set"})
    assert (recipe.prepare.limit, recipe.origins["data.prepare.limit"]) == (5, "--set")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("columns = {", "colums = {", "Did you mean data.sources[1].columns?"),
        ("columns = { answer = ", "columns = { answer = 3 } #", "data.sources[1].columns must be a table of names"),
        ('dataset = "saved"', 'dataset = "saved"\npath = "x.csv"', "data.sources[2] must have either a path or a"),
        ('dataset = "saved"', "", "data.sources[2] must have either a path or a dataset"),
        ('channel = "test"', 'channel = "tset"', "data.sources[2].channel is 'tset'; it must be one of"),
        ("first = 50", 'first = "50"', "data.sources[1].first is '50'; it must be of type int"),
        ("first = 50", "first = -1", "data.sources[1].first is -1"),
        ("first = 50", 'delimiter = "ab"', "data.sources[1].delimiter is 'ab'; it must be one ASCII character"),
        ("min_chars = 2", "", "data.filters[1] does not filter"),
        ("min_chars = 2", 'matches = "("', "data.filters[1].matches is not a regular expression"),
        ('column = "answer"', "", "data.filters[1] names no column"),
        ("seed = 7", "sed = 7", "Did you mean data.prepare.seed?"),
        ("seed = 7", 'prompt = "x"', "data.prepare has template, prompt, which are no row together"),
        ("{question}", "{question:>9}", "data.prepare.template: {question:>9} is not a column"),
        ("{question}", "{question", "data.prepare.template: "),
        ("split = [9, 1]", "split = [0, 1]", "data.prepare.split is [0, 1]"),
        ("split = [9, 1]", "split = [9, 0.5]", "data.prepare.split is [9, 0.5]; it must be a list of whole numbers"),
        ('channel = "test"', 'channel = "dev"', "it must be one of train, eval, test, or left out"),
        ("seed = 7", 'sql_dialect = "nope"', "data.prepare.sql_dialect says nothing without sql_column"),
        ("seed = 7", "drop_bad_sql = true", "data.prepare.drop_bad_sql says nothing without sql_column"),
        ("Q: {question}\\nA: {answer}", "hi", "data.prepare.template names no column"),
        ("[data.prepare]", "[data.prepared]", "data.prepared is not a key of a recipe"),
        ("[[data.sources]]\npath", "[data.sources]\npath", "not valid TOML"),
    ],
)
def test_a_wrong_table_is_refused_with_its_key(write_recipe, old: str, new: str, says: str) -> None:
    assert old in RECIPE
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(RECIPE.replace(old, new, 1)))
    assert says in str(caught.value)


def test_one_table_instead_of_a_list_is_refused(write_recipe) -> None:
    with pytest.raises(RecipeError, match=r"data\.sources must be a list of tables") as caught:
        load_recipe(write_recipe('[data.sources]\npath = "rows.csv"\n'))
    assert "[[data.sources]]" in caught.value.hint


def test_a_plan_prepares_by_itself_and_says_what_it_kept(write_recipe, rows: Path) -> None:
    plan = make_plan(load_recipe(write_recipe(SIMPLE)))
    assert {channel.name: channel.rows for channel in plan.channels} == {"train": 32, "eval": 4, "test": 4}
    assert "prepared from 1 source: 40 of 40 rows kept" in plan.notes
    assert plan.config.eval_strategy == "steps"


def test_a_plan_prepares_once_and_again_when_something_changed(write_recipe, rows: Path) -> None:
    def train_file(text: str = SIMPLE) -> tuple[Path, int]:
        recipe = load_recipe(write_recipe(text))
        path = find_row_files(recipe, find_prepared(recipe))["train"]
        return path, path.stat().st_ino

    first = train_file()
    assert train_file() == first
    assert train_file(SIMPLE.replace("[8, 1, 1]", "[1, 1]")) != first
    with rows.open("a") as file:
        file.write("one more\n")
    os.utime(rows, ns=(1, 1))
    assert train_file() != first


def test_the_same_rows_keep_their_digest_wherever_they_lie(write_recipe, rows: Path) -> None:
    digests = []
    for name in ("here", "there"):
        folder = rows.parent / name
        folder.mkdir()
        (folder / "rows.csv").write_bytes(rows.read_bytes())
        digests.append(
            [channel.digest for channel in make_plan(load_recipe(write_recipe(SIMPLE, f"{name}/a.toml"))).channels]
        )
    assert digests[0] == digests[1]


def test_a_ready_channel_wins_over_the_sources(write_recipe, rows: Path, write_rows) -> None:
    ready = write_rows("mine.jsonl", [{"text": "mine"}] * 3)
    recipe = load_recipe(write_recipe(SIMPLE), {"data.train": str(ready)})
    assert [(channel.name, channel.rows) for channel in make_plan(recipe).channels] == [("train", 3)]


def test_a_plan_refuses_what_only_the_network_has(write_recipe) -> None:
    for source in ('path = "s3://bucket/rows.csv"', 'dataset = "owner/name"'):
        with pytest.raises(DataError, match="is not on this machine") as caught:
            make_plan(load_recipe(write_recipe(SIMPLE.replace('path = "rows.csv"', source))))
        assert "launcher prepare" in caught.value.hint


def test_recipe_show_speaks_json_of_tables(write_recipe, launch) -> None:
    shown = json.loads(launch("recipe", "show", str(write_recipe(RECIPE)), "--json").stdout)
    assert shown["data.sources"]["value"][1] == {"dataset": "saved", "channel": "test"}
    assert shown["data.prepare.split"] == {"value": [9, 1], "from": "my.toml"}


def test_a_source_is_known_by_its_last_part() -> None:
    assert [Source(path="../raw/a.csv").name, Source(dataset="owner/name").name] == ["a.csv", "owner/name"]


CELLS = st.text(st.sampled_from('ab", \n\r\t;é'), max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1)),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 40),
)
def test_csv_is_read_as_pythons_own_module_reads_it(
    table: list[list[str]], ending: str, quoted: bool, size: int
) -> None:
    """Whatever is in the cells, and wherever blocks end."""
    import csv
    import io

    from launcher.data import blocks

    text = io.StringIO()
    header = [f"c{number}" for number in range(len(table[0]))]
    bare = any("\r" in cell for row in table for cell in row)  # which Python's writer leaves unquoted
    quoting = csv.QUOTE_ALL if quoted or bare else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator=ending, quoting=quoting).writerows([header, *table])
    known = list(csv.reader(io.StringIO(text.getvalue(), newline="")))[1:]
    before, blocks.BLOCK_BYTES = blocks.BLOCK_BYTES, size
    try:
        read: list[list[str]] = []
        for block in iter_csv_blocks(io.BytesIO(text.getvalue().encode()), 1, "t.csv", Dialect()):
            columns = parse_csv(block, header)
            read += [list(row) for row in zip(*[columns[name] for name in header], strict=True)]
    finally:
        blocks.BLOCK_BYTES = before
    assert read == known
