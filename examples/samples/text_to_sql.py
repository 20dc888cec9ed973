"""examples/data/text-to-sql: a question, its tables and the query."""

from __future__ import annotations

from collections.abc import Callable

from samples.dice import Dice
from samples.files import jsonl
from samples.sql_queries import PATTERNS
from samples.sql_schemas import SCHEMAS

ROWS = 200
SEED = 4409

Row = dict[str, str]


def make_files() -> dict[str, str]:
    """A few of the queries do not parse: preparing has to drop them."""
    dice = Dice(SEED)
    rows = make_rows(dice)
    good, spare = rows[: ROWS - len(BREAKS)], rows[ROWS - len(BREAKS) :]
    dice.shuffled(
        good
    )  # another draw would be another order of rows, and the README's figures were measured in this one
    return {"text-to-sql/raw/sql.jsonl": jsonl(dice.shuffled(good + break_rows(spare)))}


def make_rows(dice: Dice) -> list[Row]:
    """Every pattern on every schema, in random order."""
    rows: list[Row] = []
    for pattern in PATTERNS:
        for schema in SCHEMAS:
            ask, sql = pattern(dice, schema)
            rows.append({"sql_prompt": ask, "sql_context": schema.context, "sql": sql})
    return dice.shuffled(rows)


def lose_bracket(sql: str) -> str:
    head, _, tail = sql.rpartition(")")
    return head + tail


def lose_quote(sql: str) -> str:
    head, _, tail = sql.rpartition("'")
    return head + tail


def lose_condition(sql: str) -> str:
    """Stop after WHERE, as an answer that was cut off does."""
    return sql[: sql.index(" WHERE ")] + " WHERE"


BREAKS: tuple[Callable[[str], str], ...] = (lose_bracket, lose_quote, lose_condition)


def break_rows(rows: list[Row]) -> list[Row]:
    """Break the first rows that offer all that can be lost, each in another way."""
    breakable = [row for row in rows if all(part in row["sql"] for part in (")", "'", " WHERE "))]
    return [row | {"sql": lose(row["sql"])} for lose, row in zip(BREAKS, breakable, strict=False)]
