"""Model folders and adapters that do not fit, and what holds when a job goes on from an earlier job's adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from container_src.sft.architectures import KNOWN, find_tied, shrink
from container_src.sft.config import TrainConfig
from container_src.sft.data import Row
from container_src.sft.earlier_adapter import AdapterError, EarlierAdapter, find_doubt, find_misfit, read_adapter
from container_src.sft.model import Base, ModelError, attach_adapters, check_untied
from container_src.sft.stand_in import make_stand_in

SMOKE: dict[str, Any] = {"smoke": True, "max_steps": 2, "max_length": 64, "load_in_4bit": False}
QWEN, LLAMA = "Qwen/Qwen2.5-1.5B", "meta-llama/Llama-2-7b-hf"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its tokenizer, as save_pretrained leaves them."""
    folder = tmp_path_factory.mktemp("model")
    rows = [Row(Path("rows.jsonl"), number, {"text": f"rest the knee {number}"}) for number in range(8)]
    make_stand_in(Base(QWEN, QWEN), TrainConfig(smoke=True), rows, folder)
    return folder


@pytest.fixture(scope="module")
def jobs(
    tmp_path_factory: pytest.TempPathFactory,
    model_folder: Path,
    make_base: Callable[[Path], Path],
    train_together: Callable[..., str],
) -> dict[str, Path]:
    """One trains biases, one goes on from it, one of another family tries to; the others have models with a fault."""
    names = ("biased", "continued", "misfit", "tied", "without tokenizer", "too many tokens")
    found = {name: make_base(tmp_path_factory.mktemp("job")) for name in names}
    bare, wide = (shutil.copytree(model_folder, tmp_path_factory.mktemp("bad") / "model") for _ in range(2))
    for path in bare.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    _add_tokens(wide)
    plain = {**SMOKE, "smoke": False}
    adapter = {"adapter_path": found["biased"] / "model"}
    log = train_together(
        {
            found["biased"]: {**SMOKE, "lora_bias": "all"},
            found["continued"]: {**SMOKE, **adapter},
            found["misfit"]: {**SMOKE, **adapter, "model_name_or_path": LLAMA},
            found["tied"]: {**SMOKE, "lora_target_modules": "q_proj,embed_tokens"},
            found["without tokenizer"]: {**plain, "model_name_or_path": bare},
            found["too many tokens"]: {**plain, "model_name_or_path": wide},
        }
    )
    assert log.count("ends with 0") == 2, log
    return found


def _add_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [f"word{number}" for number in range(2048)]
    tokenizer.add_tokens([*words, "knee", "elbow"])
    tokenizer.save_pretrained(folder)


def _failure(base: Path) -> str:
    return (base / "output" / "failure").read_text()


def test_trained_biases_that_are_gone_on_with_leave_no_base_to_compare_with(jobs: dict[str, Path]) -> None:
    model = jobs["continued"] / "model"
    assert not (model / "evaluation.json").exists()
    assert "base_loss" not in json.loads((model / "metrics.json").read_text())
    assert json.loads((model / "manifest.json").read_text())["config"]["lora_bias"] == "all"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("misfit", f"was made for another base than {LLAMA}"),
        ("misfit", "Its own base is a stand-in"),
        ("tied", "names embed_tokens, but embed_tokens and lm_head of this model are one matrix"),
        ("without tokenizer", "model holds no tokenizer. Put its files"),
        ("too many tokens", "tokens were added without resizing it"),
    ],
)
def test_what_does_not_fit_ends_the_job_with_a_sentence(jobs: dict[str, Path], name: str, words: str) -> None:
    assert words in _failure(jobs[name])
    base = jobs[name]
    assert not (base / "model" / "manifest.json").exists()


def _model(name: str, **changes: Any) -> Any:
    config = shrink(KNOWN[name], 64) | changes
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def test_an_adapter_of_its_own_base_fits_and_one_of_fewer_layers_does_not(tmp_path: Path) -> None:
    config = TrainConfig(model_name_or_path=QWEN)
    model = _model(QWEN)
    attach_adapters(model, Base(QWEN, QWEN), config, _paths(None)).save_pretrained(
        tmp_path, save_embedding_layers=False
    )
    earlier = read_adapter(tmp_path)
    assert (earlier.base, earlier.bias, len(earlier.shapes)) == (QWEN, "none", 2 * 7 * 2)
    assert find_misfit(earlier, model.config.to_dict()) == ""
    assert (
        find_misfit(earlier, model.config.to_dict() | {"num_hidden_layers": 3})
        == "it has 2 layers, and the model has 3"
    )
    assert "wide" in find_misfit(earlier, shrink(KNOWN[LLAMA], 64))
    attach_adapters(_model(QWEN), Base(QWEN, QWEN), config, _paths(tmp_path))


def test_a_mismatch_that_the_header_does_not_show_is_explained(tmp_path: Path) -> None:
    """Of a family whose projections have other names, nobody knows the widths."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(width: int) -> Any:
        return GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=1, n_head=2, vocab_size=64))

    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(make(32), lora).save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(AdapterError, match="was made for another base than small"):
        attach_adapters(make(16), Base("small", "small"), TrainConfig(model_name_or_path="small"), _paths(tmp_path))


def _paths(adapter: Path | None) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(adapter=adapter)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_on_a_tied_matrix_is_refused_since_it_cannot_be_merged(target: str) -> None:
    config = TrainConfig(lora_target_modules=f"q_proj,{target}")
    with pytest.raises(ModelError, match=target):
        check_untied(_model(QWEN).config.to_dict(), config)
    check_untied(_model(QWEN, tie_word_embeddings=False).config.to_dict(), config)


def test_who_is_tied_without_saying_so() -> None:
    assert find_tied({"model_type": "gemma"}, ["lm_head"]) == ["lm_head"]
    assert find_tied({"model_type": "llama"}, ["lm_head"]) == []


def test_another_name_is_doubted_and_a_stand_ins_is_not() -> None:
    other = EarlierAdapter("Qwen/Qwen2.5-1.5B-Instruct", "none", (), {})
    assert "made on Qwen/Qwen2.5-1.5B-Instruct, and this job trains" in find_doubt(other, QWEN)
    assert find_doubt(EarlierAdapter(QWEN, "none", (), {}), QWEN) == ""
    assert find_doubt(EarlierAdapter("base", "none", (), {}), QWEN) == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"target_modules": 3}'])
def test_an_adapters_broken_config_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(tmp_path)


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_merging_is_why_tied_targets_are_refused() -> None:
    """The fact that forces the refusal: what is merged into one matrix is in both places."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    model = get_peft_model(_model(QWEN), lora).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        after = model.merge_and_unload()(input_ids=ids).logits
    assert (before - after).abs().max() > 0.1
