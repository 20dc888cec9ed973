"""What a GPU has left, and the sizes of a model that decide what fits into it."""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253

from .memory_plan import Shape


def shape_of(model: Any) -> Shape:
    settings = model.get_base_model().config
    head = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
    return Shape(
        layers=settings.num_hidden_layers,
        hidden=settings.hidden_size,
        intermediate=settings.intermediate_size,
        heads=settings.num_attention_heads,
        kv_heads=settings.num_key_value_heads,
        head=head,
        vocabulary=settings.vocab_size,
        rank=max(adapter.r for adapter in model.peft_config.values()),
    )


def free_bytes() -> int:
    """Bytes that PyTorch could still take, with what it holds and does not use."""
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    if hasattr(torch.cuda, "get_per_process_memory_fraction"):  # since torch 2.8; 1.0 unless somebody set a limit
        free = min(free, int(total * torch.cuda.get_per_process_memory_fraction()) - reserved)
    return int(free + reserved - torch.cuda.memory_allocated())
