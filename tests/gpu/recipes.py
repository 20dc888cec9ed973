"""Every shipped recipe at its real size: the real architecture with random weights, 20 steps of generated rows.

    python tests/gpu/recipes.py                              all recipes
    python tests/gpu/recipes.py --recipe tinyllama-chatdoctor --dtype float16
    python tests/gpu/recipes.py --recipe llama2-lora --cap-gib 24    with so much of the GPU's memory
    python tests/gpu/recipes.py --tiny                       the families' stand-ins, on a CPU too

Needs torch, the libraries of the default image and the checkout on PYTHONPATH; reaches for nothing else. Each recipe
runs through train.py as a job would: base model from a channel, its own optimizer, precision and padding. Rows are long
enough to fill max_length, so the peak is what a job may meet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from container_src import sft
from container_src.sft.architectures import find_architecture, shrink
from container_src.sft.config import TrainConfig, encode
from container_src.sft.stand_in import make_tokenizer
from launcher.recipe import load_recipe

TRAIN = Path(sft.__file__).parent.parent / "train.py"
RECIPES = (
    "qwen2.5-1.5b-medical",
    "tinyllama-chatdoctor",
    "tinyllama-healthcare-qa-exp_001",
    "tinyllama-healthcare-qa-exp_002",
    "tinyllama-healthcare-qa-exp_003",
    "gemma-2b-text-to-sql",
    "llama2-lora",
)
WORDS = ("rest", "water", "pain", "fever", "knee", "doctor", "sleep", "salt", "walk", "dose", "night", "week", "heart")
STEPS = 20
CAPPED = Path(__file__).parent / "capped.py"
TINY = {"max_steps": 6, "max_length": 48, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


class Result(NamedTuple):
    recipe: str
    architecture: str
    trainable: int
    total: int
    held_as: str
    arithmetic: str
    optimizer: str
    rows: str
    peak_gib: float
    steps_per_second: float
    tokens_per_second: float
    loss: str


def make_channels(base: Path, config: TrainConfig, architecture: dict[str, Any]) -> None:
    """The base model with its family's tokenizer, and rows of about max_length tokens."""
    rows = list(_iter_rows(config, count=256))
    for channel, chosen in (("train", rows), ("eval", rows[:8])):
        folder = base / "input" / "data" / channel
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    folder = base / "input" / "data" / "model"
    make_tokenizer([row["completion"] for row in rows], architecture["model_type"]).save_pretrained(folder)
    _save_random_model(architecture, folder)


def _iter_rows(config: TrainConfig, count: int) -> Iterator[dict[str, str]]:
    """A word is a token or two of the stand-in's tokenizer; every fourth row is longer than the limit and is cut."""
    source = random.Random(0)
    for number in range(count):
        words = config.max_length * 3 // 2 if number % 4 == 0 else config.max_length * 3 // 4
        yield {
            "prompt": "Question: " + " ".join(source.choices(WORDS, k=max(1, words // 8))) + "\nAnswer:",
            "completion": " " + " ".join(source.choices(WORDS, k=words)),
        }


def _save_random_model(architecture: dict[str, Any], folder: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, safe_serialization=True, max_shard_size="4GB")
    del model
    if device == "cuda":
        torch.cuda.empty_cache()


def choose_settings(name: str, tiny: bool, dtype: str) -> TrainConfig:
    """The recipe, cut short: nothing that memory or speed hangs on is changed, but for --tiny and --dtype."""
    config = dataclasses.replace(
        load_recipe(name).config,
        max_steps=STEPS,
        logging_steps=5,
        eval_strategy="steps",
        eval_steps=STEPS,
        save_strategy="steps",
        save_steps=STEPS,
        smoke=False,
    )
    if dtype:
        config = dataclasses.replace(config, compute_dtype=dtype)
    return dataclasses.replace(config, **TINY) if tiny else config


def run_recipe(name: str, tiny: bool, dtype: str, cap_gib: float, folder: Path) -> Result:
    config = choose_settings(name, tiny, dtype)
    architecture = find_architecture(config.model_name_or_path)
    if architecture is None:
        raise SystemExit(f"The architecture of {config.model_name_or_path} is not known.")
    if tiny:
        architecture = shrink(architecture)
    base = folder / name
    make_channels(base, config, architecture)
    log = _train(base, config, cap_gib)
    print(*(line for line in log.splitlines() if line.startswith("Fast step: ")), sep="\n", file=sys.stderr)
    manifest, metrics = (
        json.loads((base / "model" / file).read_text(encoding="utf-8")) for file in ("manifest.json", "metrics.json")
    )
    lines = [json.loads(line) for line in (base / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # the first lines hold the warming up of kernels and allocator
    last = [line for line in lines if "loss" in line][-1]
    if config.adapter_folder and not (base / "model" / config.adapter_folder / "adapter_config.json").is_file():
        raise SystemExit(f"{name} left no {config.adapter_folder}:\n{log}")
    return Result(
        recipe=name,
        architecture=architecture["architectures"][0],
        trainable=manifest["trainable_parameters"],
        total=manifest["total_parameters"],
        held_as=manifest["base_model"]["held_as"],
        arithmetic=manifest["arithmetic"],
        optimizer=manifest["optimizer"],
        rows=f"{config.per_device_train_batch_size}x{config.gradient_accumulation_steps}x{config.max_length}",
        peak_gib=metrics["peak_memory_gib"],
        steps_per_second=last["steps_per_second"],
        tokens_per_second=last["tokens_per_second"],
        loss=f"{metrics['first_loss']:.3f} to {metrics['loss']:.3f}",
    )


def _train(base: Path, config: TrainConfig, cap_gib: float) -> str:
    argv = [text for key, value in encode(config).items() for text in (f"--{key}", str(value))]
    start = [str(CAPPED), str(cap_gib)] if cap_gib else []
    done = subprocess.run(
        [sys.executable, *start, str(TRAIN), *argv],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{base.name} failed:\n{done.stdout[-6000:]}")
    return done.stdout


def print_table(results: list[Result]) -> None:
    """Markdown, to be pasted where it is wanted."""
    head = [name.replace("_", " ") for name in Result._fields]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for result in results:
        print("| " + " | ".join(_cell(value) for value in result) + " |")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the shipped recipes at their real size with random weights.")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="only this one; repeatable")
    parser.add_argument("--dtype", default="", choices=["bfloat16", "float16", "float32"], help="instead of its own")
    parser.add_argument("--cap-gib", type=float, default=0.0, help="let a job have so much of the GPU's memory")
    parser.add_argument("--tiny", action="store_true", help="stand-ins of a few hundred thousand parameters")
    parser.add_argument("--out", type=Path, help="also write the results here, as JSON")
    args = parser.parse_args()
    results: list[Result] = []
    for name in args.recipe or RECIPES:
        # one at a time: a 7B model takes 14 GB of disk
        with tempfile.TemporaryDirectory(prefix="recipe-") as folder:
            results.append(run_recipe(name, args.tiny, args.dtype, args.cap_gib, Path(folder)))
        print(f"{name}: done", file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text(json.dumps([result._asdict() for result in results], indent=1), encoding="utf-8")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    print(f"On {where}, torch {torch.__version__}:\n")
    print_table(results)


if __name__ == "__main__":
    main()
