"""The known architectures and the stand-ins shrunk from them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from container_src.sft.architectures import KNOWN, count_parameters, find_architecture, shrink

KEPT = ("architectures", "model_type", "hidden_act", "rms_norm_eps", "rope_theta", "tie_word_embeddings")


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384),
        ("google/gemma-2b-it", 2_506_172_416),
        ("meta-llama/Llama-2-7b-hf", 6_738_415_616),
    ],
)
def test_known_configs_have_the_published_size(model: str, parameters: int) -> None:
    assert count_parameters(KNOWN[model]) == parameters


def test_an_unknown_model_is_not_found_and_a_known_one_is_a_copy() -> None:
    assert find_architecture("someone/something") is None
    found = find_architecture("Qwen/Qwen2.5-1.5B")
    assert found is not None
    found["hidden_size"] = 1
    assert KNOWN["Qwen/Qwen2.5-1.5B"]["hidden_size"] == 1536


@pytest.mark.parametrize("model", sorted(KNOWN))
def test_a_stand_in_keeps_its_family_and_is_small(model: str) -> None:
    large, small = KNOWN[model], shrink(KNOWN[model], vocabulary=500)
    assert [small[key] for key in KEPT] == [large[key] for key in KEPT]
    heads = (large["num_attention_heads"], large["num_key_value_heads"])
    small_heads = (small["num_attention_heads"], small["num_key_value_heads"])
    assert small_heads[0] * heads[1] == small_heads[1] * heads[0]
    assert (small_heads[1] == 1) == (heads[1] == 1)
    assert 64 <= small["hidden_size"] <= 128
    assert small["hidden_size"] == small_heads[0] * small.get("head_dim", small["hidden_size"] // small_heads[0])
    assert small["vocab_size"] == 500
    assert count_parameters(small) < 2_000_000


def test_what_the_launcher_imports_loads_no_library() -> None:
    script = """
import sys
import container_src.sft.architectures, container_src.sft.config, container_src.sft.data
print([name for name in ("torch", "transformers", "numpy", "jinja2", "datasets") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
