"""Rows to tokens: what is trained, what is masked, where it is cut, and what is refused."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import pytest

from container_src.sft.config import TrainConfig
from container_src.sft.data import (
    IGNORED,
    Encoded,
    Row,
    RowError,
    check_row,
    encode,
    load_rows,
    parse_row,
    render,
)
from container_src.sft.failure import JobError

FAMILIES = ("qwen2", "llama", "gemma")
QUESTION = {"role": "user", "content": "What helps?"}
ANSWER = {"role": "assistant", "content": "Rest."}


def _row(**fields: Any) -> Row:
    return Row("train.jsonl", 7, fields)


def _trained_text(encoded: Encoded, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in encoded.labels if label != IGNORED]))


@pytest.mark.parametrize("family", FAMILIES)
def test_completion_and_end_are_trained_and_the_prompt_is_not(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    encoded = encode(_row(prompt="What helps?", completion=" Rest."), tokenizer, TrainConfig())
    assert _trained_text(encoded, tokenizer) == " Rest." + tokenizer.eos_token
    assert encoded.labels[-1] == tokenizer.eos_token_id
    assert (
        tokenizer.decode(encoded.input_ids) == (tokenizer.bos_token or "") + "What helps? Rest." + tokenizer.eos_token
    )
    assert encoded.ends and not encoded.truncated


@pytest.mark.parametrize("length", [0, 40])
def test_the_end_is_trained_where_it_also_pads(tokenizers: dict[str, Any], length: int) -> None:
    """Experiments 1 and 2: pad = eos, to the longest row and to a fixed length."""
    from container_src.sft.batches import pad_rows

    tokenizer = tokenizers["llama"]
    end = tokenizer.eos_token_id
    rows = [_row(prompt="What helps?", completion=text) for text in (" Rest.", " Rest, water and a dark room.")]
    encoded = [encode(row, tokenizer, TrainConfig()) for row in rows]
    padded = pad_rows(encoded, pad_id=end, length=length)
    assert padded["input_ids"][0].count(end) > 1
    for row, labels in zip(encoded, padded["labels"], strict=True):
        assert labels.count(end) == 1
        assert labels.index(end) == len(row.input_ids) - 1


def test_prompt_tokens_are_those_that_inference_sees(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["llama"]
    encoded = encode(_row(prompt="What helps? ye", completion="s"), tokenizer, TrainConfig())
    prompt = tokenizer("What helps? ye")["input_ids"]
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels[: len(prompt)] == [IGNORED] * len(prompt)


def test_a_completion_gets_no_space_that_it_does_not_have(spacing_tokenizer: Any) -> None:
    joined = encode(_row(prompt="ok:", completion="yes"), spacing_tokenizer, TrainConfig())
    spaced = encode(_row(prompt="ok:", completion=" yes"), spacing_tokenizer, TrainConfig())
    as_tokens = spacing_tokenizer.convert_ids_to_tokens
    assert as_tokens(joined.input_ids) == ["\u2581", "o", "k", ":", "yes", "</s>"]
    assert as_tokens(spaced.input_ids) == ["\u2581", "o", "k", ":", "\u2581yes", "</s>"]


def test_text_is_trained_whole_and_ended_once(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["gemma"]
    plain = encode(_row(text="Rest helps."), tokenizer, TrainConfig())
    ended = encode(_row(text="Rest helps.<eos>"), tokenizer, TrainConfig())
    started = encode(_row(text="<bos>Rest helps."), tokenizer, TrainConfig())
    assert plain == ended
    assert started.input_ids == plain.input_ids
    assert plain.labels == [IGNORED, *plain.input_ids[1:]]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_assistants_turns_are_trained(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    messages = [QUESTION, ANSWER, QUESTION, {"role": "assistant", "content": "Water."}]
    encoded = encode(_row(messages=messages), tokenizer, TrainConfig())
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(encoded.input_ids) == whole
    trained = _trained_text(encoded, tokenizer)
    end = {"qwen2": "<|im_end|>\n", "llama": "</s>\n", "gemma": "<end_of_turn>\n"}[family]
    assert trained == f"Rest.{end}Water.{end}"


def test_loss_on_all_trains_prompts_and_every_turn(tokenizers: dict[str, Any]) -> None:
    config = TrainConfig(loss_on="all")
    pair = encode(_row(prompt="What", completion=" helps"), tokenizers["qwen2"], config)
    chat = encode(_row(messages=[QUESTION, ANSWER]), tokenizers["qwen2"], config)
    assert pair.labels == pair.input_ids
    assert chat.labels == chat.input_ids


def test_pieces_show_what_is_trained(tokenizers: dict[str, Any]) -> None:
    example = render(_row(messages=[QUESTION, ANSWER]), tokenizers["qwen2"])
    assert [piece.trained for piece in example.pieces] == [False, True]
    assert example.pieces[1].text == "Rest.<|im_end|>\n"
    assert not example.adds_start


def test_a_cut_row_is_counted_and_one_without_an_answer_left_is_refused(tokenizers: dict[str, Any]) -> None:
    row = _row(prompt="What helps?", completion=" Rest" * 50)
    cut = encode(row, tokenizers["qwen2"], TrainConfig(max_length=30))
    assert len(cut.input_ids) == len(cut.labels) == 30
    assert cut.truncated and not cut.ends
    with pytest.raises(
        RowError, match=r"train.jsonl:7: no token of its answer is left after the cut at max_length = 3"
    ):
        encode(row, tokenizers["qwen2"], TrainConfig(max_length=3))


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy(tokenizers["qwen2"])
    tokenizer.chat_template = "{% for message in messages %}{{ loop.length ~ message['content'] }}{% endfor %}"
    with pytest.raises(RowError, match="train.jsonl:7: the model's chat template rewrites earlier turns"):
        encode(_row(messages=[QUESTION, ANSWER]), tokenizer, TrainConfig())


def test_what_a_template_refuses_names_the_row(tokenizers: dict[str, Any]) -> None:
    messages = [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER]
    with pytest.raises(RowError, match="train.jsonl:7: .*System role not supported"):
        encode(_row(messages=messages), tokenizers["gemma"], TrainConfig())


def test_a_template_that_fails_names_the_row_and_what_failed(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy(tokenizers["qwen2"])
    tokenizer.chat_template = "{{ messages[0]['content'] + 1 }}"
    with pytest.raises(RowError, match=r"train.jsonl:7: the model's chat template fails at it \(TypeError: "):
        encode(_row(messages=[QUESTION, ANSWER]), tokenizer, TrainConfig())


TOOLS = (
    "{% for message in messages %}{{ message['role'] ~ ': ' ~ message['content'] }}"
    "{% for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("calls", [5, [{"foo": 3}], "look up", None, [{"function": {"name": "\ud800"}}]])
def test_a_template_is_given_what_is_checked_and_nothing_else(tokenizers: dict[str, Any], calls: Any) -> None:
    tokenizer = copy(tokenizers["qwen2"])
    tokenizer.chat_template = TOOLS
    odd = _row(messages=[{**QUESTION, "name": 7}, {**ANSWER, "tool_calls": calls}])
    check_row(odd)
    plain = encode(_row(messages=[QUESTION, ANSWER]), tokenizer, TrainConfig())
    assert encode(odd, tokenizer, TrainConfig()) == plain
    assert odd.find_untrained({"messages"}) == {"messages.name", "messages.tool_calls"}


def test_messages_need_a_template(spacing_tokenizer: Any) -> None:
    with pytest.raises(RowError, match="no chat template"):
        encode(_row(messages=[QUESTION, ANSWER]), spacing_tokenizer, TrainConfig())


def test_completion_only_loss_refuses_text_rows(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(RowError, match="no completion to train"):
        encode(_row(text="Rest helps."), tokenizers["qwen2"], TrainConfig(loss_on="completion"))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"question": "a"}, "unknown shape: it has question"),
        ({}, "unknown shape: it has no keys"),
        ({"prompt": "a"}, '"completion" is missing'),
        ({"prompt": "a", "completion": " "}, '"completion" is empty'),
        ({"prompt": 1, "completion": "a"}, '"prompt" is a number'),
        ({"text": ""}, '"text" is empty'),
        ({"messages": []}, "at least one message"),
        ({"messages": [QUESTION]}, "no message of the assistant"),
        ({"messages": ["hello"]}, "message 1 must be an object"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "the role 'bot'"),
        ({"messages": [QUESTION, {"role": "assistant", "content": ""}]}, 'the "content" of message 2'),
    ],
)
def test_a_bad_row_is_refused_with_its_place(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError) as refusal:
        check_row(_row(**fields))
    assert str(refusal.value).startswith("train.jsonl:7: ")
    assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [(b"{", "not JSON"), (b"[1]", "a list, not an object"), (b'{"text": "\xff"}', "not UTF-8")],
)
def test_a_line_that_is_no_row_is_refused_with_its_place(line: bytes, problem: str) -> None:
    with pytest.raises(RowError, match=rf"^eval.jsonl:3: {problem}"):
        parse_row(line, "eval.jsonl", 3)


def test_a_channel_is_a_file_or_every_jsonl_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n\n{"text": "three"}\n')
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}')
    (tmp_path / "notes.txt").write_text("not a row")
    assert [row.fields["text"] for row in load_rows(tmp_path)] == ["one", "two", "three"]
    assert [(row.file, row.line) for row in load_rows(tmp_path / "b.jsonl")] == [("b.jsonl", 1), ("b.jsonl", 3)]


def test_a_channel_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no \\*.jsonl file"):
        load_rows(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(JobError, match="holds no rows"):
        load_rows(tmp_path)
