"""The configurations of the recipes' base models, known offline, and how a stand-in is shrunk from one. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

STAND_IN_VOCABULARY = 1024
STAND_IN_LAYERS = 2
STAND_IN_HIDDEN = 128
# the families' 0.02 bounds a small model's logits to about 2, so its loss could hardly fall whatever is trained
STAND_IN_INITIALIZER_RANGE = 0.1


def _qwen2(hidden: int, intermediate: int, heads: int, kv_heads: int, layers: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    }


def _llama(hidden: int, intermediate: int, heads: int, kv_heads: int, layers: int, **other: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": 32000,
        **other,
    }


_LONG = {"max_position_embeddings": 131072, "sliding_window": 131072}
_CHAT = {"eos_token_id": 151645}
_QWEN_1_5B = (1536, 8960, 12, 2, 28)
_QWEN_7B = (3584, 18944, 28, 4, 28)
_UNTIED = {"tie_word_embeddings": False, "vocab_size": 152064}

KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 4864, 14, 2, 24),
    "Qwen/Qwen2.5-0.5B-Instruct": {**_qwen2(896, 4864, 14, 2, 24), **_CHAT},
    "Qwen/Qwen2.5-1.5B": {**_qwen2(*_QWEN_1_5B), **_LONG},
    "Qwen/Qwen2.5-1.5B-Instruct": {**_qwen2(*_QWEN_1_5B), **_CHAT},
    "Qwen/Qwen2.5-3B": _qwen2(2048, 11008, 16, 2, 36),
    "Qwen/Qwen2.5-3B-Instruct": {**_qwen2(2048, 11008, 16, 2, 36), **_CHAT},
    "Qwen/Qwen2.5-7B": {**_qwen2(*_QWEN_7B), **_LONG, **_UNTIED},
    "Qwen/Qwen2.5-7B-Instruct": {**_qwen2(*_QWEN_7B), **_CHAT, **_UNTIED},
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _llama(
        2048, 5632, 32, 4, 22, max_position_embeddings=2048, torch_dtype="bfloat16"
    ),
    "meta-llama/Llama-2-7b-hf": _llama(4096, 11008, 32, 32, 32, max_position_embeddings=4096, torch_dtype="float16"),
    "google/gemma-2b-it": {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "head_dim": 256,
        "hidden_act": "gelu",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 16384,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 256000,
    },
}


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# what an adapter can be put on, by model_type
LINEAR_MODULES = dict.fromkeys(("qwen2", "llama", "gemma"), (*PROJECTIONS, "embed_tokens", "lm_head"))


EMBEDDINGS = ("embed_tokens", "lm_head")
# any of these is a tokenizer, whatever else describes it
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip


def find_tied(config: Mapping[str, Any], targets: Iterable[str]) -> list[str]:
    """Targets that share one matrix with another place of the model: an adapter on one of them cannot be merged."""
    # only Gemma's config leaves out that they are tied
    tied = config.get("tie_word_embeddings", config.get("model_type") == "gemma")
    return [name for name in targets if tied and name in EMBEDDINGS]


def holds_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def find_architecture(model_id: str) -> dict[str, Any] | None:
    """config.json of a known base model, or None."""
    config = KNOWN.get(model_id)
    return dict(config) if config is not None else None


def count_parameters(config: dict[str, Any]) -> int:
    """All parameters of a known family's model, from its config alone."""
    hidden, heads, kv_heads = (
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
    )
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, kv_heads * head
    attention = 2 * hidden * queries + 2 * hidden * keys
    if config["model_type"] == "qwen2":
        attention += queries + 2 * keys  # biases of q, k and v
    layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    tables = 1 if config["tie_word_embeddings"] else 2
    return int(tables * config["vocab_size"] * hidden + config["num_hidden_layers"] * layer + hidden)


def shrink(config: dict[str, Any], vocabulary: int = STAND_IN_VOCABULARY) -> dict[str, Any]:
    """The stand-in's config: the same class, activation, norms, tied embeddings and sharing of key-value heads."""
    heads, kv_heads = _shrink_heads(config["num_attention_heads"], config["num_key_value_heads"])
    head = _power_of_two(STAND_IN_HIDDEN // heads)
    hidden = heads * head
    widening = config["intermediate_size"] / config["hidden_size"]
    small = {
        **config,
        "hidden_size": hidden,
        "initializer_range": STAND_IN_INITIALIZER_RANGE,
        "intermediate_size": max(64, round(hidden * widening / 64) * 64),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": STAND_IN_LAYERS,
        "max_position_embeddings": min(config["max_position_embeddings"], 4096),
        "torch_dtype": "float32",
        "vocab_size": vocabulary,
    }
    if "head_dim" in config:
        small["head_dim"] = head
    if "max_window_layers" in config:
        small["max_window_layers"] = STAND_IN_LAYERS
    return small


def _shrink_heads(heads: int, kv_heads: int) -> tuple[int, int]:
    """The same number of query heads per key-value head, and one key-value head only where the model has one."""
    if heads == kv_heads:
        return 4, 4
    small = 1 if kv_heads == 1 else 2
    return small * (heads // kv_heads), small


def _power_of_two(limit: int) -> int:
    """The largest power of two up to a limit."""
    return 1 << (limit.bit_length() - 1)
