"""The fast step on a GPU: its gradients against a float32 reference, and every way down from it.

python -m pytest tests/gpu/test_fast_step.py
"""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from container_src.sft.architectures import find_architecture
from container_src.sft.batches import Padding
from container_src.sft.config import TrainConfig
from container_src.sft.data import Encoded
from container_src.sft.evaluate import RowScores, score_rows, sum_tokens
from container_src.sft.fast_conditions import NoFastStep

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from container_src.sft import slots  # noqa: E402
from container_src.sft.fast_step import FastStep  # noqa: E402
from container_src.sft.groups import load_weight  # noqa: E402
from container_src.sft.kernels import MANY_TOKENS  # noqa: E402
from container_src.sft.memory_plan import Setting  # noqa: E402
from container_src.sft.packed_scores import PackedScores  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
FAMILIES = {
    "qwen2": ("Qwen/Qwen2.5-1.5B", {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 6}),
    "llama": ("meta-llama/Llama-2-7b-hf", {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8,
                                           "num_key_value_heads": 8}),
    "gemma": ("google/gemma-2b-it", {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 4}),
}  # fmt: skip
WHOLE = Setting(4096, resident=True, checkpointing=False)


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A model of a family in 4 bits, with trained-looking adapters."""

    def make(family: str, dropout: float = 0.0, dtype: Any = torch.bfloat16) -> Any:
        name, sizes = FAMILIES[family]
        known = find_architecture(name)
        assert known is not None
        known |= {**sizes, "num_hidden_layers": 3, "vocab_size": 2048, "initializer_range": 0.05}
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**known)).bfloat16().save_pretrained(folder)
        quantised = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )  # fmt: skip
        base = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=quantised, device_map={"": 0}, attn_implementation="sdpa"
        )
        base.requires_grad_(False)
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=dropout, target_modules=TrainConfig().target_modules,
                          task_type="CAUSAL_LM")  # fmt: skip
        model = get_peft_model(base, lora)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.03)
        return model

    return make


def _rows(count: int = 7, longest: int = 200, seed: int = 0) -> list[Encoded]:
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        ids = [source.randrange(5, 2000) for _ in range(source.randint(20, longest))]
        rows.append(Encoded(ids, [-100] * 3 + ids[3:], False, True))
    return rows


def _fast(model: Any, steps: list[list[Encoded]], setting: Setting = WHOLE, dtype: Any = torch.bfloat16) -> FastStep:
    fast = FastStep(model, steps, 0, dtype)
    fast.setting = setting
    return fast


def _gradients(model: Any) -> dict[str, Any]:
    found = {name: parameter.grad.double().clone() for name, parameter in model.named_parameters()
             if parameter.requires_grad}  # fmt: skip
    model.zero_grad()
    return found


def _plain_gradients(
    model: Any, rows: list[Encoded], exact: bool, dtype: Any = torch.bfloat16, scale: float = 1.0
) -> dict[str, Any]:
    trained = sum(row.trained for row in rows)
    batch = {name: tensor.cuda() for name, tensor in Padding(0, 0).batch(rows).items()}
    with torch.autocast("cuda", dtype, enabled=not exact):
        loss, _ = sum_tokens(model, batch)
    (loss / trained * scale).backward()
    return _gradients(model)


def _as_float32(model: Any) -> Any:
    """The same numbers, computed with in float32."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Linear4bit" and not hasattr(child, "lora_A"):
                plain = torch.nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
                plain.weight.data = load_weight(child, torch.float32)
                if child.bias is not None:
                    plain.bias.data = child.bias.data.float()
                setattr(module, name, plain.cuda().requires_grad_(False))
    for adapted in model.modules():
        if type(adapted).__name__ == "Linear4bit" and hasattr(adapted, "lora_A"):
            adapted.__class__ = _plain_lora()
    return model.float()


def _plain_lora() -> Any:
    from peft.tuners.lora.layer import Linear

    return Linear


def _error(ours: dict[str, Any], exact: dict[str, Any]) -> float:
    difference = sum(float((ours[name] - exact[name]).square().sum()) for name in exact) ** 0.5
    return difference / sum(float(value.square().sum()) for value in exact.values()) ** 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_within_rounding_of_float32(make_model: Callable[..., Any], family: str) -> None:
    model, rows = make_model(family), _rows()
    found = {}
    for name, setting in {
        "graph": WHOLE,
        "eager": dataclasses.replace(WHOLE, graph=False),
        "unpacked": Setting(4096, resident=False, checkpointing=False),
        "recomputed": Setting(4096, resident=True, checkpointing=True),
        "in parts": Setting(256, resident=False, checkpointing=True),
    }.items():
        fast = _fast(model, [rows, rows[:3]], setting)
        for number in range(2):  # the second one is a replay
            fast.run(rows, number)
            found[f"{name} {number}"] = _gradients(model)
    plain = _plain_gradients(model, rows, exact=False)
    exact = _plain_gradients(_as_float32(model), rows, exact=True)
    rounding = _error(plain, exact)
    errors = {name: _error(gradients, exact) for name, gradients in found.items()}
    print(f"\n{family}: plain bfloat16 {rounding:.5f}, ours {errors}")
    assert rounding < 0.2
    assert max(errors.values()) < 1.1 * rounding


@pytest.mark.parametrize("family", FAMILIES)
def test_float16_s_gradients_come_scaled_and_are_within_rounding_of_float32(
    make_model: Callable[..., Any], family: str
) -> None:
    """The scale is a tensor that a graph reads: it changes from step to step, as a GradScaler's does."""
    model, rows = make_model(family, dtype=torch.float16), _rows()
    fast = _fast(model, [rows, rows[:3]], WHOLE, torch.float16)
    found = {}
    for scale in (65536.0, 1024.0):
        fast.run(rows, 0, torch.tensor([scale], device="cuda"))
        found[scale] = {name: gradient / scale for name, gradient in _gradients(model).items()}
    plain = _plain_gradients(model, rows, exact=False, dtype=torch.float16, scale=65536.0)
    exact = _plain_gradients(_as_float32(model), rows, exact=True)
    rounding = _error({name: gradient / 65536.0 for name, gradient in plain.items()}, exact)
    errors = {scale: _error(gradients, exact) for scale, gradients in found.items()}
    print(f"\n{family}: plain float16 {rounding:.5f}, ours {errors}")
    assert rounding < 0.03
    assert max(errors.values()) < 1.1 * rounding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_scores_are_within_rounding_of_float32(make_model: Callable[..., Any], family: str, dtype: Any) -> None:
    model, rows = make_model(family, dtype=dtype), _rows(count=60)
    kind = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    ours = _scores(model, lambda: PackedScores(model, dtype, lambda: False, lambda: False).score(rows))
    plain = _scores(model, lambda: _score_plainly(model, rows, kind))
    model = _as_float32(model)
    exact = _scores(model, lambda: _score_plainly(model, rows, "no"))
    for name, losses in exact.items():
        rounding, error = (float((found[name] - losses).norm() / losses.norm()) for found in (plain, ours))
        print(f"\n{family} {kind} {name}: plain {rounding:.6f}, ours {error:.6f}")
        assert rounding < 0.01
        assert error < 1.2 * rounding + 1e-4
    assert float((exact["tuned"] - exact["base"]).norm() / exact["base"].norm()) > 0.001


def _scores(model: Any, score: Callable[[], RowScores]) -> dict[str, Any]:
    """Each row's loss, with the adapter and without."""
    tuned = torch.tensor(score().losses)
    with model.disable_adapter():
        return {"tuned": tuned, "base": torch.tensor(score().losses)}


def _score_plainly(model: Any, rows: list[Encoded], kind: str) -> RowScores:
    accelerator = SimpleNamespace(
        process_index=0, num_processes=1, device="cuda", mixed_precision=kind, reduce=lambda sums, reduction: sums
    )
    return score_rows(model, rows, Padding(0, 0), 8, accelerator)


@pytest.mark.skipif(torch.cuda.get_device_capability() < slots.HOPPER, reason="for GPUs from the H100 on")
@pytest.mark.parametrize("family", FAMILIES)
def test_long_rows_of_one_length_take_cudnn_s_attention(
    make_model: Callable[..., Any], capsys: pytest.CaptureFixture[str], family: str
) -> None:
    """With fewer examples in one of the steps, and graphs of more than one length."""
    model, long = make_model(family), [_row(length) for length in (704, 600, 620, 515)]
    fast = _fast(model, [long] * 6 + [long[:2]] * 2)
    found = {}
    for rows in (long, long[:2]):
        fast.run(rows, 0)
        found[len(rows)] = (_gradients(model), _plain_gradients(model, rows, exact=False))
    assert len(fast._graphs) == 2
    assert "cuDNN's attention" in capsys.readouterr().out
    model = _as_float32(model)
    for rows in (long, long[:2]):
        ours, plain = found[len(rows)]
        exact = _plain_gradients(model, rows, exact=True)
        assert _error(ours, exact) < 1.1 * _error(plain, exact)


def test_packed_rows_long_and_short_are_captured(
    make_model: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """They take other kernels, and none of them is loaded within a capture."""
    model, long = make_model("llama", dropout=0.1), [_row(length) for length in range(300, 700, 12)]
    fast = _fast(model, [long, long[:4]] * 8, dataclasses.replace(WHOLE, tokens=32_768))
    for number, rows in enumerate((long, long[:4])):
        fast.run(rows, number)
    assert len(fast._graphs) == 2 and sum(len(row.input_ids) for row in long) > 2 * MANY_TOKENS
    assert "could not be captured" not in capsys.readouterr().out


def _row(length: int) -> Encoded:
    source = random.Random(length)
    ids = [source.randrange(5, 2000) for _ in range(length)]
    return Encoded(ids, ids, False, True)


def test_dropout_is_the_step_s_own_and_repeats(make_model: Callable[..., Any]) -> None:
    model, rows = make_model("qwen2", dropout=0.3), _rows()
    runs = {}
    for name, setting in (("graph", WHOLE), ("recomputed", Setting(4096, resident=False, checkpointing=True))):
        fast = _fast(model, [rows], setting)
        for number in (0, 1, 0):
            fast.run(rows, number)
            runs[name, number] = _gradients(model)
    assert _error(runs["graph", 0], runs["recomputed", 0]) < 0.01
    assert _error(runs["graph", 0], runs["graph", 1]) > 0.1


def test_a_capture_that_fails_goes_on_without_graphs(
    make_model: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from container_src.sft.attention import FlashAttention

    def prepare(self: Any, ends: Any, tokens: int) -> Any:
        ends.sum().item()  # waits for the GPU, which no graph can hold
        return ends

    model, rows = make_model("llama"), _rows()
    _fast(model, [rows]).run(rows, 0)
    expected = _gradients(model)
    monkeypatch.setattr(FlashAttention, "prepare", prepare)
    fast = _fast(model, [rows])
    fast.run(rows, 0)
    assert _error(_gradients(model), expected) < 1e-3
    assert not fast.setting.graph
    assert "could not be captured" in capsys.readouterr().out


def test_out_of_memory_steps_down_from_the_same_state(
    make_model: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = make_model("qwen2"), _rows(count=40)
    small = _growth(lambda: _fast(model, [rows], Setting(512, True, False)).run(rows, 0))
    expected = _gradients(model)
    large = _growth(lambda: _fast(model, [rows], Setting(8192, True, False)).run(rows, 0))
    assert large > 1.5 * small, "rows packed whole must need more, or nothing can run out"
    room = torch.cuda.memory_reserved() + small + (large - small) // 8
    fast = _fast(model, [rows], Setting(8192, True, False))
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        sums = fast.run(rows, 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert _error(_gradients(model), expected) < 0.02
    assert torch.isfinite(sums).all()
    assert fast.setting.tokens < 8192 or fast.setting.checkpointing or not fast.setting.resident
    assert "Out of memory" in capsys.readouterr().out


def _growth(work: Callable[[], Any]) -> int:
    """By how many bytes the allocator's memory grows at most while `work` runs; all of it is given back."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    work()
    grown = torch.cuda.max_memory_reserved() - before
    gc.collect()
    torch.cuda.empty_cache()
    return grown


def test_a_model_that_only_looks_known_is_refused(make_model: Callable[..., Any]) -> None:
    model, rows = make_model("llama"), _rows()
    norm = model.get_base_model().model.norm
    norm.register_forward_hook(lambda module, args, out: 3 * out)
    with pytest.raises(NoFastStep, match="is not the model's own"):
        _fast(model, [rows]).run(rows, 0)
