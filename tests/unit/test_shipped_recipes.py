"""The shipped recipes hold the settings of the projects they stand for, and their models have the sizes these state."""

from __future__ import annotations

from typing import Any

import pytest

from container_src.sft.architectures import find_architecture
from container_src.sft.config import LORA_TARGETS
from launcher.recipe import load_recipe, shipped_recipes

HEALTHCARE: dict[str, Any] = {
    "model.id": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "lora.r": 8,
    "lora.alpha": 16,
    "lora.target_modules": LORA_TARGETS,
    "output.adapter_folder": "lora_adapters",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b-medical": {
        "model.id": "Qwen/Qwen2.5-1.5B",
        "model.load_in_4bit": True,
        "model.bnb_4bit_quant_type": "nf4",
        "model.bnb_4bit_use_double_quant": True,
        "model.compute_dtype": "bfloat16",
        "lora.r": 16,
        "lora.alpha": 32,
        "lora.dropout": 0.05,
        "lora.target_modules": LORA_TARGETS,
        "lora.bias": "none",
        "data.max_length": 1024,
        "training.per_device_train_batch_size": 2,
        "training.gradient_accumulation_steps": 4,
        "training.learning_rate": 2e-4,
        "training.lr_scheduler_type": "cosine",
        "training.optim": "paged_adamw_32bit",
        "training.warmup_steps": 0,
        "training.warmup_ratio": 0.0,
        "training.max_grad_norm": 0.3,
        "training.max_steps": 200,
        "training.logging_steps": 10,
        "training.eval_steps": 50,
        "training.save_steps": 100,
    },
    "tinyllama-chatdoctor": {
        "model.id": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "model.compute_dtype": "auto",
        "lora.r": 16,
        "lora.alpha": 32,
        "lora.target_modules": "q_proj,k_proj,v_proj,o_proj",
        "data.max_length": 512,
        "training.per_device_train_batch_size": 4,
        "training.num_train_epochs": 3.0,
        "training.max_steps": -1,
        "training.learning_rate": 2e-4,
        "training.lr_scheduler_type": "cosine",
        "training.optim": "paged_adamw_8bit",
        "training.gradient_checkpointing": True,
        "training.logging_steps": 10,
    },
    "tinyllama-healthcare-qa-exp_001": {
        **HEALTHCARE,
        "model.allow_unquantised": True,
        "data.padding": "longest",
        "data.pad_token": "",
        "training.max_steps": 908,
        "training.learning_rate": 5e-5,
        "training.optim": "adamw_torch",
        "training.lr_scheduler_type": "constant",
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 8,
    },
    "tinyllama-healthcare-qa-exp_002": {
        **HEALTHCARE,
        "model.allow_unquantised": True,
        "data.padding": "max_length",
        "data.max_length": 512,
        "data.pad_token": "",
        "training.max_steps": 400,
        "training.learning_rate": 1e-4,
        "training.optim": "paged_adamw_8bit",
        "training.lr_scheduler_type": "cosine",
        "training.warmup_steps": 20,
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 8,
    },
    "tinyllama-healthcare-qa-exp_003": {
        **HEALTHCARE,
        "data.pad_token": "[PAD]",
        "training.max_steps": 400,
        "training.learning_rate": 2e-4,
        "training.per_device_train_batch_size": 8,
        "training.gradient_accumulation_steps": 4,
        "training.gradient_checkpointing": True,
    },
    "gemma-2b-text-to-sql": {
        "model.id": "google/gemma-2b-it",
        "model.load_in_4bit": True,
        "data.loss_on": "completion",
    },
    "llama2-lora": {
        "model.id": "meta-llama/Llama-2-7b-hf",
        "model.compute_dtype": "float16",
        "training.num_train_epochs": 8.0,
        "training.max_steps": -1,
        "training.per_device_train_batch_size": 2,
        "training.gradient_accumulation_steps": 8,
        "training.learning_rate": 2e-5,
        "training.lr_scheduler_type": "cosine",
        "training.warmup_ratio": 0.03,
        "training.optim": "paged_adamw_32bit",
        "training.eval_strategy": "epoch",
        "training.save_strategy": "epoch",
        "training.load_best_model_at_end": True,
        "training.report_to": "tensorboard",
        "training.logging_steps": 25,
    },
}
# trained, and in all, with the adapters
SIZES = {
    "qwen2.5-1.5b-medical": (18_464_768, 1_562_179_072),
    "tinyllama-chatdoctor": (4_505_600, 1_104_553_984),
    "tinyllama-healthcare-qa-exp_001": (6_307_840, 1_106_356_224),
    "tinyllama-healthcare-qa-exp_002": (6_307_840, 1_106_356_224),
    "tinyllama-healthcare-qa-exp_003": (6_307_840, 1_106_356_224),
    "gemma-2b-text-to-sql": (19_611_648, 2_525_784_064),
    "llama2-lora": (39_976_960, 6_778_392_576),
}


def test_every_shipped_recipe_is_in_the_tables() -> None:
    assert shipped_recipes().keys() == SETTINGS.keys() == SIZES.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_recipe_holds_its_projects_settings(name: str) -> None:
    recipe = load_recipe(name)
    assert {key: recipe.value(key) for key in SETTINGS[name]} == SETTINGS[name]


@pytest.mark.parametrize("name", SIZES)
def test_adapters_have_the_size_that_the_recipe_makes(name: str) -> None:
    """On the meta device: the real architecture without its memory."""
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from container_src.sft.model import _lora

    config = load_recipe(name).config
    architecture = find_architecture(config.model_name_or_path)
    assert architecture is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture))
        adapted = get_peft_model(model, _lora(config))
    assert adapted.get_nb_trainable_parameters() == SIZES[name]
