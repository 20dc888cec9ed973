"""What a recipe says about its sources: the tables [[data.sources]], [[data.filters]] and [data.prepare]."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from launcher.data.templates import TemplateError, columns_of
from launcher.errors import RecipeError

ChannelName = Literal["", "train", "eval", "test"]
Format = Literal["", "csv", "tsv", "json", "jsonl", "parquet"]
CHANNELS: tuple[ChannelName, ...] = ("train", "eval", "test")


@dataclass(frozen=True)
class Source:
    """Files, or a data set of the Hub. `columns` maps our name to the source's; `channel` keeps it out of the split."""

    path: str = ""
    dataset: str = ""
    subset: str = ""
    rows: str = "train"
    revision: str = ""
    format: Format = ""
    delimiter: str = ""
    quote: str = '"'
    columns: Mapping[str, str] = field(default_factory=dict)
    channel: ChannelName = ""
    first: int = 0

    @property
    def name(self) -> str:
        """The last part of its path: the same on every machine."""
        return Path(self.path.rstrip("/")).name or self.dataset

    @property
    def is_remote(self) -> bool:
        """In S3, to be fetched."""
        return self.path.startswith("s3://")

    @property
    def is_here(self) -> bool:
        """On this machine; asked of a source with its full path."""
        return Path(self.dataset).is_dir() if self.dataset else not self.is_remote


@dataclass(frozen=True)
class Filter:
    """Rows stay whose column fits all that is given."""

    column: str = ""
    one_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    matches: str = ""
    lacks: str = ""
    min_chars: int = 0
    max_chars: int = 0


@dataclass(frozen=True)
class Prepare:
    """How rows become channels. Of the templates give one form: template, prompt and completion, or user and assistant.

    `limit` keeps that many rows, drawn by the seed. `split_by` keeps rows that agree in these columns in one channel.
    """

    template: str = ""
    prompt: str = ""
    completion: str = ""
    system: str = ""
    user: str = ""
    assistant: str = ""
    drop_empty: tuple[str, ...] = ()
    deduplicate: bool = True
    sql_column: str = ""
    sql_dialect: str = ""
    drop_bad_sql: bool = False
    limit: int = 0
    split: tuple[int, ...] = (80, 10, 10)
    split_by: tuple[str, ...] = ()
    seed: int = 42

    @property
    def templates(self) -> dict[str, str]:
        """The templates that are given, by the part of a row that each one makes."""
        names = ("template", "prompt", "completion", "system", "user", "assistant")
        return {name: value for name in names if (value := getattr(self, name))}


def keys_of_columns(filters: Sequence[Filter], prepare: Prepare) -> dict[str, str]:
    """Every column that the settings speak of, in order of appearance, with the first key that does."""
    pairs = [
        (column, f"data.prepare.{name}") for name, text in prepare.templates.items() for column in columns_of(text)
    ]
    pairs += [(column, "data.prepare.drop_empty") for column in prepare.drop_empty]
    pairs += [(column, "data.prepare.split_by") for column in prepare.split_by]
    pairs += [(prepare.sql_column, "data.prepare.sql_column")] if prepare.sql_column else []
    pairs += [(item.column, f"data.filters[{number}].column") for number, item in enumerate(filters, start=1)]
    columns: dict[str, str] = {}
    for column, key in pairs:
        columns.setdefault(column, key)
    return columns


FORMS = ({"template"}, {"prompt", "completion"}, {"completion"}, {"user", "assistant"}, {"system", "user", "assistant"})


def check_settings(sources: Sequence[Source], filters: Sequence[Filter], prepare: Prepare) -> None:
    """Refuse what cannot be meant; the message names the key."""
    for number, source in enumerate(sources, start=1):
        _check_source(f"data.sources[{number}]", source)
    for number, item in enumerate(filters, start=1):
        _check_filter(f"data.filters[{number}]", item)
    _check_templates(prepare)
    _check_split(prepare)
    _check_sql(prepare)


def _check_source(key: str, source: Source) -> None:
    if bool(source.path) == bool(source.dataset):
        raise RecipeError(
            f"{key} must have either a path or a dataset.",
            hint='Write path = "rows.csv" for files, or dataset = "owner/name" for the Hub.',
        )
    if source.first < 0:
        raise RecipeError(f"{key}.first is {source.first}; it must be 0 (all) or more.")
    for name in ("delimiter", "quote"):
        if len(getattr(source, name).encode()) > 1:
            raise RecipeError(f"{key}.{name} is {getattr(source, name)!r}; it must be one ASCII character, or empty.")


def _check_filter(key: str, item: Filter) -> None:
    if not item.column:
        raise RecipeError(f"{key} names no column.", hint='Write column = "answer" into it.')
    if item == Filter(item.column):
        raise RecipeError(
            f"{key} does not filter.", hint="Give it one_of, none_of, matches, lacks, min_chars or max_chars."
        )
    for name in ("matches", "lacks"):
        try:
            re.compile(getattr(item, name))
        except re.error as error:
            raise RecipeError(f"{key}.{name} is not a regular expression: {error}.") from error


def _check_templates(prepare: Prepare) -> None:
    given = prepare.templates
    if given and given.keys() not in FORMS:
        raise RecipeError(
            f"data.prepare has {', '.join(given)}, which are no row together.",
            hint="Give template, or prompt and completion, or user and assistant (and system, if there is one).",
        )
    for name, text in given.items():
        try:
            columns_of(text)
        except TemplateError as error:
            raise RecipeError(f"data.prepare.{name}: {error}") from error
    if given and not any(columns_of(text) for text in given.values()):
        raise RecipeError(
            f"data.prepare.{next(iter(given))} names no column, so that all rows would be the same.",
            hint="Write a column in braces: {question}.",
        )


def _check_split(prepare: Prepare) -> None:
    split = prepare.split
    if not 1 <= len(split) <= len(CHANNELS) or min(split) < 0 or not split[0]:
        raise RecipeError(
            f"data.prepare.split is {list(split)}; it must be the parts of train, eval and test, train above 0.",
            hint="Write split = [80, 10, 10].",
        )
    for name in ("limit", "seed"):
        if getattr(prepare, name) < 0:
            raise RecipeError(f"data.prepare.{name} is {getattr(prepare, name)}; it must be 0 or more.")


def _check_sql(prepare: Prepare) -> None:
    """The dialect itself is looked up where the parser is."""
    for name in ("sql_dialect", "drop_bad_sql"):
        if getattr(prepare, name) and not prepare.sql_column:
            raise RecipeError(
                f"data.prepare.{name} says nothing without sql_column.", hint='Name the column: sql_column = "sql".'
            )


def given_fields(table: Source | Filter) -> dict[str, object]:
    """What a table says beside its defaults, as a recipe writes it."""
    empty = type(table)()
    return {
        item.name: getattr(table, item.name)
        for item in dataclasses.fields(table)
        if getattr(table, item.name) != getattr(empty, item.name)
    }
