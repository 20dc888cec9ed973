"""What a plan says of the fast step from config.json alone, against what the job finds in the model built of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from container_src.sft.architectures import find_architecture
from container_src.sft.config import TrainConfig
from container_src.sft.fast_step import find_reason_against
from launcher.estimates import fast_model

QWEN, TINYLLAMA, GEMMA = "Qwen/Qwen2.5-1.5B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "google/gemma-2b-it"
# a stand-in's heads would be too small for the kernels
SMALL = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "vocab_size": 64}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "max_window_layers": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# what a model's config.json has otherwise, what the recipe says otherwise, and what both sides must say
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "qwen": (QWEN, {}, {}, ""),
    "tinyllama": (TINYLLAMA, {}, {}, ""),
    "llama 2": ("meta-llama/Llama-2-7b-hf", {}, {}, ""),
    "gemma": (GEMMA, {}, {}, ""),
    "biases of a llama": (TINYLLAMA, {"attention_bias": True, "mlp_bias": True}, {}, ""),
    "another activation": (TINYLLAMA, {"hidden_act": "relu"}, {}, "the activation relu is not known"),
    "gelu": (TINYLLAMA, {"hidden_act": "gelu"}, {}, ""),
    "swish": (TINYLLAMA, {"hidden_act": "swish"}, {}, ""),
    "linear rotary embeddings": (TINYLLAMA, {"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, ""),
    "llama3's": (TINYLLAMA, {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 512}}, {}, ""),
    "yarn's": (QWEN, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, {}, "of type yarn are not known"),
    "dynamic ones": (TINYLLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, {}, "of type dynamic"),
    "a window": (QWEN, {"use_sliding_window": True}, {}, "a sliding window"),
    "dropout in attention": (GEMMA, {"attention_dropout": 0.1}, {}, "dropout in its attention"),
    "another family": (TINYLLAMA, {"model_type": "mistral"}, {}, "the architecture mistral"),
    "a rank too high": (TINYLLAMA, {}, {"lora_r": 256}, "a rank of 256, above 128"),
    "an adapted head": (TINYLLAMA, {}, {"lora_target_modules": "q_proj,lm_head"}, "other modules"),
    "some projections": (TINYLLAMA, {}, {"lora_target_modules": "q_proj,down_proj"}, ""),
    "trained biases": (QWEN, {}, {"lora_bias": "all"}, "biases are trained"),
    "switched off": (QWEN, {}, {"fast_step": "off"}, "fast_step = off"),
}


def _build(content: dict[str, Any], config: TrainConfig) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model(**content)
    base = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    base.requires_grad_(False)
    adapters = {"r": config.lora_r, "target_modules": list(config.target_modules), "bias": config.lora_bias}
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **adapters))


@pytest.mark.filterwarnings("ignore")  # the libraries' own, of odd settings
@pytest.mark.parametrize("case", CASES)
def test_a_plan_knows_from_config_json_what_the_job_finds(case: str) -> None:
    name, changes, settings, words = CASES[case]
    known = find_architecture(name)
    assert known is not None
    content = known | SMALL | changes
    config = TrainConfig(**{"fast_step": "on", **settings})
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    found = find_reason_against(_build(content, config), config, dtype, 1)
    assert fast_model.find_reason_against(config, content, "A10G", 1) == found
    assert words in found and bool(found) == bool(words)
