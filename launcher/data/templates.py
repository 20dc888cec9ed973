"""Templates: "{column}" stands for a column's text, "{{" and "}}" for braces; nothing in the text is escaped."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
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


def make_rows(templates: Mapping[str, str]) -> Callable[[Columns], list[Any]]:
    """Columns -> rows in one of the trainer's shapes."""
    texts = {name: make_texts(template) for name, template in templates.items()}
    if "template" in texts:
        make = texts["template"]
        return lambda columns: [{"text": text} for text in make(columns)]
    if "completion" in texts:
        prompts, completions = texts.get("prompt", make_texts("")), texts["completion"]
        return lambda columns: [
            {"prompt": prompt, "completion": completion}
            for prompt, completion in zip(prompts(columns), completions(columns), strict=True)
        ]
    roles = list(texts)
    return lambda columns: [
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]}
        for turns in zip(*[make(columns) for make in texts.values()], strict=True)
    ]


def take_shape(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without a template a row must have one of the shapes already; its other columns are left out."""
    for names in (("messages",), ("prompt", "completion"), ("text",)):
        if all(name in fields for name in names):
            return {name: fields[name] for name in names}
    raise TemplateError(
        f"there is no template, and {', '.join(fields) or 'nothing'} is no row by itself. Set data.prepare.template, "
        "or map the columns to text, prompt and completion, or messages"
    )
