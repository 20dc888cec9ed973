"""Jobs on a GPU end as they would have, killed and started again, or with little memory for an evaluation.

python -m pytest tests/gpu/test_jobs.py
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from container_src import sft
from container_src.sft.architectures import find_architecture
from container_src.sft.stand_in import make_tokenizer

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
TRAIN = Path(sft.__file__).parent.parent / "train.py"
WORDS = ("rest", "water", "pain", "fever", "knee", "doctor", "sleep", "salt", "walk", "dose")
SETTINGS = {"max_steps": 30, "max_length": 256, "logging_steps": 1, "save_steps": 10, "lora_dropout": 0.05,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3}  # fmt: skip
CAPPED = Path(__file__).parent / "capped.py"


def _write_base(folder: Path, vocabulary: int = 0) -> None:
    known = find_architecture("Qwen/Qwen2.5-1.5B")
    assert known is not None
    tokenizer = make_tokenizer([" ".join(WORDS)] * 4, "qwen2")
    known |= {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 6, "num_hidden_layers": 3,
              "vocab_size": vocabulary or -(-len(tokenizer) // 64) * 64}  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**known)).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_rows(base: Path, channel: str = "train", shortest: int = 8) -> None:
    source = random.Random(0)
    rows = [{"text": " ".join(source.choices(WORDS, k=source.randint(shortest, 60)))} for _ in range(64)]
    folder = base / "input" / "data" / channel
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _train(base: Path, model: Path, kill_after: int = 0, cap_gib: float = 0.0, **settings: object) -> list[str]:
    wanted = {**SETTINGS, **settings, "model_name_or_path": model}
    start = [str(CAPPED), str(cap_gib)] if cap_gib else []
    with subprocess.Popen(
        [sys.executable, *start, str(TRAIN), *(f"--{name}={value}" for name, value in wanted.items())],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as job:
        assert job.stdout is not None
        lines = []
        for line in job.stdout:
            lines.append(line)
            if kill_after and line.startswith(f"[metrics] step={kill_after}/"):
                job.kill()
    assert job.returncode == (-9 if kill_after else 0), "".join(lines[-40:])
    return lines


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_killed_job_goes_on_to_the_same_end(tmp_path: Path, dtype: str) -> None:
    model = tmp_path / "model"
    _write_base(model)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for base in (whole, broken):
        _write_rows(base)
    lines = _train(whole, model, compute_dtype=dtype)
    assert any(line.startswith("Fast step: packed rows") for line in lines), "".join(lines)
    _train(broken, model, kill_after=17, compute_dtype=dtype)
    resumed = _train(broken, model, compute_dtype=dtype)
    assert any(line.startswith("Resuming after step 10 ") for line in resumed), "".join(resumed)
    ours, theirs = ([_losses(base)[step] for step in range(1, 31)] for base in (whole, broken))
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    print(f"losses at most {worst:.2e} apart of {ours[0]:.3f}")
    assert worst <= 2e-3 * ours[0]
    assert ours[-1] < ours[0]
    found, wanted = (load_file(base / "model" / "adapter_model.safetensors") for base in (broken, whole))
    for name, weights in wanted.items():
        assert torch.allclose(found[name], weights, atol=5e-3), name


def test_an_evaluation_finds_the_same_in_little_memory(tmp_path: Path) -> None:
    """Packed it needs little beside what the fast step holds; padded it takes fewer rows at once."""
    model = tmp_path / "model"
    _write_base(model, vocabulary=152_064)
    settings = {"max_steps": 10, "save_steps": 10, "eval_strategy": "steps", "eval_steps": 5, "lora_dropout": 0.0}
    little = {"cap_gib": 3.0, "per_device_eval_batch_size": 64}
    found, said = {}, {}
    for name, more in {"roomy": {}, "capped": little, "plain": {**little, "fast_step": "off"}}.items():
        base = tmp_path / name
        _write_rows(base)
        _write_rows(base, "eval", shortest=50)
        said[name] = "".join(_train(base, model, **settings, **more))
        found[name] = _losses(base), _losses(base, "eval_loss")
    assert "Out of memory" not in said["capped"], said["capped"]
    assert said["capped"].count("Fast step: packed rows") == 1, said["capped"]
    assert "It begins anew with 32 rows at once instead of 64" in said["plain"], said["plain"]
    for name, tolerance in (("capped", 2e-3), ("plain", 1e-2)):
        for ours, theirs in zip(found[name], found["roomy"], strict=True):
            assert list(ours) == list(theirs)
            assert ours == pytest.approx(theirs, rel=tolerance)


def _losses(base: Path, name: str = "loss") -> dict[int, float]:
    (file,) = base.rglob("metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}
