"""Values as somebody wrote them in TOML or on the command line -> typed fields, and back."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from container_src.sft import config as sft
from launcher.data.settings import Filter, Source, given_fields
from launcher.errors import RecipeError
from launcher.recipe_sections import KEYS, OWNERS


@dataclass(frozen=True)
class Given:
    """One value as somebody wrote it."""

    value: Any
    origin: str


def convert(key: str, item: Given) -> Any:
    owner, name = KEYS[key]
    if owner != "config":
        hints = get_type_hints(OWNERS[owner])
        parse = OWNERS[owner].__dataclass_fields__[name].metadata.get("parse")
        if parse and isinstance(item.value, str):
            return _parsed(key, item, parse)
        return convert_plain(key, item, hints[name])
    value = item.value
    if isinstance(value, list) and sft.type_of(name) is str:
        value = ",".join(str(part) for part in value)  # SageMaker would send a list as a Python repr
    if isinstance(value, str) and not is_text(key):
        raise RecipeError(f"{item.origin}: {key} is {value!r}; it must be of type {sft.type_of(name).__name__}.")
    try:
        return sft.coerce(name, value)
    except sft.ConfigError as error:
        raise RecipeError(f"{item.origin}: {recipe_words(str(error))}.") from error


def is_text(key: str) -> bool:
    """Whether a recipe writes this key as a string; unknown keys are refused later, with a suggestion."""
    owner, name = KEYS.get(key, ("", "name"))
    if not owner:
        return True
    wanted = sft.type_of(name) if owner == "config" else get_type_hints(OWNERS[owner])[name]
    return wanted is str or get_origin(wanted) is Literal


def _parsed(key: str, item: Given, parse: Any) -> Any:
    try:
        return parse(item.value)
    except ValueError as error:
        raise RecipeError(f"{item.origin}: {key} is {item.value!r}; {error}.") from error


def convert_plain(key: str, item: Given, wanted: Any) -> Any:
    value = item.value
    if get_origin(wanted) is Literal:
        if value in get_args(wanted):
            return value
        known = ", ".join(word for word in get_args(wanted) if word)
        more = ", or left out" if "" in get_args(wanted) else ""
        raise RecipeError(f"{item.origin}: {key} is {value!r}; it must be one of {known}{more}.")
    if get_origin(wanted) is Mapping:
        if isinstance(value, dict) and all(isinstance(part, str) for part in value.values()):
            return dict(value)
        raise RecipeError(f'{item.origin}: {key} must be a table of names, such as {{ answer = "their_answer" }}.')
    if get_origin(wanted) is tuple:
        part_type = get_args(wanted)[0]
        if dataclasses.is_dataclass(part_type):
            return tuple(_make_tables(key, item, part_type))
        if part_type is int:
            return _convert_numbers(key, item)
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise RecipeError(f"{item.origin}: {key} must be a list of strings.")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise RecipeError(f"{item.origin}: {key} is {value!r}; it must be of type {wanted.__name__}.")
    return value


def _make_tables(key: str, item: Given, table: Any) -> Iterator[Any]:
    """[[data.sources]] and its like: a list of tables, each of them a frozen object."""
    if not isinstance(item.value, list) or not all(isinstance(entry, dict) for entry in item.value):
        raise RecipeError(f"{item.origin}: {key} must be a list of tables.", hint=f"Begin each with [[{key}]].")
    hints = get_type_hints(table)
    for number, entry in enumerate(item.value, start=1):
        fields = {}
        for name, value in entry.items():
            if name not in hints:
                close = difflib.get_close_matches(name, hints, n=1, cutoff=0.6)
                raise RecipeError(
                    f"{item.origin}: {key}[{number}].{name} is not a key of a recipe.",
                    hint=f"Did you mean {key}[{number}].{close[0]}?" if close else f"Keys there: {', '.join(hints)}.",
                )
            fields[name] = convert_plain(f"{key}[{number}].{name}", Given(value, item.origin), hints[name])
        yield table(**fields)


def _convert_numbers(key: str, item: Given) -> tuple[int, ...]:
    value = item.value
    if isinstance(value, list) and all(isinstance(part, int) and not isinstance(part, bool) for part in value):
        return tuple(value)
    raise RecipeError(f"{item.origin}: {key} is {value!r}; it must be a list of whole numbers.")


def recipe_words(message: str) -> str:
    """The container speaks of lora_r; in a recipe that is lora.r."""
    name = message.partition(" ")[0]
    if name in sft.TrainConfig.__dataclass_fields__:
        return message.replace(name, ".".join(sft.section_of(name)), 1)
    return message


def format_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for a DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(format_value(part) for part in value) + "]"
    if isinstance(value, Source | Filter):
        return format_value(given_fields(value))
    if isinstance(value, Mapping):
        pairs = (f"{_format_key(key)} = {format_value(part)}" for key, part in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    return repr(value)


def _format_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else format_value(key)
