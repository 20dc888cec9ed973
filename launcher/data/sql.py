"""Does a query parse? Asked of sqlglot, which the `data` extra brings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from launcher.errors import DataError, RecipeError

INSTALL = "pip install 'qlora-launcher[data]'"


def has_sqlglot() -> bool:
    from importlib.util import find_spec

    return find_spec("sqlglot") is not None


def make_parser(dialect: str, *, must: bool) -> Callable[[Any], bool] | None:
    """None where sqlglot is not installed and rows need not be dropped: then nothing is counted."""
    if not has_sqlglot():
        if must:
            raise DataError("data.prepare.drop_bad_sql needs a parser of SQL.", hint=f"Install it: {INSTALL}.")
        return None
    import sqlglot
    from sqlglot.errors import SqlglotError

    if dialect and dialect.lower() not in sqlglot.Dialect.classes:
        known = ", ".join(sorted(name for name in sqlglot.Dialect.classes if name))
        raise RecipeError(f"data.prepare.sql_dialect is {dialect!r}; it must be one of {known}.")
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of each statement that it knows by name alone

    def parses(query: Any) -> bool:
        try:
            return isinstance(query, str) and any(sqlglot.parse(query, read=dialect or None))
        except (SqlglotError, RecursionError):
            return False

    return parses
