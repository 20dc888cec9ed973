"""The quick way through a block of rows: a few calls of C for all of it, where its rows are exactly one shape.

It accepts or it declines, and says nothing about why: a declined block is read line by line by the container's own
code, which has the words. So it may decline too much and never too little; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import msgspec
import numpy as np

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


Letters = np.ndarray[Any, np.dtype[np.uint8]]
Where = np.ndarray[Any, np.dtype[np.bool_]]
DECODERS: dict[Shape, msgspec.json.Decoder[Any]] = {
    "text": msgspec.json.Decoder(TextRow),
    "completion": msgspec.json.Decoder(PairRow),
    "messages": msgspec.json.Decoder(ChatRow),
}
SHAPES: tuple[Shape, ...] = ("text", "completion", "messages")
QUOTE, BACKSLASH, LINE_END, OPENS, CLOSES, UNICODE = b'"\\\n{}u'
MAX_ORDERS = 10_000  # orders of roles remembered; a chat of 20 turns is one of them

_good_orders: set[tuple[str, ...]] = set()


def accept(block: bytes, shape: Shape) -> list[int] | None:
    """The identity of each row of a block of whole lines; None when any of it needs a closer look."""
    block = unify_line_ends(block)
    rows = decode(DECODERS[shape], block)
    return list(map(hash, rows)) if rows and is_sound(block, rows, shape) else None


def unify_line_ends(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n") if b"\r" in block else block


def decode(decoder: msgspec.json.Decoder[Any], block: bytes) -> list[Any]:
    """Nothing, where not all lines can be."""
    try:
        return decoder.decode_lines(block)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []


def is_sound(block: bytes, rows: Sequence[Any], shape: Shape, strings_beside: int = 0) -> bool:
    """`strings_beside` is how many strings, keys included, the rows hold beside what is trained."""
    letters = np.frombuffer(block, dtype=np.uint8)
    if not _one_row_a_line(block, letters, len(rows)):
        return False
    strings = _count_strings(rows, shape)
    return strings > 0 and _no_key_twice(block, letters, strings + strings_beside)


def identity(fields: dict[str, Any], shape: Shape) -> int:
    """Equal for rows that train the same, however they are spelt; 8 bytes, so that all rows' fit into memory."""
    if shape == "text":
        return hash(TextRow(fields["text"]))
    if shape == "completion":
        return hash(PairRow(fields["prompt"], fields["completion"]))
    return hash(ChatRow(tuple(Message(message["role"], message["content"]) for message in fields["messages"])))


def _one_row_a_line(block: bytes, letters: Letters, rows: int) -> bool:
    """As many lines as rows, and each of them from one brace to the other: none inside a row, no two on a line."""
    ends = letters == LINE_END
    between = (letters[:-2] == CLOSES) & ends[1:-1] & (letters[2:] == OPENS)
    return (
        block.startswith(b"{")
        and block.endswith((b"}", b"}\n"))
        and _count(ends) == rows - (not block.endswith(b"\n"))
        and _count(between) == rows - 1
    )


def _no_key_twice(block: bytes, letters: Letters, strings: int) -> bool:
    """Every quotation mark is accounted for: two around each of `strings`, all others escaped.

    A key given twice, which every decoder silently overwrites, leaves two or more over.
    """
    quotes = letters == QUOTE
    if b"\\" not in block:
        return _count(quotes) == 2 * strings
    escapes = (letters == BACKSLASH)[:-1]
    if (escapes & (letters[1:] == UNICODE)).any() and b"\\u0000" in block:
        return False  # a NUL is taken, but with a remark
    if (escapes[1:] & escapes[:-1]).any():
        pairless = block.replace(b"\\\\", b"")
        return pairless.count(b'"') - pairless.count(b'\\"') == 2 * strings
    return _count(quotes) - _count(escapes & quotes[1:]) == 2 * strings


def _count(where: Where) -> int:
    return int(np.count_nonzero(where))


def _count_strings(rows: Sequence[Any], shape: Shape) -> int:
    """How many strings, keys included, spell the rows; 0 where a row breaks a rule."""
    if shape == "text":
        return 2 * len(rows) if _none_empty([row.text for row in rows]) else 0
    if shape == "completion":
        return 4 * len(rows) if _none_empty([row.completion for row in rows]) else 0
    messages = [message for row in rows for message in row.messages]
    if not _orders_are_good(rows, messages) or not _contents_are_good(messages):
        return 0
    return len(rows) + 4 * len(messages)


def _none_empty(texts: list[str]) -> bool:
    return all(texts) and not any(map(str.isspace, texts))


def _contents_are_good(messages: Sequence[Message]) -> bool:
    return _none_empty([message.content for message in messages]) or not any(
        message.role in ("user", "assistant") and not message.content.strip() for message in messages
    )


def _orders_are_good(rows: Sequence[ChatRow], messages: Sequence[Message]) -> bool:
    roles = iter([message.role for message in messages])
    lengths = [len(row.messages) for row in rows]
    if lengths[0] and lengths.count(lengths[0]) == len(lengths):
        orders = set(zip(*[roles] * lengths[0], strict=True))  # of one length, as single questions are: twice as fast
    else:
        orders = {tuple(islice(roles, length)) for length in lengths}
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
