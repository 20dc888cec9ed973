"""What the training benchmarks run on: random weights of the real architectures, and generated rows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from container_src.sft.architectures import find_architecture, shrink
from container_src.sft.config import TrainConfig

MODELS = {
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "gemma-2b": "google/gemma-2b-it",
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
}
PER_STEP = 8


def make_rows(kind: str, steps: int, vocabulary: int) -> list[list[int]]:
    """Rows of tokens: of mixed lengths, all long, or (to learn from) each counting on from somewhere."""
    source = random.Random(0)
    count = PER_STEP * steps
    if kind == "learnable":
        starts = [(source.randrange(97), source.choice((1, 2, 3)), source.randint(24, 96)) for _ in range(count)]
        return [[5 + (start + pace * place) % 97 for place in range(length)] for start, pace, length in starts]
    if kind == "mixed":
        lengths = [max(32, min(1024, int(source.lognormvariate(5.3, 0.6)))) for _ in range(count)]
    else:
        lengths = [{"long": 2048, "1k": 1024, "512": 512}[kind]] * count
    if vocabulary < 4096:  # a stand-in
        lengths = [length // 16 for length in lengths]
    return [[source.randrange(5, vocabulary - 5) for _ in range(length)] for length in lengths]


def make_base(model: str, tiny: bool, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from container_src.sft.stand_in import make_tokenizer

    architecture = architecture_of(model, tiny)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture))
    torch.set_default_dtype(torch.float32)
    network.save_pretrained(folder, safe_serialization=True, max_shard_size="4GB")
    make_tokenizer(["a b c"], architecture["model_type"]).save_pretrained(folder)


def architecture_of(model: str, tiny: bool) -> dict[str, Any]:
    """config.json's content; of the family's stand-in where it is to be tiny."""
    found = find_architecture(MODELS[model])
    assert found is not None
    return shrink(found) if tiny else found


def make_config(base: Path, tiny: bool, **settings: Any) -> TrainConfig:
    """The seed's recipe: batches of 2 x 4, rank 16 on all seven projections, dropout 0.05."""
    seed: dict[str, Any] = {
        "model_name_or_path": str(base),
        "max_length": 2048,
        "eval_strategy": "no",
        "save_steps": 10**6,
        "learning_rate": 2e-4,
        "load_in_4bit": not tiny,
        "optim": "adamw_torch" if tiny else "paged_adamw_32bit",
        "seed": 0,
    }
    return TrainConfig(**{**seed, **settings})
