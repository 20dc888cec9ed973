"""Packed rows: what is a target, which buckets there are, and that a fast step is the plain one on a CPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from container_src.sft.architectures import KNOWN
from container_src.sft.batches import Padding
from container_src.sft.config import TrainConfig
from container_src.sft.data import IGNORED, Encoded
from container_src.sft.evaluate import sum_tokens
from container_src.sft.fast_conditions import NoFastStep, find_reason
from container_src.sft.fast_step import FastStep, _step_seed, find_reason_against
from container_src.sft.groups import find_groups
from container_src.sft.memory_plan import Setting
from container_src.sft.packing import Layout, choose_buckets, find_bucket, pack, split_by_tokens
from container_src.sft.reference import keep_mask

# float32, sums in another order
TOLERANCE = 2e-5
FAMILIES = ("Qwen/Qwen2.5-1.5B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "google/gemma-2b-it", "meta-llama/Llama-2-7b-hf")


def _row(*ids: int, prompt: int = 0) -> Encoded:
    return Encoded(list(ids), [IGNORED] * prompt + list(ids[prompt:]), False, True)


def _split(rows: list[Encoded], layout: Layout, longest: int = 64) -> Any:
    return layout.split(torch.tensor(pack(rows, layout, longest, 5, 9)))


def test_the_first_token_of_an_example_is_never_a_target() -> None:
    row = _split([_row(11, 12, 13), _row(21, 22, prompt=1), _row(31)], Layout(tokens=8, ends=5))
    assert row.ids.tolist() == [11, 12, 13, 21, 22, 31, 0, 0]
    assert row.targets.tolist() == [12, 13, IGNORED, 22, IGNORED, IGNORED, IGNORED, IGNORED]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 0, 0, 1]
    assert row.ends.tolist() == [0, 3, 5, 6, 8, 8]
    assert (row.trained.item(), row.seed.tolist()) == (5, [9])


def test_padding_is_no_longer_than_the_longest_example() -> None:
    row = _split([_row(1, 2)], Layout(tokens=10, ends=6), longest=3)
    assert row.ends.tolist() == [0, 2, 5, 8, 10, 10, 10]


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pack([_row(1, 2, 3)], Layout(tokens=2, ends=4), 64, 1, 0)


@settings(deadline=None)  # of an example's milliseconds
@given(st.lists(st.integers(1, 900), min_size=1, max_size=12), st.integers(1, 1000))
def test_parts_keep_every_row_in_order_within_the_limit(lengths: list[int], limit: int) -> None:
    rows = [_row(*range(length)) for length in lengths]
    parts = split_by_tokens(rows, limit)
    assert [row for part in parts for row in part] == rows
    assert all(len(part) == 1 or sum(len(row.input_ids) for row in part) <= limit for part in parts)


@settings(deadline=None)  # of an example's milliseconds
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60), st.integers(1, 8))
def test_buckets_hold_every_step(lengths: list[int], count: int) -> None:
    buckets = choose_buckets(lengths, count)
    assert len(buckets) <= count
    assert buckets == sorted(buckets, reverse=True)
    assert all(find_bucket(buckets, length) in buckets for length in lengths)


def test_buckets_waste_the_least() -> None:
    assert choose_buckets([64] * 10 + [128, 640, 640, 704], 2) == [704, 64]
    assert choose_buckets([100, 200, 300], 8) == [320, 256, 128]
    assert find_bucket([256, 128], 300) == 320


def _rows() -> list[Encoded]:
    source = random.Random(0)
    return [
        _row(*(source.randrange(5, 500) for _ in range(source.randint(5, 30))), prompt=source.randint(0, 4))
        for _ in range(5)
    ]


def _gradients(model: Any) -> dict[str, Any]:
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
    model.zero_grad()
    return found


def _plainly(model: Any, rows: list[Encoded]) -> tuple[float, dict[str, Any]]:
    loss, _ = sum_tokens(model, Padding(0, 0).batch(rows))
    (loss / sum(row.trained for row in rows)).backward()
    return float(loss.detach()), _gradients(model)


@pytest.mark.parametrize("targets", [TrainConfig().target_modules, ["q_proj", "v_proj"]], ids=["seven", "two"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_fast_step_is_the_plain_one(make_model: Callable[..., Any], name: str, targets: list[str]) -> None:
    model, rows = make_model(name, target_modules=targets), _rows()
    loss, expected = _plainly(model, rows)
    fast = FastStep(model, [rows], 0, torch.float32)
    for recomputes in (False, True):
        if fast._decoder:
            fast._decoder.checkpointing = recomputes
        sums = fast.run(rows, 0)
        assert float(sums[0]) == pytest.approx(loss, rel=TOLERANCE)
        for name, gradient in _gradients(model).items():
            assert float((gradient - expected[name]).norm() / expected[name].norm()) < TOLERANCE
    assert _plainly(model, rows)[0] == pytest.approx(loss, rel=TOLERANCE)


@pytest.mark.parametrize("rank", [8, 16])  # 8 widens as much as 4 does, to whole sixteens
@pytest.mark.parametrize("resident", [True, False])
def test_layers_of_unequal_rank_and_steps_in_parts_are_the_plain_one(
    make_model: Callable[..., Any], resident: bool, rank: int
) -> None:
    """An earlier job's adapter keeps its ranks. Unpacked, a layer's weights go where the one before had its own."""
    model, rows = make_model(FAMILIES[0], rank_pattern={r".*layers\.1\..*": rank}, alpha_pattern={}), _rows()
    loss, expected = _plainly(model, rows)
    for tokens in (500, 40):
        fast = FastStep(model, [rows], 0, torch.float32)
        fast.setting = Setting(tokens, resident=resident, checkpointing=False, graph=False)
        assert float(fast.run(rows, 0)[0]) == pytest.approx(loss, rel=TOLERANCE)
        for name, gradient in _gradients(model).items():
            assert float((gradient - expected[name]).norm() / expected[name].norm()) < TOLERANCE


def test_dropout_follows_from_seed_and_step(make_model: Callable[..., Any]) -> None:
    model, rows = make_model(FAMILIES[0], lora_dropout=0.3), _rows()
    found = []
    for seed, number in ((0, 3), (0, 3), (0, 4), (1, 3)):
        FastStep(model, [rows], seed, torch.float32).run(rows, number)
        found.append(torch.cat([gradient.flatten() for gradient in _gradients(model).values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2]) and not torch.allclose(found[0], found[3])


def test_dropout_drops_its_share_and_every_site_on_its_own() -> None:
    seed = torch.tensor([42])
    masks = [keep_mask(1024, 512, seed, site, member, 0.05) for site in (0, 3, 7) for member in range(3)]
    masks.append(keep_mask(1024, 512, seed + 1, 0, 0, 0.05))
    for mask in masks:
        assert abs(float((~mask).double().mean()) - 0.05) < 0.001
    for number, one in enumerate(masks):
        for other in masks[number + 1 :]:
            assert abs(float((~one & ~other).double().mean()) - 0.0025) < 0.0003


class _Masked(torch.nn.Module):
    """Drops what the fast step drops at a site, for one of its members."""

    def __init__(self, seed: int, site: int, member: int, p: float) -> None:
        super().__init__()
        self.seed, self.place, self.p = torch.tensor([seed]), (site, member), p

    def forward(self, x: Any) -> Any:
        return x * keep_mask(*x.shape[-2:], self.seed, *self.place, self.p) / (1 - self.p) if self.training else x


@pytest.mark.parametrize("recomputes", [False, True])
def test_dropout_is_every_adapter_s_own_and_scaled(make_model: Callable[..., Any], recomputes: bool) -> None:
    """Peft's own layers with the same masks, of one row, so that a packed row's places are its own."""
    model, rows = make_model(FAMILIES[0], lora_dropout=0.3), _rows()[:1]
    for number, layer in enumerate(model.get_base_model().model.layers):
        for group in find_groups(layer, number).values():
            for member, module in enumerate(group.modules):
                module.lora_dropout["default"] = _Masked(_step_seed(5, 2, 0), group.site, member, 0.3)
    model.train()
    loss, expected = _plainly(model, rows)
    fast = FastStep(model, [rows], 5, torch.float32)
    fast.setting = Setting(500, resident=True, checkpointing=recomputes, graph=False)
    assert float(fast.run(rows, 2)[0]) == pytest.approx(loss, rel=TOLERANCE)
    for name, gradient in _gradients(model).items():
        assert float((gradient - expected[name]).norm() / expected[name].norm()) < TOLERANCE


def test_a_model_that_only_looks_known_is_refused(make_model: Callable[..., Any]) -> None:
    model, rows = make_model(FAMILIES[1]), _rows()
    model.get_base_model().model.norm.register_forward_hook(lambda module, args, out: 3 * out)
    with pytest.raises(NoFastStep, match="is not the model's own"):
        FastStep(model, [rows], 0, torch.float32).run(rows, 0)


def test_what_takes_the_plain_path_is_named(make_model: Callable[..., Any]) -> None:
    def reason(model: Any, processes: int = 1, **settings: Any) -> str:
        return find_reason_against(model, TrainConfig(**{"fast_step": "on", **settings}), torch.float32, processes)

    model = make_model(FAMILIES[0])
    assert reason(model) == ""
    assert "there is no GPU" in reason(model, fast_step="auto") or torch.cuda.is_available()
    assert "fast_step = off" in reason(model, fast_step="off")
    assert "several processes" in reason(model, processes=2)
    assert "biases" in reason(model, lora_bias="all")
    assert "rank, scale or dropout" in reason(make_model(FAMILIES[0], rank_pattern={"q_proj": 8}))
    assert "DoRA" in reason(make_model(FAMILIES[0], use_dora=True))
    assert "other modules" in reason(make_model(FAMILIES[0], modules_to_save=["norm"]))
    for key, value, words in (
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "rotary embeddings of type yarn"),
        ("use_sliding_window", True, "sliding window"),
        ("attention_dropout", 0.1, "dropout in its attention"),
        ("model_type", "phi9", "the architecture phi9"),
    ):
        changed = make_model(FAMILIES[0])
        setattr(changed.get_base_model().config, key, value)
        assert words in reason(changed)
    assert "a rank of 256, above 128" in reason(make_model(FAMILIES[0], r=256))
    unlike = make_model(FAMILIES[0])
    unlike.get_base_model().model.layers[1].self_attn.o_proj.base_layer.weight = None
    assert "o_proj has no weight" in reason(unlike)


def _sized(**sizes: int) -> dict[str, Any]:
    return {"model_type": "llama", "hidden_size": 3200, "intermediate_size": 8640, "num_attention_heads": 25, **sizes}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_sized(), ""),
        (_sized(num_attention_heads=32), "heads of size 100"),  # open_llama_3b's
        (_sized(head_dim=96), "heads of size 96"),
        (_sized(head_dim=512), "heads of size 512"),
        (_sized(head_dim=8), "heads of size 8"),
        (_sized(intermediate_size=8648), "intermediate_size of 8648"),
        (_sized(hidden_size=3208, head_dim=64), "hidden_size of 3208"),
    ],
)
def test_sizes_that_no_kernel_does_are_named_where_a_gpu_runs_them(model: dict[str, Any], words: str) -> None:
    config = TrainConfig(fast_step="on")
    found = find_reason(config, lambda key, default: model.get(key, default), "bfloat16", 1, has_gpu=True)
    assert words in found and bool(found) == bool(words)
    assert find_reason(config, lambda key, default: model.get(key, default), "float32", 1, has_gpu=False) == ""


def test_every_known_model_has_sizes_that_the_kernels_do() -> None:
    for known in KNOWN.values():
        assert find_reason(TrainConfig(), known.get, "bfloat16", 1, has_gpu=True) == ""
