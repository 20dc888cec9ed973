"""The quick way through a block of rows: a whole block in a few calls of C, for rows that are exactly one shape.

It accepts or it declines, and says nothing about why: a declined block is read line by line by the container's own code,
which has the words. So it may decline too much and never too little; a test holds the two against each other.

Measured at 150 bytes a row: `json.loads` and the rules row by row 25 MB/s, a typed decoder row by row 140 MB/s, this
way about 100 MB/s with every rule; at 700 bytes a row 100, 440 and 260 MB/s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import msgspec

from container_src.sft.data import Row, RowError, Shape, check_row


class TextRow(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    text: str


class PairRow(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    prompt: str
    completion: str


class Message(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ChatRow(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    messages: tuple[Message, ...]


TypedRow = TextRow | PairRow | ChatRow
DECODERS: dict[Shape, msgspec.json.Decoder[Any]] = {
    "text": msgspec.json.Decoder(TextRow),
    "completion": msgspec.json.Decoder(PairRow),
    "messages": msgspec.json.Decoder(ChatRow),
}
SHAPES: tuple[Shape, ...] = ("text", "completion", "messages")
# Where one canonical row ends and the next begins; a long needle is found several times faster than "}\n{".
BOUNDARIES: dict[Shape, tuple[bytes, ...]] = {
    "text": (b'"}\n{"text"', b"}\n{"),
    "completion": (b'"}\n{"prompt"', b"}\n{"),
    "messages": (b'}]}\n{"messages"', b"}\n{"),
}
MAX_ORDERS = 10_000  # orders of roles remembered; a chat of 20 turns is one of them

_good_orders: set[tuple[str, ...]] = set()


def accept(block: bytes, shape: Shape) -> list[int] | None:
    """The identity of each row of a block of whole lines; None when any of it needs a closer look."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    try:
        rows = DECODERS[shape].decode_lines(block)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not _one_row_a_line(block, len(rows), shape):
        return None
    texts, strings = _texts_of(rows, shape)
    if texts is None or not _no_key_twice(block, strings, texts):
        return None
    return list(map(hash, rows))


def identity(fields: dict[str, Any], shape: Shape) -> int:
    """Equal for rows that train the same, however they are spelt; 8 bytes, so that all rows' fit into memory."""
    if shape == "text":
        return hash(TextRow(fields["text"]))
    if shape == "completion":
        return hash(PairRow(fields["prompt"], fields["completion"]))
    return hash(ChatRow(tuple(Message(message["role"], message["content"]) for message in fields["messages"])))


def _one_row_a_line(block: bytes, rows: int, shape: Shape) -> bool:
    """As many line ends as rows, and each of them between two rows: none inside a row, no two rows on a line."""
    if not rows or not block.startswith(b"{") or not block.endswith((b"}\n", b"}")):
        return False
    if block.count(b"\n") != rows - (not block.endswith(b"\n")):
        return False
    return any(block.count(boundary) == rows - 1 for boundary in BOUNDARIES[shape])


def _no_key_twice(block: bytes, strings: int, texts: Sequence[str]) -> bool:
    """Every quotation mark is accounted for: two around each of `strings`, and those inside the texts.

    A key given twice, which every decoder silently overwrites, leaves two or more over. The count would be wrong with a
    mark spelt as \\u0022; a NUL is spelt \\u0000 and is to be remarked on. Nobody writes either.
    """
    quotes = block.count(b'"') - 2 * strings
    if b"\\" not in block:
        return quotes == 0
    if b"\\u00" in block and (b"\\u0022" in block or b"\\u0000" in block):
        return False
    return quotes == "".join(texts).count('"')


def _texts_of(rows: Sequence[Any], shape: Shape) -> tuple[list[str] | None, int]:
    """All texts of the rows, or None where one breaks a rule; and how many strings the rows are spelt with."""
    if shape == "text":
        return _none_empty([row.text for row in rows]), 2 * len(rows)
    if shape == "completion":
        completions = _none_empty([row.completion for row in rows])
        prompts = [row.prompt for row in rows]
        return (completions + prompts if completions else None), 4 * len(rows)
    messages = [message for row in rows for message in row.messages]
    if not _orders_are_good(rows, messages):
        return None, 0
    texts = [message.content for message in messages]
    if not _none_empty(texts) and any(
        message.role in ("user", "assistant") and not message.content.strip() for message in messages
    ):
        return None, 0
    return texts, len(rows) + 4 * len(messages)


def _none_empty(texts: list[str]) -> list[str] | None:
    return None if not all(texts) or any(map(str.isspace, texts)) else texts


def _orders_are_good(rows: Sequence[ChatRow], messages: Sequence[Message]) -> bool:
    roles = iter([message.role for message in messages])
    orders = {tuple(islice(roles, len(row.messages))) for row in rows}
    return orders <= _good_orders or all(_order_is_good(order) for order in orders)


def _order_is_good(order: tuple[str, ...]) -> bool:
    """By the container's own rule, once for each order there is. One that earns a remark is not remembered as good."""
    messages = [{"role": role, "content": "."} for role in order]
    try:
        check_row(Row("", 0, {"messages": messages}))
    except RowError:
        return False
    if order[-1] != "assistant":
        return False
    if len(_good_orders) < MAX_ORDERS:
        _good_orders.add(order)
    return True
