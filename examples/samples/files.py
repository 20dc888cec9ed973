"""Rows as the text of the files that hold them: UTF-8, LF, keys in the order given."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence

Row = Mapping[str, str]


def jsonl(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def text_jsonl(texts: Iterable[str]) -> str:
    return jsonl({"text": text} for text in texts)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return table.getvalue()
