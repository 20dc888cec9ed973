"""Evaluations of packed rows score what the plain path scores, with whichever adapter is in use."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig

from container_src.sft import packed_scores
from container_src.sft.batches import Padding
from container_src.sft.data import IGNORED, Encoded
from container_src.sft.evaluate import AbandonedError, RowScores, score_rows
from container_src.sft.fast_conditions import NoFastStep
from container_src.sft.memory_plan import SCORED_TOKENS, Shape, choose_scored_tokens, scoring_bytes
from container_src.sft.packed_scores import PackedScores
from container_src.sft.scoring import Scoring

FAMILIES = ("Qwen/Qwen2.5-1.5B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "google/gemma-2b-it")
# float32, sums in another order
TOLERANCE = 2e-5


def _rows(count: int = 23, longest: int = 40) -> list[Encoded]:
    """Of mixed lengths, prompts left out, more than one packed row of them."""
    source, rows = random.Random(0), []
    for _ in range(count):
        ids = [source.randrange(5, 500) for _ in range(source.randint(3, longest))]
        prompt = source.randint(0, 2)
        rows.append(Encoded(ids, [IGNORED] * prompt + ids[prompt:], False, True))
    return rows


def _plainly(model: Any, rows: list[Encoded]) -> RowScores:
    accelerator = SimpleNamespace(
        process_index=0, num_processes=1, device="cpu", mixed_precision="no", reduce=lambda sums, reduction: sums
    )
    return score_rows(model, rows, Padding(0, 0), 4, accelerator)


def _packed(model: Any, give_way: Callable[[], bool] = lambda: False, stops: tuple[bool, ...] = ()) -> PackedScores:
    answers = iter(stops)
    return PackedScores(model, torch.float32, give_way, lambda: next(answers, False))


def _same(ours: RowScores, theirs: RowScores) -> bool:
    assert ours.tokens == theirs.tokens and ours.rights == theirs.rights
    return ours.losses == pytest.approx(theirs.losses, rel=TOLERANCE)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_the_plain_path_s_with_the_adapter_without_it_and_with_another(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(packed_scores, "TOKENS_ON_CPU", 100)
    model, rows = make_model(name, lora_dropout=0.3), _rows()
    tuned = _plainly(model, rows)
    assert _same(_packed(model).score(rows), tuned)
    model.add_adapter("champion", LoraConfig(r=8, lora_alpha=4, target_modules=["q_proj", "down_proj"],
                                             init_lora_weights=False, task_type="CAUSAL_LM"))  # fmt: skip
    model.set_adapter("champion")
    champion = _plainly(model, rows)
    assert _same(_packed(model).score(rows), champion)
    model.set_adapter("default")
    with model.disable_adapter():
        base = _plainly(model, rows)
        assert _same(_packed(model).score(rows), base)
    assert _same(_packed(model).score(rows), tuned)
    assert len({scores.total.loss for scores in (tuned, champion, base)}) == 3


def test_the_adapters_are_left_to_the_training(make_model: Callable[..., Any]) -> None:
    """No view of them moves, no gradient comes, and dropout stays on."""
    model = make_model(FAMILIES[0]).train()
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.named_parameters()}
    _packed(model).score(_rows())
    for name, value in model.named_parameters():
        assert value.data_ptr() == before[name][0] and torch.equal(value, before[name][1]) and value.grad is None
    assert model.training


def test_a_stop_abandons_it(make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_scores, "TOKENS_ON_CPU", 100)
    with pytest.raises(AbandonedError):
        _packed(make_model(FAMILIES[0]), stops=(False, True)).score(_rows())


def test_what_cannot_be_packed_is_scored_by_the_plain_path(
    make_model: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = make_model(FAMILIES[1]), _rows()
    model.add_adapter("champion", LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False,
                                             task_type="CAUSAL_LM"))  # fmt: skip
    model.set_adapter("champion")
    with pytest.raises(NoFastStep, match="other modules than the projections"):
        _packed(model).score(rows)
    plain = _plainly(model, rows)
    found = Scoring(4, 1, lambda: False).run(lambda size: _plainly(model, rows), rows, _packed(model).score)
    assert found == plain
    assert "[warning] No packed evaluation: other modules" in capsys.readouterr().out


def test_a_model_that_only_looks_known_is_scored_by_the_plain_path(make_model: Callable[..., Any]) -> None:
    model = make_model(FAMILIES[1])
    model.get_base_model().model.norm.register_forward_hook(lambda module, args, out: 3 * out)
    with pytest.raises(NoFastStep, match="is not the model's own"):
        _packed(model).score(_rows())


@pytest.mark.parametrize("room", [200, 0])
def test_out_of_memory_means_shorter_rows_then_the_fast_step_s_room_then_the_plain_path(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    model, rows, held, tried = make_model(FAMILIES[0]), _rows(), [True], []
    expected = _packed(model).score(rows)
    real = packed_scores.score_packed

    def score(decoder: Any, group: list[Encoded], longest: int) -> Any:
        tokens = sum(len(row.input_ids) for row in group)
        if tokens > 40:  # not what is held against the model
            tried.append(tokens)
        if held and tokens > room or not room and tokens > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return real(decoder, group, longest)

    monkeypatch.setattr(packed_scores, "score_packed", score)
    packed = _packed(model, lambda: bool(held) and held.pop())
    if room:
        assert _same(packed.score(rows), expected)
        assert max(tried[:1]) > 256 >= max(tried[1:2]) > 128 >= max(tried[2:]) and held
        assert _same(packed.score(rows), expected)  # and begins there the next time
        assert tried.count(tried[0]) == 1
    else:
        with pytest.raises(NoFastStep, match="out of memory"):
            packed.score(rows)
        assert not held


def test_less_room_means_shorter_packed_rows_but_never_shorter_than_an_example() -> None:
    shape = Shape(layers=28, hidden=1536, intermediate=8960, heads=12, kv_heads=2, head=128, vocabulary=151936, rank=16)
    assert choose_scored_tokens(shape, SCORED_TOKENS, 256, 2**40) == SCORED_TOKENS
    assert choose_scored_tokens(shape, SCORED_TOKENS, 8192, None) == 8192
    assert choose_scored_tokens(shape, SCORED_TOKENS, 256, scoring_bytes(shape, 1024)) == 1024
    assert choose_scored_tokens(shape, SCORED_TOKENS, 1536, 0) == 1536
