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


def test_layers_of_unequal_rank_are_scored_as_the_plain_path_does(make_model: Callable[..., Any]) -> None:
    """Both widen their input to sixteen columns more, and lay their adapters into other ones of them."""
    model, rows = make_model(FAMILIES[1], rank_pattern={r".*layers\.0\..*(gate|up)_proj": 8}), _rows()
    assert _same(_packed(model).score(rows), _plainly(model, rows))


CHAMPIONS: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "bias": {"target_modules": ["q_proj"], "lora_bias": True},
}


@pytest.mark.filterwarnings("ignore")  # peft's own, of a head that may be tied
@pytest.mark.parametrize("settings", CHAMPIONS.values(), ids=CHAMPIONS)
def test_what_cannot_be_packed_is_scored_by_the_plain_path_from_then_on(
    make_model: Callable[..., Any], capsys: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    model, rows, scoring = make_model(FAMILIES[1]), _rows(), Scoring(4, 1, lambda: False)

    def score() -> RowScores:
        return scoring.run(lambda size: _plainly(model, rows), rows, _packed(model).score)

    assert score().packed
    model.add_adapter("champion", LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **settings))
    model.set_adapter("champion")
    with pytest.raises(NoFastStep, match="other modules than the projections"):
        _packed(model).score(rows)
    assert score() == _plainly(model, rows)
    assert "[warning] No packed evaluation: other modules" in capsys.readouterr().out
    model.set_adapter("default")
    assert not score().packed  # or it would be compared with one that rounds in another way


@pytest.mark.parametrize("lengths", [(1, 1), (1, 30, 2)])
def test_a_few_tokens_of_several_rows_are_held_against_the_model(
    make_model: Callable[..., Any], lengths: tuple[int, ...]
) -> None:
    rows = [Encoded(list(range(5, 5 + length)), list(range(5, 5 + length)), False, True) for length in lengths]
    model = make_model(FAMILIES[1])
    assert _same(_packed(model).score(rows), _plainly(model, rows))


def test_a_loss_that_is_no_number_is_the_plain_path_s(make_model: Callable[..., Any]) -> None:
    model = make_model(FAMILIES[1])
    next(value for name, value in model.named_parameters() if "lora_B" in name).data.fill_(float("nan"))
    with pytest.raises(NoFastStep, match="the model's loss is no number"):
        _packed(model).score(_rows())


def test_a_model_that_only_looks_known_is_scored_by_the_plain_path(make_model: Callable[..., Any]) -> None:
    model = make_model(FAMILIES[1])
    model.get_base_model().model.norm.register_forward_hook(lambda module, args, out: 3 * out)
    with pytest.raises(NoFastStep, match="is not the model's own"):
        _packed(model).score(_rows())


@pytest.mark.parametrize("room", [200, 20])
def test_out_of_memory_means_shorter_rows_then_the_fast_step_s_room_then_the_plain_path(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    model, rows, held, tried = make_model(FAMILIES[0]), _rows(), [True], []
    expected = _packed(model).score(rows)
    real = packed_scores.score_packed

    def score(decoder: Any, group: list[Encoded], longest: int) -> Any:
        tokens = sum(len(row.input_ids) for row in group)
        tried.append(tokens)
        if tokens > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return real(decoder, group, longest)

    monkeypatch.setattr(packed_scores, "score_packed", score)
    packed = _packed(model, lambda: bool(held) and held.pop())
    if room == 200:
        assert _same(packed.score(rows), expected)
        largest = sorted(tried, reverse=True)
        assert largest[0] > 256 >= largest[1] > 200 and largest[2] <= 128 and held
        assert _same(packed.score(rows), expected)
        assert sum(tokens > 128 for tokens in tried) == 2  # it begins there the next time
    else:  # not even what is held against the model
        with pytest.raises(NoFastStep, match="out of memory"):
            packed.score(rows)
        assert not held


def test_less_room_means_shorter_packed_rows_but_never_shorter_than_an_example() -> None:
    shape = Shape(layers=28, hidden=1536, intermediate=8960, heads=12, kv_heads=2, head=128, vocabulary=151936, rank=16)
    assert choose_scored_tokens(shape, SCORED_TOKENS, 256, 2**40) == SCORED_TOKENS
    assert choose_scored_tokens(shape, SCORED_TOKENS, 8192, None) == 8192
    assert choose_scored_tokens(shape, SCORED_TOKENS, 256, scoring_bytes(shape, 1024)) == 1024
    assert choose_scored_tokens(shape, SCORED_TOKENS, 1536, 0) == 1536
