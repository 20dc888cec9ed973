"""Templates: "{column}" stands for a column's text, "{{" and "}}" for braces; nothing in the text is escaped."""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

Columns = Mapping[str, Sequence[str]]


class TemplateError(ValueError):
    """A template that cannot be meant, or a row that does not fit one."""


@lru_cache(maxsize=64)
def _parse(template: str) -> tuple[tuple[str, str], ...]:
    """Pairs of the text before a column and the column, which is empty at the end."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TemplateError(f"{error}. Write a brace that is meant as one twice: {{{{ or }}}}.") from error
    for _, name, spec, conversion in parts:
        if name is not None and (spec or conversion or not name or set(".[]") & set(name)):
            written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise TemplateError(
                f"{{{written}}} is not a column. Write {{question}}, or {{{{ and }}}} for braces that are text."
            )
    return tuple((text, name or "") for text, name, _, _ in parts)


def columns_of(template: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, name in _parse(template) if name))


def make_texts(template: str) -> Callable[[Columns], list[str]]:
    """Columns -> the texts of all rows. A printf form mapped over tuples takes a third of the time of str.format."""
    pairs = _parse(template)
    form = "".join(text.replace("%", "%%") + ("%s" if name else "") for text, name in pairs)
    names = [name for _, name in pairs if name]
    if not names:
        return lambda columns: [form % ()] * len(next(iter(columns.values()), ()))
    return lambda columns: list(map(form.__mod__, zip(*[columns[name] for name in names], strict=True)))


TRAINED = {"template": "text", "completion": "completion", "user": "user", "assistant": "assistant"}
SHAPES = (("messages",), ("prompt", "completion"), ("text",))


def make_parts(templates: Mapping[str, str]) -> Callable[[Columns], dict[str, list[str]]]:
    """Columns -> the texts of each template. Those in TRAINED must not be empty, or their row cannot be trained."""
    texts = {name: make_texts(template) for name, template in templates.items()}
    if "completion" in texts:
        texts.setdefault("prompt", make_texts(""))
    return lambda columns: {name: make(columns) for name, make in texts.items()}


def make_rows(parts: Mapping[str, Sequence[str]]) -> list[Any]:
    """The templates' texts -> rows in one of the trainer's shapes."""
    if "template" in parts:
        return [{"text": text} for text in parts["template"]]
    if "completion" in parts:
        pairs = zip(parts["prompt"], parts["completion"], strict=True)
        return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    roles = list(parts)
    return [
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]}
        for turns in zip(*parts.values(), strict=True)
    ]


def take_shape(fields: Mapping[str, Any], mapped: Collection[str] = ()) -> dict[str, Any]:
    """Without a template a row must have one of the shapes already; its other columns are left out. A shape that
    columns are mapped to is meant, whatever else the row has."""
    meant = [names for names in SHAPES if any(name in mapped for name in names)] if mapped else []
    for names in meant or SHAPES:
        if all(name in fields for name in names):
            return {name: fields[name] for name in names}
    raise TemplateError(
        f"there is no template, and {', '.join(fields) or 'nothing'} is no row by itself. Set data.prepare.template, "
        "or map the columns to text, prompt and completion, or messages"
    )
