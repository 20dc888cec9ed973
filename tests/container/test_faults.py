"""Faults put into real jobs, each explained in output/failure: what happened, and what to do next."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from container_src import sft
from container_src.sft import failure

TRAIN = Path(sft.__file__).parent.parent / "train.py"
SMOKE: dict[str, Any] = {"smoke": True, "max_steps": 6, "max_length": 64, "logging_steps": 1, "load_in_4bit": False}
TOKEN = "hf_of_the_test"


def _rows(base: Path, channel: str, *rows: str) -> None:
    folder = base / "input" / "data" / channel
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows))


def _bad_row(base: Path) -> None:
    _rows(base, "train", '{"prompt": "a", "completion": "b"}', '{"prompt": "a", "completion": ')


def _long_prompt(base: Path) -> None:
    _rows(base, "train", json.dumps({"prompt": "why " * 500, "completion": "b"}))


def _long_prompt_for_a_model_without_weights(base: Path) -> None:
    _pickled_weights(base)
    _long_prompt(base)


def _chat_that_begins_with_the_answer(base: Path) -> None:
    _rows(base, "train", json.dumps({"messages": [{"role": "assistant", "content": "Rest."}]}))


def _empty_channel(base: Path) -> None:
    _rows(base, "train", "")


def _model_channel_without_model(base: Path) -> None:
    _rows(base, "model", "{}")


def _adapter_channel_without_adapter(base: Path) -> None:
    _rows(base, "adapter", "{}")


def _pickled_weights(base: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 400}
    _model_channel(base, config)
    (base / "input" / "data" / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _cut_weights(base: Path) -> None:
    _pickled_weights(base)
    (base / "input" / "data" / "model" / "model.safetensors").write_bytes(b"\xff" * 100)


def _model_channel(base: Path, config: dict[str, Any]) -> None:
    from container_src.sft.stand_in import make_tokenizer

    folder = base / "input" / "data" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    make_tokenizer(["What helps against a headache?"] * 4, "llama").save_pretrained(folder)


def _full_disk(base: Path) -> None:
    """/dev/full refuses every byte with ENOSPC, as a full volume does."""
    (base / "model").mkdir()
    (base / "model" / "metrics.jsonl").symlink_to("/dev/full")


def _checkpoint_of_other_data(base: Path) -> None:
    from container_src.sft.checkpoint import Origin, publish, staging_folder

    staged = staging_folder(base / "checkpoints", 3) / "checkpoint-3"
    staged.mkdir(parents=True)
    (staged / "adapter_model.safetensors").write_text("weights")
    publish(base / "checkpoints", 3, Origin("another", "another"))


def _nothing(base: Path) -> None:
    """The hyperparameters are the fault."""


def _at_hub(model: str, **other: Any) -> dict[str, Any]:
    return {"model_name_or_path": model, "max_steps": 1, **other}


Fault = tuple[Callable[[Path], None], dict[str, Any], str]
# name -> how it is put in, with which hyperparameters, and what the failure file must say
FAULTS: dict[str, Fault] = {
    "a model that is not there": (_nothing, _at_hub("missing/model"), "The model was not found. Check the spelling"),
    "a gated model without a token": (_nothing, _at_hub("gated/model"), "The model is gated. Accept its licence"),
    "a gated model, token refused": (_nothing, _at_hub("licensed/model"), "The model is gated. Accept its licence"),
    "a revision that is not there": (_nothing, _at_hub("unrevised/model"), "The model was not found. Check the"),
    "a Hub in trouble": (_nothing, _at_hub("behind/model"), "The Hub answered with an error of its own"),
    "a model channel without a model": (_model_channel_without_model, {}, "holds no config.json"),
    "pickled weights": (_pickled_weights, {}, "The model has no safetensors weights"),
    "weights cut short": (_cut_weights, {}, "The model's weights are damaged"),
    "an adapter channel without one": (_adapter_channel_without_adapter, SMOKE, "holds no adapter_config.json"),
    "a module that is not there": (_nothing, {**SMOKE, "lora_target_modules": "q_proj,c_attn"}, "names c_attn"),
    "a bad row": (_bad_row, SMOKE, "rows.jsonl:2: not JSON"),
    "a prompt that fills the row": (_long_prompt, SMOKE, "rows.jsonl:1: no token of its answer is left"),
    "a row refused before the weights are loaded": (
        _long_prompt_for_a_model_without_weights,
        {"max_length": 64},
        "rows.jsonl:1: no token of its answer is left",
    ),
    "a chat begun by the assistant": (
        _chat_that_begins_with_the_answer,
        SMOKE,
        "rows.jsonl:1: message 1, the assistant's, comes first",
    ),
    "a channel without rows": (_empty_channel, SMOKE, "holds no rows"),
    "a loss that is not a number": (
        _nothing,
        {**SMOKE, "learning_rate": 1e30, "max_grad_norm": 1e30},
        "so training on is of no use. Lower learning_rate",
    ),
    "weights that are no numbers": (
        _nothing,
        {**SMOKE, "learning_rate": 1e30, "max_grad_norm": 1e30, "logging_steps": 100, "save_steps": 3},
        "weights are no longer numbers at step 3, so nothing of them was saved",
    ),
    "a full disk": (_full_disk, SMOKE, "The disk is full. Raise the volume size"),
    "a checkpoint of other data": (_checkpoint_of_other_data, SMOKE, "belongs to another recipe"),
    "a secret that is not there": (_nothing, _at_hub("opened/model", hf_token_secret="lost"), "from the secret lost"),
    "a Hub that has had enough": (_nothing, _at_hub("crowded/model"), "The Hub takes no more requests"),
    "a model that the Hub keeps back": (_nothing, _at_hub("forbidden/model"), "The Hub refused to give the model out"),
    # last, since the token stays in the environment of the process that runs them all
    "a model without files": (_nothing, _at_hub("opened/model", hf_token_secret="hub-token"), "opened/model"),
    "a token that the Hub rejects": (_nothing, _at_hub("wordless/model"), "The Hub rejected the token. Make a new one"),
}


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory,
    make_base: Callable[[Path], Path],
    train_together: Callable[..., str],
    hub: Any,
) -> dict[str, Path]:
    bases = {name: make_base(tmp_path_factory.mktemp("fault")) for name in FAULTS}
    for name, (inject, _, _) in FAULTS.items():
        inject(bases[name])
    cache = tmp_path_factory.mktemp("cache")
    log = train_together(
        {bases[name]: settings for name, (_, settings, _) in FAULTS.items()},
        HF_ENDPOINT=hub.url,
        HF_HOME=str(cache),
        NO_PROXY="127.0.0.1",
        AWS_ENDPOINT_URL=hub.url,
        AWS_REGION="eu-west-1",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
    )
    assert TOKEN not in log
    assert log.count("ends with 1") == len(FAULTS), log
    return bases


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_explained(broken: dict[str, Path], name: str) -> None:
    written = (broken[name] / "output" / "failure").read_text()
    assert FAULTS[name][2] in written
    assert len(written) <= failure.LIMIT


def test_weights_that_are_no_numbers_are_in_no_checkpoint(broken: dict[str, Path]) -> None:
    base = broken["weights that are no numbers"]
    assert not list((base / "checkpoints").glob("checkpoint-*"))
    assert not (base / "model" / "adapter_model.safetensors").exists()


def test_the_token_reaches_the_hub_and_nothing_else(broken: dict[str, Path], hub: Any) -> None:
    assert hub.tokens["opened"] == {f"Bearer {TOKEN}"}
    for base in broken.values():
        assert not [path for path in base.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_no_fault_leaves_what_looks_like_a_result(broken: dict[str, Path]) -> None:
    assert not [base for base in broken.values() if (base / "model" / "manifest.json").exists()]


def _train(base: Path, settings: dict[str, Any], **environ: str) -> subprocess.CompletedProcess[str]:
    argv = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return subprocess.run(
        [sys.executable, str(TRAIN), *argv],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_kill_leaves_last_words(
    tmp_path: Path, make_base: Callable[[Path], Path], start_training: Callable[..., subprocess.Popen[str]]
) -> None:
    base = make_base(tmp_path / "base")
    with start_training(base, **SMOKE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Rows:")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert "killed or crashed before it could say why" in (base / "output" / "failure").read_text()


def test_a_library_of_another_version_is_named(tmp_path: Path, make_base: Callable[[Path], Path]) -> None:
    """A trl without the trainer that this code extends."""
    (tmp_path / "site" / "trl").mkdir(parents=True)
    (tmp_path / "site" / "trl" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    base = make_base(tmp_path / "base")
    done = _train(base, SMOKE, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 1
    written = (base / "output" / "failure").read_text()
    assert "A library here does not fit this code" in written and "trl" in written


def _misses_a_name_of_a_library() -> None:
    torch.a_name_of_another_version  # noqa: B018


def _misses_what_a_trainer_had() -> None:
    from transformers import TrainingArguments

    TrainingArguments.a_name_of_another_version  # noqa: B018


def _gives_an_argument_that_is_gone() -> None:
    torch.nn.Linear(1, 1, an_argument_of_another_version=True)


def _reads_a_row_that_is_a_list() -> None:
    json.loads("[]").items()


def _asks_a_model_for_what_it_lacks() -> None:
    torch.nn.Linear(1, 1).lm_head  # noqa: B018


@pytest.mark.parametrize(
    ("fault", "is_version"),
    [
        (_misses_a_name_of_a_library, True),
        (_misses_what_a_trainer_had, True),
        (_gives_an_argument_that_is_gone, True),
        (_reads_a_row_that_is_a_list, False),
        (_asks_a_model_for_what_it_lacks, False),
    ],
)
def test_only_a_library_that_lacks_a_name_is_one_that_does_not_fit(fault: Callable[[], None], is_version: bool) -> None:
    with pytest.raises((AttributeError, TypeError)) as caught:
        fault()
    assert failure.explain(caught.value).startswith("A library here does not fit this code") == is_version
    assert is_version or failure.explain(caught.value).startswith("Training failed in ")


WITHOUT_BITSANDBYTES = "import sys\nsys.modules['bitsandbytes'] = None\n"


def test_four_bits_that_cannot_be_had_end_the_job_unless_the_recipe_allows(
    tmp_path: Path, make_base: Callable[[Path], Path], train_together: Callable[..., str]
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_BITSANDBYTES)
    refused, allowed = make_base(tmp_path / "refused"), make_base(tmp_path / "allowed")
    settings = {**SMOKE, "load_in_4bit": True, "optim": "adamw_torch"}
    log = train_together(
        {refused: settings, allowed: {**settings, "allow_unquantised": True}}, PYTHONPATH=str(tmp_path / "site")
    )
    assert "The base cannot be held in 4 bits" in (refused / "output" / "failure").read_text()
    assert "[warning] bitsandbytes does not load here" in log
    manifest = json.loads((allowed / "model" / "manifest.json").read_text())
    assert manifest["base_model"]["held_as"] == "float32"
    assert not (allowed / "output" / "failure").exists()


def _allocate_too_much() -> None:
    torch.empty(2**58)


def _run_out_of_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 14.5")


def _save_to_a_full_disk() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x" * 100_000)


def _save_tensors_beyond_the_file_size_limit() -> None:
    raise OSError(errno.EFBIG, "File too large")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (_allocate_too_much, "Out of memory. Halve per_device_train_batch_size"),
        (_run_out_of_gpu_memory, "Out of memory. Halve per_device_train_batch_size"),
        (_save_to_a_full_disk, "The disk is full"),
        (_save_tensors_beyond_the_file_size_limit, "The disk is full"),
    ],
)
def test_what_the_system_refuses_is_explained(tmp_path: Path, fault: Callable[[], None], sentence: str) -> None:
    failure.write_last_words(tmp_path)
    with pytest.raises((RuntimeError, OSError)) as caught:
        fault()
    failure.report(caught.value, tmp_path)
    assert sentence in (tmp_path / "failure").read_text()
