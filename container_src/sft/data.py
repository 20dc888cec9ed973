"""Rows -> tokens and labels: the shapes a row may have, what of it is trained, and where it is cut. Stdlib only.

`render` says in text what is trained, `encode` says it in tokens; both are pure functions of a row and a Hugging Face
tokenizer, so a preview shows exactly what the job trains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .config import TrainConfig
from .failure import JobError

IGNORED = -100  # the label of a token that is not trained, as torch's cross entropy spells it
ROLES = ("system", "user", "assistant", "tool")
# Who may speak after whom; "" is the beginning. Chat templates refuse other orders, or render them as no chat is.
FOLLOWERS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
MESSAGE_KEYS = ("role", "content")  # what a chat template is given of a message; a warning names what stands beside
SHOWN_KEYS, SHOWN_CHARACTERS = 8, 40
SHAPES = '{"text": ...}, {"prompt": ..., "completion": ...} or {"messages": [{"role": ..., "content": ...}, ...]}'

Shape = Literal["text", "completion", "messages"]


class RowError(JobError):
    """A row that cannot be trained; the message begins with file:line. `field` is empty when it is the whole row."""

    def __init__(self, file: str, line: int, problem: str, field: str = "") -> None:
        super().__init__(f"{file}:{line}: {problem}")
        self.file = file
        self.line = line
        self.problem = problem
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:
        return RowError, (
            self.file,
            self.line,
            self.problem,
            self.field,
        )  # Exception's own would pass the message alone


@dataclass(frozen=True)
class Row:
    file: str
    line: int
    fields: dict[str, Any]

    def refuse(self, problem: str, field: str = "") -> RowError:
        return RowError(self.file, self.line, problem, field)

    def find_untrained(self, trained: set[str]) -> set[str]:
        """Keys of a sound row beside the `trained` ones, and those of its messages that no template is given."""
        messages = self.fields["messages"] if "messages" in trained else []
        beside = {f"messages.{key}" for message in messages for key in message.keys() - set(MESSAGE_KEYS)}
        return beside | (self.fields.keys() - trained)


class Piece(NamedTuple):
    text: str
    trained: bool


class Example(NamedTuple):
    """A row as text. `adds_start`: the tokenizer's own first token goes in front; a chat template writes its own."""

    pieces: list[Piece]
    adds_start: bool


class Encoded(NamedTuple):
    """A row as tokens. `ends`: its last trained piece was not cut. `length`: tokens before the cut."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool
    ends: bool
    length: int = 0

    @property
    def trained(self) -> int:
        """Tokens that count in the loss; the first token of a row is predicted from nothing."""
        rest = self.labels[1:]
        return len(rest) - rest.count(IGNORED)


# reading


def list_files(folder: Path) -> list[Path]:
    """Every *.jsonl of a folder and of those in it, by name; what is hidden is an editor's copy, and passed over."""
    parts = {path: path.relative_to(folder).parts for path in folder.rglob("*.jsonl")}
    return sorted(path for path, names in parts.items() if not any(name.startswith(".") for name in names))


def find_files(path: Path) -> list[Path]:
    """A channel's files: the file itself, or those of a folder."""
    files = [path] if path.is_file() else list_files(path)
    if not files:
        raise JobError(f"{path} holds no *.jsonl file. Put the channel's rows into one, a JSON object per line.")
    return files


def iter_rows(path: Path) -> Iterator[Row]:
    for file in find_files(path):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield parse_row(line, file.name, number)


def load_rows(path: Path) -> list[Row]:
    """Every row of a channel, each one checked; at least one."""
    rows = list(iter_rows(path))
    for row in rows:
        check_row(row)
    if not rows:
        raise JobError(f"{path} holds no rows. Put at least one JSON object into it.")
    return rows


def parse_row(line: bytes, file: str, number: int) -> Row:
    """One line as an object, or a refusal that says what the line is instead."""
    row = Row(file, number, {})
    try:
        text = line.decode("utf-8-sig")
        fields = json.loads(text, object_pairs_hook=_make_object)
    except UnicodeDecodeError as error:
        raise row.refuse(f"not UTF-8 ({error.reason} at byte {error.start + 1}). Save the file as UTF-8.") from error
    except _KeyTwice as error:
        raise row.refuse(f'"{_short(error.key)}" is given twice. Keep one of them.', _short(error.key)) from error
    except json.JSONDecodeError as error:
        raise row.refuse(_not_json(text, error)) from error
    except ValueError as error:  # Python reads whole numbers of at most 4,300 digits
        raise row.refuse("not JSON that can be read: a number in it has thousands of digits. Shorten it.") from error
    except RecursionError as error:
        raise row.refuse("not JSON that can be read: it is nested too deep. Flatten it.") from error
    if not isinstance(fields, dict):
        raise row.refuse(f"{_kind(fields)}, not an object. Use {SHAPES}.")
    return Row(file, number, fields)


class _KeyTwice(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict, unless a key would silently replace an earlier one."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        raise _KeyTwice(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return fields


def _not_json(text: str, error: json.JSONDecodeError) -> str:
    if "\0" in text:
        return "not JSON: it holds NUL bytes, as UTF-16 and damaged files do. Save the file as UTF-8."
    if "\r" in text.strip():
        return "not JSON: it holds line ends of CR alone, as old Macs wrote them. Save the file with LF."
    return f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}. Write one object per line."


# checking


def shape_of(row: Row) -> Shape:
    if "messages" in row.fields:
        return "messages"
    if "prompt" in row.fields or "completion" in row.fields:
        return "completion"
    if "text" in row.fields:
        return "text"
    keys = ", ".join(_short(key) for key in sorted(row.fields)[:SHOWN_KEYS])
    raise row.refuse(f"unknown shape: it has {keys or 'no keys'}. Use {SHAPES}.")


def check_row(row: Row) -> None:
    """Raise unless the row has one of the shapes, with text where text belongs and something to train."""
    shape = shape_of(row)
    if shape == "messages":
        _check_messages(row)
    elif shape == "text":
        _check_text(row, "text", may_be_empty=False)
    else:
        _check_text(row, "prompt", may_be_empty=True)
        _check_text(row, "completion", may_be_empty=False)


def _check_text(row: Row, key: str, *, may_be_empty: bool) -> None:
    if key not in row.fields:
        raise row.refuse(f'"{key}" is missing. It must be text.', key)
    value = row.fields[key]
    if not isinstance(value, str):
        raise row.refuse(f'"{key}" is {_kind(value)}. It must be text.', key)
    if not may_be_empty and not value.strip():
        raise row.refuse(f'"{key}" is empty. Fix the row or drop it.', key)
    _check_characters(row, f'"{key}"', value, key)


def _check_characters(row: Row, name: str, text: str, field: str) -> None:
    """Half of a surrogate pair can be written in JSON, but is no character: tokenizers fail at it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise row.refuse(
            f"{name} holds {half}, one half of a character. Write the whole or remove it.", field
        ) from error


def _check_messages(row: Row) -> None:
    messages = row.fields["messages"]
    if not isinstance(messages, list) or not messages:
        raise row.refuse('"messages" must be a list with at least one message.', "messages")
    for number, message in enumerate(messages, start=1):
        _check_message(row, number, message)
    _check_order(row, [message["role"] for message in messages])


def _check_message(row: Row, number: int, message: Any) -> None:
    place = f"messages[{number - 1}]"
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise row.refuse(f'message {number} must be an object with "role" and "content".', place)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise row.refuse(
            f"message {number} has the role {_role(role)}. Use one of {', '.join(ROLES)}.",
            f"{place}.role",
        )
    name = f'the "content" of message {number}'
    if not isinstance(content, str):
        raise row.refuse(f"{name} is {_kind(content)}. It must be text.", f"{place}.content")
    if role in ("user", "assistant") and not content.strip():
        raise row.refuse(f"{name}, the {role}'s, is empty. Fix the row or drop it.", f"{place}.content")
    _check_characters(row, name, content, f"{place}.content")


def _check_order(row: Row, roles: Sequence[str]) -> None:
    before = ""
    for number, role in enumerate(roles, start=1):
        if role not in FOLLOWERS[before]:
            place = f"follows the {before}'s" if before else "comes first"
            raise row.refuse(
                f"message {number}, the {role}'s, {place}. There the {' or '.join(FOLLOWERS[before])} must speak: "
                "reorder the messages, join two of the same role, or drop the row.",
                f"messages[{number - 1}].role",
            )
        before = role
    if "assistant" not in roles:
        raise row.refuse("no message of the assistant, so nothing to train. Add one or drop the row.", "messages")


def _role(value: Any) -> str:
    return f"'{_short(value)}'" if isinstance(value, str) else _kind(value)


def _short(text: str) -> str:
    """A foreign text inside one of our sentences: of bounded length, and without what a terminal would obey."""
    shown = repr(text)[1:-1]
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + "..."


def _kind(value: Any) -> str:
    """What JSON calls it."""
    words = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}
    return words.get(type(value), "null")


# rendering


def render(row: Row, tokenizer: Any, loss_on: str = "auto") -> Example:
    """The row as pieces of text, each with whether its tokens are trained."""
    shape = shape_of(row)
    if shape == "messages":
        return Example(_render_messages(row, tokenizer, loss_on == "all"), adds_start=False)
    if shape == "completion":
        prompt, completion = Piece(row.fields["prompt"], loss_on == "all"), row.fields["completion"]
        return Example([prompt, *_with_end(completion, tokenizer)], adds_start=True)
    if loss_on == "completion":
        raise row.refuse(
            'a {"text"} row has no completion to train. Split it into prompt and completion, or use loss_on = "auto".'
        )
    return Example(_with_end(row.fields["text"], tokenizer), adds_start=True)


def _with_end(text: str, tokenizer: Any) -> list[Piece]:
    """Trained text and its end token: a model that never saw the end does not stop."""
    if text.endswith(tokenizer.eos_token):
        return [Piece(text, True)]
    return [Piece(text, True), Piece(tokenizer.eos_token, True)]


def _render_messages(row: Row, tokenizer: Any, train_all: bool) -> list[Piece]:
    """The assistant's turns are what the template adds to all before them, opening words of the turn excluded."""
    messages = row.fields["messages"]
    pieces: list[Piece] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opened = _apply_template(row, tokenizer, messages[:index], opens=True)
        closed = _apply_template(row, tokenizer, messages[: index + 1], opens=False)
        pieces.append(Piece(_added(row, done, opened), train_all))
        pieces.append(Piece(_added(row, opened, closed), True))
        done = closed
    rest = _added(row, done, _apply_template(row, tokenizer, messages, opens=False))
    return [piece for piece in [*pieces, Piece(rest, train_all)] if piece.text]


def _apply_template(row: Row, tokenizer: Any, messages: list[dict[str, Any]], *, opens: bool) -> str:
    """Role and content are checked; of all else that a message may hold, templates would make what they like."""
    if not tokenizer.chat_template:
        raise row.refuse(
            "the model's tokenizer has no chat template. Use prompt and completion, or a model made for chat."
        )
    if not messages:
        raise row.refuse("it begins with the assistant. Put a message of the user first.")
    from jinja2.exceptions import TemplateError

    turns = [{key: message[key] for key in MESSAGE_KEYS} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opens))
    except TemplateError as error:
        raise row.refuse(
            f"the model's chat template refuses it: {error}. Fix the order or the roles of its messages."
        ) from error
    except ImportError:
        raise  # of a library, and so of no row
    except (
        Exception
    ) as error:  # a template is the model's own code: beside jinja's errors it raises whatever Python can
        raise row.refuse(
            f"the model's chat template fails at it ({type(error).__name__}: {error}). Use prompt and completion, or "
            "another model's template."
        ) from error


def _added(row: Row, before: str, after: str) -> str:
    if not after.startswith(before):
        raise row.refuse(
            "the model's chat template rewrites earlier turns when a later one follows, so the assistant's tokens "
            "cannot be told apart. Split the conversation into rows with one answer each, or use prompt and completion."
        )
    return after[len(before) :]


# encoding


def encode(row: Row, tokenizer: Any, config: TrainConfig) -> Encoded:
    """Tokens and labels of a row, cut at max_length; a row that trains nothing is refused.

    Pieces are tokenised one by one and joined, never as one text: at inference the model is given the tokens of the
    prompt and continues, so no token may reach across the boundary (" yes" after "A:" is another token than "A: yes").
    """
    example = render(row, tokenizer, config.loss_on)
    ids, labels = _start(example, tokenizer)
    for piece in example.pieces:
        added = encode_piece(tokenizer, piece.text, follows=bool(ids))
        ids += added
        labels += added if piece.trained else [IGNORED] * len(added)
    encoded = _cut(ids, labels, config.max_length)
    if not encoded.trained:
        raise row.refuse(
            f"no token of its answer is left after the cut at max_length = {config.max_length} ({len(ids)} tokens in "
            "all). Raise max_length, or shorten or drop the row."
        )
    return encoded


def _start(example: Example, tokenizer: Any) -> tuple[list[int], list[int]]:
    habits = _habits(tokenizer)
    written = bool(habits.start_text) and example.pieces[0].text.startswith(habits.start_text)
    start = list(habits.start) if example.adds_start and not written else []
    return start, [IGNORED] * len(start)


def _cut(ids: list[int], labels: list[int], limit: int) -> Encoded:
    last = next((place for place in range(len(labels) - 1, -1, -1) if labels[place] != IGNORED), -1)
    return Encoded(ids[:limit], labels[:limit], len(ids) > limit, 0 <= last < limit, len(ids))


def encode_piece(tokenizer: Any, text: str, *, follows: bool) -> list[int]:
    """A piece's own tokens. One that follows another must not get the space that some tokenizers put before a text."""
    mark = _habits(tokenizer).mark if follows else ()
    if not mark:
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode(MARK + text, add_special_tokens=False))[len(mark) :]


MARK = "\n"  # sentencepiece models spell it as a byte of its own, which never joins with what follows


class _Habits(NamedTuple):
    """What a tokenizer adds by itself: tokens before a text, and (as tokens of MARK) a space before its first word."""

    start: tuple[int, ...]
    start_text: str
    mark: tuple[int, ...]


@lru_cache(maxsize=8)
def _habits(tokenizer: Any) -> _Habits:
    bare = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a", add_special_tokens=True)
    start = full[: full.index(bare[0])] if bare[0] in full else []
    adds_space = tokenizer.convert_ids_to_tokens(bare)[0].startswith("\u2581")
    mark = tokenizer.encode(MARK, add_special_tokens=False) if adds_space else []
    return _Habits(tuple(start), tokenizer.decode(start), tuple(mark))
