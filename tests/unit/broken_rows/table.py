"""Broken channels: a name, the bytes of train.jsonl, and all that is said of them. Loaded by path, never as a package."""

from __future__ import annotations

from typing import NamedTuple

GOOD = b'{"text": "fine"}\n'
SHAPES = '{"text": ...}, {"prompt": ..., "completion": ...} or {"messages": [{"role": ..., "content": ...}, ...]}'


class Broken(NamedTuple):
    name: str
    content: bytes
    says: str
    field: str = ""


def chat(*turns: tuple[str, str]) -> bytes:
    messages = ", ".join(f'{{"role": "{role}", "content": "{content}"}}' for role, content in turns)
    return f'{{"messages": [{messages}]}}\n'.encode()


REFUSED = [
    Broken("empty", b"", "train.jsonl: it is empty. Write one JSON object a line."),
    Broken("blank lines alone", b"\n \n\t\r\n", "train.jsonl: it is empty. Write one JSON object a line."),
    Broken("latin-1", GOOD + b'{"text": "caf\xe9"}\n', "train.jsonl:2: not UTF-8 (invalid continuation byte at byte 14). Save the file as UTF-8."),
    Broken("cut character", GOOD + b'{"text": "caf\xc3"}\n', "train.jsonl:2: not UTF-8 (invalid continuation byte at byte 14). Save the file as UTF-8."),
    Broken("overlong NUL", b'{"text": "\xc0\x80"}\n', "train.jsonl:1: not UTF-8 (invalid start byte at byte 11). Save the file as UTF-8."),
    Broken("surrogate bytes", b'{"text": "\xed\xa0\x80"}\n', "train.jsonl:1: not UTF-8 (invalid continuation byte at byte 11). Save the file as UTF-8."),
    Broken("UTF-16", '{"text": "a"}\n'.encode("utf-16"), "train.jsonl:1: it is UTF-16. Save it as UTF-8."),
    Broken("UTF-16 without mark", '{"text": "a"}\n'.encode("utf-16-le"), "train.jsonl:1: not JSON: it holds NUL bytes, as UTF-16 and damaged files do. Save the file as UTF-8."),
    Broken("NUL bytes", GOOD + b"\0" * 64 + b"\n", "train.jsonl:2: not JSON: it holds NUL bytes, as UTF-16 and damaged files do. Save the file as UTF-8."),
    Broken("gzip", b"\x1f\x8b\x08\x00" + bytes(60), "train.jsonl:1: it is compressed (gzip). `launcher prepare` reads .gz; a channel must be plain text."),
    Broken("Parquet", b"PAR1" + bytes(60), "train.jsonl:1: it is a Parquet file. `launcher prepare` turns it into rows."),
    Broken("zip", b"PK\x03\x04" + bytes(60), "train.jsonl:1: it is a zip archive. Unpack it, then `launcher prepare` turns its files into rows."),
    Broken("CSV", b"question,answer\n", "train.jsonl:1: not JSON: Expecting value at column 1. Write one object per line."),
    Broken("cut in the middle", GOOD + b'{"text": "fi', "train.jsonl:2: not JSON: Unterminated string starting at column 10. Write one object per line."),
    Broken("trailing comma", b'{"text": "a"},\n', "train.jsonl:1: not JSON: Extra data at column 14. Write one object per line."),
    Broken("two rows on a line", b'{"text": "a"} {"text": "b"}\n', "train.jsonl:1: not JSON: Extra data at column 15. Write one object per line."),
    Broken("a row over two lines", b'{"text":\n"a"}\n', "train.jsonl:1: not JSON: Expecting value at column 1. Write one object per line."),
    Broken("lines that make up for each other", b'{"text": "a"} {"text":\n"b"}\n', "train.jsonl:1: not JSON: Extra data at column 15. Write one object per line.|train.jsonl:2: not JSON: Extra data at column 4. Write one object per line."),
    Broken("old Mac line ends", b'{"text": "a"}\r{"text": "b"}\r', "train.jsonl:1: not JSON: it holds line ends of CR alone, as old Macs wrote them. Save the file with LF."),
    Broken("raw tab in a text", b'{"text": "a\tb"}\n', "train.jsonl:1: not JSON: Invalid control character at column 12. Write one object per line."),
    Broken("Python quotes", b"{'text': 'a'}\n", "train.jsonl:1: not JSON: Expecting property name enclosed in double quotes at column 2. Write one object per line."),
    Broken("wrong escape", b'{"text": "a\\q"}\n', "train.jsonl:1: not JSON: Invalid \\escape at column 12. Write one object per line."),
    Broken("a JSON array", b'[{"text": "a"}]\n', f"train.jsonl:1: a list, not an object. Use {SHAPES}."),
    Broken("a number", b"42\n", f"train.jsonl:1: a number, not an object. Use {SHAPES}."),
    Broken("null", b"null\n", f"train.jsonl:1: null, not an object. Use {SHAPES}."),
    Broken("nested too deep", b'{"text": ' + b"[" * 100_000 + b"\n", "train.jsonl:1: not JSON that can be read: it is nested too deep. Flatten it."),
    Broken("endless number", b'{"text": "a", "id": ' + b"9" * 5000 + b"}\n", "train.jsonl:1: not JSON that can be read: a number in it has thousands of digits. Shorten it."),
    Broken("key twice", GOOD + b'{"text": "a", "text": "b"}\n', 'train.jsonl:2: "text" is given twice. Keep one of them.', "text"),
    Broken("key twice, once escaped", b'{"text": "a", "te\\u0078t": "b"}\n', 'train.jsonl:1: "text" is given twice. Keep one of them.', "text"),
    Broken("key twice, marks made up for", b'{"text": 1, "text": "\\u0022\\u0022"}\n', 'train.jsonl:1: "text" is given twice. Keep one of them.', "text"),
    Broken("key twice in a message", b'{"messages": [{"role": "user", "role": "user", "content": "a"}]}\n', 'train.jsonl:1: "role" is given twice. Keep one of them.', "role"),
    Broken("no keys", b"{}\n", f"train.jsonl:1: unknown shape: it has no keys. Use {SHAPES}."),
    Broken("unknown shape", b'{"question": "a", "answer": "b"}\n', f"train.jsonl:1: unknown shape: it has answer, question. Use {SHAPES}."),
    Broken("a key for the terminal", b'{"\\u001b[2J": 1}\n', f"train.jsonl:1: unknown shape: it has \\x1b[2J. Use {SHAPES}."),
    Broken("half a pair in a key", b'{"\\ud800": 1}\n', f"train.jsonl:1: unknown shape: it has \\ud800. Use {SHAPES}."),
    Broken("text is null", b'{"text": null}\n', 'train.jsonl:1: "text" is null. It must be text.', "text"),
    Broken("text is a list", b'{"text": ["a"]}\n', 'train.jsonl:1: "text" is a list. It must be text.', "text"),
    Broken("text is empty", GOOD + b'{"text": ""}\n', 'train.jsonl:2: "text" is empty. Fix the row or drop it.', "text"),
    Broken("text is blank", '{"text": " \\n\u2003"}\n'.encode(), 'train.jsonl:1: "text" is empty. Fix the row or drop it.', "text"),
    Broken("half a surrogate pair", b'{"text": "a\\ud83d"}\n', 'train.jsonl:1: "text" holds \\ud83d, one half of a character. Write the whole or remove it.', "text"),
    Broken("no completion", b'{"prompt": "q"}\n', 'train.jsonl:1: "completion" is missing. It must be text.', "completion"),
    Broken("no prompt", b'{"completion": "a"}\n', 'train.jsonl:1: "prompt" is missing. It must be text.', "prompt"),
    Broken("completion is a number", b'{"prompt": "q", "completion": 3}\n', 'train.jsonl:1: "completion" is a number. It must be text.', "completion"),
    Broken("completion is blank", b'{"prompt": "q", "completion": " "}\n', 'train.jsonl:1: "completion" is empty. Fix the row or drop it.', "completion"),
    Broken("messages is text", b'{"messages": "hi"}\n', 'train.jsonl:1: "messages" must be a list with at least one message.', "messages"),
    Broken("no message", b'{"messages": []}\n', 'train.jsonl:1: "messages" must be a list with at least one message.', "messages"),
    Broken("a message of text", b'{"messages": ["hi"]}\n', 'train.jsonl:1: message 1 must be an object with "role" and "content".', "messages[0]"),
    Broken("a message without content", b'{"messages": [{"role": "user"}]}\n', 'train.jsonl:1: message 1 must be an object with "role" and "content".', "messages[0]"),
    Broken("unknown role", chat(("human", "a"), ("assistant", "b")), "train.jsonl:1: message 1 has the role 'human'. Use one of system, user, assistant, tool.", "messages[0].role"),
    Broken("role is a list", b'{"messages": [{"role": [], "content": "a"}]}\n', "train.jsonl:1: message 1 has the role a list. Use one of system, user, assistant, tool.", "messages[0].role"),
    Broken("content is null", b'{"messages": [{"role": "user", "content": null}]}\n', 'train.jsonl:1: the "content" of message 1 is null. It must be text.', "messages[0].content"),
    Broken("an empty question", chat(("user", " "), ("assistant", "b")), "train.jsonl:1: the \"content\" of message 1, the user's, is empty. Fix the row or drop it.", "messages[0].content"),
    Broken("an empty answer", chat(("user", "a"), ("assistant", "")), "train.jsonl:1: the \"content\" of message 2, the assistant's, is empty. Fix the row or drop it.", "messages[1].content"),
    Broken("no answer", chat(("user", "a")), "train.jsonl:1: no message of the assistant, so nothing to train. Add one or drop the row.", "messages"),
    Broken("answer first", chat(("assistant", "b"), ("user", "a")), "train.jsonl:1: message 1, the assistant's, comes first. There the system or user must speak: reorder the messages, join two of the same role, or drop the row.", "messages[0].role"),
    Broken("two questions", chat(("user", "a"), ("user", "b"), ("assistant", "c")), "train.jsonl:1: message 2, the user's, follows the user's. There the assistant must speak: reorder the messages, join two of the same role, or drop the row.", "messages[1].role"),
    Broken("late system", chat(("user", "a"), ("assistant", "b"), ("system", "c")), "train.jsonl:1: message 3, the system's, follows the assistant's. There the user or tool must speak: reorder the messages, join two of the same role, or drop the row.", "messages[2].role"),
    Broken("mixed shapes", GOOD + b'{"prompt": "q", "completion": "a"}\n', "train.jsonl:2: the channel mixes shapes: text (first at train.jsonl:1), completion (first at train.jsonl:2). Use one shape for all rows of a channel."),
    Broken("an absurd line", GOOD + b'{"text": "' + b"x" * (17 << 20) + b'"}\n' + b'{"text": 1}\n', 'train.jsonl:2: the line is longer than 16 MiB. Split it into rows, or drop it.|train.jsonl:3: "text" is a number. It must be text.'),
]  # fmt: skip

WARNED = [
    Broken("CR LF", b'{"text": "a"}\r\n{"text": "b"}\r\n', "train.jsonl:1: the first of 2 rows ending in CR LF, as Windows writes them; they train the same. Nothing has to be done."),
    Broken("byte order mark", b"\xef\xbb\xbf" + GOOD, "train.jsonl:1: a row with a byte order mark in front, which is skipped. Save the file as UTF-8 without it."),
    Broken("other keys", GOOD + b'{"text": "b", "id": 7, "tags": []}\n', "train.jsonl:2: a row with keys that are not trained: id, tags. What must be trained has to stand in the row's text."),
    Broken("other keys in messages", b'{"messages": [{"role": "user", "content": "a", "name": "\\u001b"}, {"role": "assistant", "content": "b", "tool_calls": 5}], "id": 1}\n', "train.jsonl:1: a row with keys that are not trained: id, messages.name, messages.tool_calls. What must be trained has to stand in the row's text."),
    Broken("NUL in a text", GOOD + b'{"text": "a\\u0000b"}\n', "train.jsonl:2: a row with a NUL character, which is seldom meant. Remove it from the text."),
    Broken("a very long text", GOOD + b'{"text": "' + b"x" * 1_000_001 + b'"}\n', "train.jsonl:2: a row with a text of more than a million characters, nearly all of which will be cut off. Split it."),
    Broken("a question at the end", chat(("user", "a"), ("assistant", "b"), ("user", "c")), "train.jsonl:1: a row with a last turn that no answer follows; only answers are trained. Answer it or drop it."),
    Broken("rows that repeat", GOOD + b'{"text":"fine"}\n' + b'{"text": "f\\u0069ne"}\n', "train.jsonl:2: the first of 2 rows that repeats an earlier one, here train.jsonl:1. It weighs twice in the loss; `launcher prepare` drops repeats."),
]  # fmt: skip
