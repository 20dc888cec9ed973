"""Templates: "{column}" stands for a column's text, "{{" and "}}" for braces; nothing in the text is escaped."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

Fields = Mapping[str, Any]
Render = Callable[[Fields], Any]


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


def make_text(template: str) -> Callable[[Fields], str]:
    """Fields -> text. A printf form filled from a tuple takes half the time of str.format."""
    pairs = _parse(template)
    form = "".join(text.replace("%", "%%") + ("%s" if name else "") for text, name in pairs)
    names = [name for _, name in pairs if name]
    return lambda fields: form % tuple([fields[name] for name in names])


def make_row(templates: Mapping[str, str]) -> Render:
    """Fields -> a row in one of the trainer's shapes."""
    texts = {name: make_text(template) for name, template in templates.items()}
    if not texts:
        return _take_shape
    if "template" in texts:
        text = texts["template"]
        return lambda fields: {"text": text(fields)}
    if "completion" in texts:
        prompt, completion = texts.get("prompt", make_text("")), texts["completion"]
        return lambda fields: {"prompt": prompt(fields), "completion": completion(fields)}
    return lambda fields: {"messages": [{"role": role, "content": make(fields)} for role, make in texts.items()]}


def _take_shape(fields: Fields) -> dict[str, Any]:
    """Without a template a row must have one of the shapes already; its other columns are left out."""
    for names in (("messages",), ("prompt", "completion"), ("text",)):
        if all(name in fields for name in names):
            return {name: fields[name] for name in names}
    raise TemplateError(
        f"there is no template, and {', '.join(fields) or 'nothing'} is no row by itself. Set data.prepare.template, "
        "or map the columns to text, prompt and completion, or messages"
    )
