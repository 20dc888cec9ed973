"""Each shipped recipe, from its TOML to what the container builds of it, against the settings its project had.

The road is the real one up to the first step: recipe, plan, request, command line, run_job; the model is a stand-in.
The values below are typed from the projects' own descriptions, never read from the recipes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from container_src.sft import job, trainer
from container_src.sft.config import parse_args
from container_src.sft.evaluate import sum_tokens
from container_src.sft.stop import Stopping
from launcher.aws.site import offline_site
from launcher.plan import make_plan
from launcher.recipe import load_recipe, shipped_recipes
from launcher.request import make_request

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
SEVEN = ATTENTION | {"gate_proj", "up_proj", "down_proj"}
NF4_TWICE = {"base": "4 bits", "quant_type": "nf4", "double_quant": True}
PAGED_32 = {"optimizer": "bitsandbytes AdamW", "optimizer_pages": True, "optimizer_bits": 32}
PAGED_8 = {"optimizer": "bitsandbytes AdamW", "optimizer_pages": True, "optimizer_bits": 8}
PLAIN = {"optimizer": "torch AdamW", "optimizer_pages": False, "optimizer_bits": 32}
HEALTHCARE = {**NF4_TWICE, "r": 8, "alpha": 16, "targets": SEVEN}
# what a cosine from 1 to 0 has left after a quarter of its way; a straight line would have 0.75
QUARTER = 0.8535533905932737

SETTINGS: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b-medical": {
        **NF4_TWICE,
        **PAGED_32,
        "r": 16,
        "alpha": 32,
        "dropout": 0.05,
        "targets": SEVEN,
        "bias": "none",
        "trained_biases": False,
        "batches": [2, 2, 2, 2],
        "max_length": 1024,
        "max_grad_norm": 0.3,
        "weight_decay": 0.0,
        "steps": 200,
        "first_log": 10,
        "first_evaluation": 50,
        "first_save": 100,
    },
    "tinyllama-chatdoctor": {
        **PAGED_8,
        "r": 16,
        "alpha": 32,
        "targets": ATTENTION,
        "batches": [4],
        "max_length": 512,
        "checkpointing": True,
        "steps": 3 * 40,
        "first_log": 10,
    },
    "tinyllama-healthcare-qa-exp_001": {
        **HEALTHCARE,
        **PLAIN,
        "batches": [4] * 8,
        "padded_to": "the longest row",
        "pad_token": "</s>",
        "padded_with": "</s>",
        "checkpointing": False,
        "steps": 908,
    },
    "tinyllama-healthcare-qa-exp_002": {
        **HEALTHCARE,
        **PAGED_8,
        "batches": [4] * 8,
        "padded_to": 512,
        "pad_token": "</s>",
        "padded_with": "</s>",
        "checkpointing": False,
        "steps": 400,
    },
    "tinyllama-healthcare-qa-exp_003": {
        **HEALTHCARE,
        "batches": [8] * 4,
        "pad_token": "[PAD]",
        "checkpointing": True,
        "steps": 400,
    },
    "gemma-2b-text-to-sql": {**NF4_TWICE, "masks_prompts": True},
    "llama2-lora": {
        **PAGED_32,
        "base": "float32",
        "batches": [2] * 8,
        "steps": 8 * 16,
        "first_evaluation": 16,
        "first_save": 16,
        "first_log": 25,
        "report_to": ["tensorboard"],
    },
    # none of the above, so that a value written into the container instead of the recipe's is seen too
    "odd": {
        "base": "4 bits",
        "quant_type": "fp4",
        "double_quant": False,
        "optimizer": "bitsandbytes AdamW",
        "optimizer_pages": False,
        "optimizer_bits": 8,
        "dropout": 0.2,
        "bias": "all",
        "trained_biases": True,
        "padded_to": 200,
        "pad_token": "[FILL]",
        "max_grad_norm": 0.7,
        "weight_decay": 0.013,
        "checkpointing": True,
    },
}
RATES = {
    "qwen2.5-1.5b-medical": {0: 2e-4, 50: QUARTER * 2e-4, 200: 0},
    "tinyllama-chatdoctor": {0: 2e-4, 30: QUARTER * 2e-4, 120: 0},
    "tinyllama-healthcare-qa-exp_001": {0: 5e-5, 1: 5e-5, 454: 5e-5, 908: 5e-5},
    "tinyllama-healthcare-qa-exp_002": {0: 0, 1: 5e-6, 20: 1e-4, 20 + 95: QUARTER * 1e-4, 400: 0},
    "tinyllama-healthcare-qa-exp_003": {0: 2e-4},
    "gemma-2b-text-to-sql": {0: 2e-4},
    # 0.03 of 128 steps warm up
    "llama2-lora": {0: 0, 1: 5e-6, 4: 2e-5, 4 + 31: QUARTER * 2e-5, 128: 0},
    "odd": {0: 0, 1: 1e-4, 3: 3e-4, 30: 3e-4},
}
ODD = """
[model]
id = "Qwen/Qwen2.5-1.5B"
bnb_4bit_quant_type = "fp4"
bnb_4bit_use_double_quant = false
[data]
train = "train.jsonl"
max_length = 200
padding = "max_length"
pad_token = "[FILL]"
[lora]
dropout = 0.2
bias = "all"
[training]
max_steps = 30
learning_rate = 3e-4
lr_scheduler_type = "constant_with_warmup"
warmup_ratio = 0.1
optim = "adamw_8bit"
weight_decay = 0.013
max_grad_norm = 0.7
gradient_checkpointing = true
"""
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU pages, and packs a step's rows")


class BeforeFirstStep(Exception):
    """The job is built; its training is of no interest here."""


@pytest.fixture(scope="module", params=SETTINGS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """A recipe's name, and the trainer that its job made, at the moment when the first step would begin."""
    folder = tmp_path_factory.mktemp("recipe")
    kept = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("SAGEMAKER_BASE_DIR", str(folder))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        yield request.param, _build(request.param, folder, patch)
    os.environ.clear()
    os.environ.update(kept)


def _build(name: str, folder: Path, patch: pytest.MonkeyPatch) -> Any:
    source = _write_odd(folder) if name == "odd" else name
    recipe = load_recipe(source, {"model.smoke": True})
    plan = make_plan(recipe)
    for channel in plan.channels:
        for upload in channel.uploads:
            path = folder / "input" / "data" / channel.name / upload.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(upload.path.read_bytes())
    sent = make_request(plan, offline_site(recipe))["HyperParameters"]
    argv = [
        text
        for key, value in sent.items()
        if not key.startswith("sagemaker_")
        for text in (f"--{key}", str(json.loads(value)))  # as the training toolkit passes them
    ]
    return _stop_before_first_step(argv, patch)


def _write_odd(folder: Path) -> Path:
    rows = [{"text": f"What is {number} and {number}? {2 * number}." * (1 + number % 4)} for number in range(24)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "odd.toml").write_text(ODD)
    return folder / "odd.toml"


def _stop_before_first_step(argv: list[str], patch: pytest.MonkeyPatch) -> Any:
    import transformers

    class Halt(transformers.TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            raise BeforeFirstStep

    made = []
    make_trainer = trainer.make_trainer

    def watch(*args: Any) -> Any:
        made.append(make_trainer(*args))
        made[0].add_callback(Halt)
        return made[0]

    patch.setattr(trainer, "make_trainer", watch)
    with pytest.raises(BeforeFirstStep):
        job.run_job(parse_args(argv), Stopping())
    return made[0]


def describe(trainer: Any) -> dict[str, Any]:
    """What was really built, in the words of the tables above."""
    schedule, args = trainer._schedule, trainer.args
    return {
        **_describe_base(trainer.model),
        **_describe_adapters(trainer.model),
        **_describe_batches(trainer),
        **_describe_optimizer(trainer.optimizer),
        "checkpointing": _runs_layers_twice(trainer),
        "max_grad_norm": args.max_grad_norm,
        "max_length": trainer._config.max_length,
        "report_to": args.report_to,
        "steps": args.max_steps,
        "first_log": next(step for step in range(2, schedule.total) if schedule.logs_after(step)),
        "first_evaluation": _first(schedule.evaluates_after, schedule.total),
        "first_save": _first(schedule.saves_after, schedule.total),
    }


def _first(happens_after: Any, total: int) -> int:
    return next((step for step in range(1, total + 1) if happens_after(step)), 0)


def _describe_base(model: Any) -> dict[str, Any]:
    weight = _layer(model).q_proj.base_layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return {"base": str(weight.dtype).removeprefix("torch."), "quant_type": None, "double_quant": None}
    asked = model.config.quantization_config
    # the config is what a saved model would say, the weight is what is computed with
    assert (asked.bnb_4bit_quant_type, asked.bnb_4bit_use_double_quant) == (state.quant_type, state.nested)
    return {"base": "4 bits", "quant_type": state.quant_type, "double_quant": state.nested}


def _describe_adapters(model: Any) -> dict[str, Any]:
    lora = model.peft_config["default"]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # without any, peft puts an identity there
    assert getattr(_layer(model).q_proj.lora_dropout["default"], "p", 0.0) == lora.lora_dropout
    return {
        "r": lora.r,
        "alpha": lora.lora_alpha,
        "dropout": lora.lora_dropout,
        "bias": lora.bias,
        "trained_biases": any(name.endswith("bias") for name in trained),
        "targets": {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name},
    }


def _layer(model: Any) -> Any:
    return model.get_base_model().model.layers[0].self_attn


def _describe_batches(trainer: Any) -> dict[str, Any]:
    tokenizer = trainer.processing_class
    batches = trainer.train_dataset[0]["batches"]
    widths = {batch["input_ids"].shape[1] for batch in batches}
    fits = all(batch["attention_mask"].sum(dim=1).max() == batch["input_ids"].shape[1] for batch in batches)
    blank = torch.cat([batch["input_ids"][batch["attention_mask"] == 0] for batch in batches]).tolist()
    masked = [
        (row[1:] < 0)[: int(mask.sum()) - 1].any() for batch in batches
        for row, mask in zip(batch["labels"], batch["attention_mask"], strict=True)
    ]  # fmt: skip
    return {
        "batches": [len(batch["input_ids"]) for batch in batches],
        "padded_to": "the longest row" if fits and len(widths) > 1 else widths.pop(),
        "pad_token": tokenizer.pad_token,
        "padded_with": tokenizer.decode([*set(blank)]),
        "masks_prompts": all(masked),
    }


def _describe_optimizer(prepared: Any) -> dict[str, Any]:
    optimizer = prepared.optimizer
    decays = {group["weight_decay"] for group in optimizer.param_groups if group["params"] and not _are_biases(group)}
    assert len(decays) == 1
    return {
        "optimizer": f"{type(optimizer).__module__.partition('.')[0]} {type(optimizer).__name__}",
        "optimizer_pages": getattr(optimizer, "is_paged", False),
        "optimizer_bits": optimizer.args.optim_bits if hasattr(optimizer, "args") else 32,
        "weight_decay": decays.pop(),
    }


def _are_biases(group: dict[str, Any]) -> bool:
    return all(parameter.dim() == 1 for parameter in group["params"])


def _runs_layers_twice(trainer: Any) -> bool:
    """Whether activations are recomputed: every layer then runs a second time on the way back."""
    runs = []
    handle = _layer(trainer.model).register_forward_hook(lambda *args: runs.append(1))
    trainer.model.train()
    batch = trainer.train_dataset[0]["batches"][0]
    sum_tokens(trainer.model, {name: tensor[:1] for name, tensor in batch.items()})[0].backward()
    handle.remove()
    return len(runs) == 2


def test_every_shipped_recipe_is_in_the_tables() -> None:
    assert {*shipped_recipes(), "odd"} == SETTINGS.keys() == RATES.keys()


def test_the_container_builds_what_the_recipe_says(built: tuple[str, Any]) -> None:
    name, made = built
    found = describe(made)
    assert {key: found[key] for key in SETTINGS[name]} == SETTINGS[name]


def test_the_rate_takes_the_recipes_course(built: tuple[str, Any]) -> None:
    name, made = built
    (peak, *_), (course, *_) = made.lr_scheduler.base_lrs, made.lr_scheduler.lr_lambdas
    found = {step: peak * course(step) for step in RATES[name]}
    assert found == pytest.approx(RATES[name], rel=1e-6, abs=1e-12)
