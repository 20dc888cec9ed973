"""The shipped sample data: made by examples/make_samples.py, clean, varied and free of leaks."""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from itertools import chain, combinations, product
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = EXAMPLES / "data"
SHAPES = {
    "medical/train.jsonl": (("text",), 240),
    "medical/eval.jsonl": (("text",), 40),
    "chatdoctor/raw/chatdoctor.jsonl": (("instruction", "input", "output"), 200),
    "text-to-sql/raw/sql.jsonl": (("sql_prompt", "sql_context", "sql"), 200),
    "llama2/train.jsonl": (("text",), 256),
    "llama2/eval.jsonl": (("text",), 32),
}
TABLES = {
    "healthcare-qa/raw/questions.csv": ["question", "answer"],
    "healthcare-qa/raw/rationales.csv": ["question", "answer_rationale"],
}
CHANNELS = ("train", "eval")
SPLIT = ("medical", "llama2")  # into channels; recipes split the others
FORMS = {
    "chatdoctor": "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### output:\n{output}",
    "healthcare-qa": "### Instruction:\n{question}\n\n### Response:\n{answer}",
    "text-to-sql": "### Context:\n{sql_context}\n\n### Question:\n{sql_prompt}\n\n### SQL:\n{sql}",
}
TEMPLATES = {
    "medical": r"### Human: (?P<question>.+)\n### Assistant: (?P<answer>.+)",
    "chatdoctor": r"### Instruction:\n(?P<task>.+)\n\n"
    r"### Input:\n(?P<question>.+)\n\n### output:\n(?P<answer>.+)",
    "healthcare-qa": r"### Instruction:\n(?P<question>.+)\n\n### Response:\n(?P<answer>.+)",
    "llama2": r"\[INST\] (?P<question>.+) \[/INST\] (?P<answer>[\s\S]+)",
}
HEALTH = ("medical", "chatdoctor", "healthcare-qa")
SQL_FEATURES = (
    " JOIN ", "LEFT JOIN", "GROUP BY", "HAVING", "(SELECT", "NOT EXISTS", " OVER (", "WITH ", "BETWEEN '20",
    "CASE WHEN", "COUNT(DISTINCT", "LIMIT", "STRFTIME(", "UPDATE ",
)  # fmt: skip


def run_script(*arguments: str | Path, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "make_samples.py"), *map(str, arguments)]
    # Unequal hash seeds change the order of sets, which must not reach the files.
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def read_table(name: str) -> list[list[str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as table:
        return list(csv.reader(table))


def read_channels(folder: str) -> list[list[str]]:
    return [[row["text"] for row in read_rows(f"{folder}/{channel}.jsonl")] for channel in CHANNELS]


def read_sources(folder: str) -> list[dict[str, str]]:
    """The rows that preparing keeps."""
    if folder == "chatdoctor":
        return read_rows("chatdoctor/raw/chatdoctor.jsonl")
    if folder == "text-to-sql":
        return [row for row in read_rows("text-to-sql/raw/sql.jsonl") if parses(row["sql_context"], row["sql"])]
    rows = chain.from_iterable(read_table(name)[1:] for name in TABLES)
    kept = dict.fromkeys((question, answer) for question, answer in rows if question.strip() and answer.strip())
    return [{"question": question, "answer": answer} for question, answer in kept]


def read_texts(folder: str) -> list[str]:
    """What is trained, one text per row."""
    if folder in SPLIT:
        return list(chain.from_iterable(read_channels(folder)))
    return [FORMS[folder].format(**row) for row in read_sources(folder)]


def read_turns(folder: str) -> list[re.Match[str]]:
    turns = [re.fullmatch(TEMPLATES[folder], text) for text in read_texts(folder)]
    assert all(turns), f"{folder} holds rows outside its template"
    return [turn for turn in turns if turn]


def find_runs(text: str) -> set[tuple[str, ...]]:
    """Every run of three words."""
    words = text.lower().split()
    return set(zip(words, words[1:], words[2:], strict=False))


def are_nearly_the_same(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> bool:
    """Half of all runs in the two texts are in both."""
    shared = len(one & other)
    return 2 * shared >= len(one) + len(other) - shared


def parses(context: str, sql: str) -> bool:
    """SQLite accepts the query and finds its tables and columns in the context."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(context)
        database.execute(f"EXPLAIN {sql}")
    except sqlite3.Error:
        return False
    finally:
        database.close()
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    result = run_script("--out", folder, hash_seed="1")
    assert result.returncode == 0, result.stderr
    return folder


def test_committed_files_are_what_the_script_makes() -> None:
    result = run_script("--check")
    assert (result.returncode, result.stderr) == (0, "")


def test_two_runs_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert run_script("--out", tmp_path, hash_seed="2").returncode == 0
    assert read_files(tmp_path) == read_files(made)


def test_the_script_makes_the_documented_files_and_no_others(made: Path) -> None:
    assert set(read_files(made)) == set(SHAPES) | set(TABLES)


def test_check_names_every_file_that_is_wrong_and_leaves_it_alone(made: Path, tmp_path: Path) -> None:
    for name, content in read_files(made).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    changed, missing, unknown = (tmp_path / "medical" / name for name in ("train.jsonl", "eval.jsonl", "more.jsonl"))
    changed.write_bytes(changed.read_bytes() + b"{}\n")
    missing.unlink()
    unknown.write_bytes(b"")
    result = run_script("--check", "--out", tmp_path)
    assert result.returncode == 1
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [
        str(changed),
        str(missing),
        str(unknown),
    ]
    assert changed.read_bytes().endswith(b"{}\n") and not missing.exists() and unknown.exists()


def test_all_files_together_stay_below_one_megabyte() -> None:
    assert sum((DATA / name).stat().st_size for name in chain(SHAPES, TABLES)) < 1_000_000


@pytest.mark.parametrize("name", [*SHAPES, *TABLES])
def test_file_is_utf8_with_plain_line_ends(name: str) -> None:
    content = (DATA / name).read_bytes()
    text = content.decode("utf-8")
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert not text.startswith("\ufeff")
    assert not re.search("[\r\0\u0085\u2028\u2029]", text)


@pytest.mark.parametrize("name", SHAPES)
def test_every_row_has_the_schema(name: str) -> None:
    keys, count = SHAPES[name]
    rows = read_rows(name)
    assert len(rows) == count
    assert {tuple(row) for row in rows} == {keys}
    assert all(isinstance(value, str) and value.strip() for row in rows for value in row.values())


@pytest.mark.parametrize("folder", TEMPLATES)
def test_texts_follow_the_template_and_vary_in_length(folder: str) -> None:
    lengths = [len(turn[0].split()) for turn in read_turns(folder)]
    assert min(lengths) >= 15
    assert max(lengths) <= 120
    assert max(lengths) - min(lengths) >= 45


@pytest.mark.parametrize("folder", HEALTH)
def test_every_health_answer_says_when_to_see_a_doctor(folder: str) -> None:
    advice = r"doctor|practice|appointment|examined|medical (help|advice|care)|want to see you"
    without = [turn["answer"] for turn in read_turns(folder) if not re.search(advice, turn["answer"], re.IGNORECASE)]
    assert without == []


@pytest.mark.parametrize("folder", HEALTH)
def test_health_answers_name_no_dose(folder: str) -> None:
    doses = [
        turn["answer"] for turn in read_turns(folder) if re.search(r"\d\s?(mg|ml|tablets|pills)\b", turn["answer"])
    ]
    assert doses == []


@pytest.mark.parametrize("folder", [*SPLIT, *FORMS])
def test_no_row_stands_twice(folder: str) -> None:
    counts = Counter(read_texts(folder))
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("folder", TEMPLATES)
def test_no_question_is_asked_twice(folder: str) -> None:
    counts = Counter(turn["question"] for turn in read_turns(folder))
    assert [question for question, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("folder", SPLIT)
def test_channels_share_no_row_that_is_nearly_the_same(folder: str) -> None:
    channels = [[(text, find_runs(text)) for text in texts] for texts in read_channels(folder)]
    pairs = chain.from_iterable(product(one, other) for one, other in combinations(channels, 2))
    alike = [(text, near) for (text, runs), (near, others) in pairs if are_nearly_the_same(runs, others)]
    assert alike == []


@pytest.mark.parametrize("folder", ["chatdoctor", "healthcare-qa"])
def test_no_two_rows_that_a_recipe_will_split_are_nearly_the_same(folder: str) -> None:
    rows = [(text, find_runs(text)) for text in read_texts(folder)]
    alike = [
        (text, near) for (text, runs), (near, others) in combinations(rows, 2) if are_nearly_the_same(runs, others)
    ]
    assert alike == []


@pytest.mark.parametrize("name", TABLES)
def test_healthcare_tables_hold_empty_and_repeated_rows_on_purpose(name: str) -> None:
    header, *rows = read_table(name)
    assert header == TABLES[name]
    assert {len(row) for row in rows} == {2}
    assert 145 <= len(rows) <= 160
    assert sum(not question.strip() for question, _ in rows) >= 1
    assert sum(not answer.strip() for _, answer in rows) >= 1
    assert len(rows) - len(set(map(tuple, rows))) == 3


def test_healthcare_tables_hold_290_rows_of_use() -> None:
    assert len(read_sources("healthcare-qa")) == 290


def test_exactly_three_raw_queries_do_not_parse() -> None:
    rows = read_rows("text-to-sql/raw/sql.jsonl")
    assert sum(not parses(row["sql_context"], row["sql"]) for row in rows) == 3


def test_queries_are_whole_statements() -> None:
    queries = [row["sql"] for row in read_sources("text-to-sql")]
    assert all(re.match("SELECT |WITH |UPDATE ", query) and query.endswith(";") for query in queries)


@pytest.mark.parametrize("feature", SQL_FEATURES)
def test_queries_use_many_parts_of_sql(feature: str) -> None:
    assert sum(feature in row["sql"] for row in read_sources("text-to-sql")) >= 3
