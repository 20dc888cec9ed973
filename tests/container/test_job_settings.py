"""Hyperparameters, paths, when to stop, and the sentences of a failure."""

from __future__ import annotations

import errno
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest

from container_src.sft import failure
from container_src.sft.arguments import VersionError, choose_optimizer, fit_keywords
from container_src.sft.config import ConfigError, TrainConfig, encode, parse_args
from container_src.sft.data import RowError
from container_src.sft.failure import JobError
from container_src.sft.log import MetricsFile, metric_line
from container_src.sft.model import ModelError, check_targets
from container_src.sft.paths import resolve_paths, write_pid
from container_src.sft.stop import Stopping


def test_hyperparameters_survive_the_command_line() -> None:
    config = TrainConfig(
        smoke=True, learning_rate=1e-3, max_steps=7, lora_target_modules="q_proj,v_proj", git_revision="abc"
    )
    argv = [text for name, value in encode(config).items() for text in (f"--{name}", str(value))]
    assert parse_args(argv) == config
    assert config.target_modules == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--lora_rank", "8"], "lora_rank"),
        (["--max_steps", "many"], "max_steps is 'many'"),
        (["--optim", "sgd"], "optim is 'sgd'; it must be one of"),
        (["--max_steps", "0"], "max_steps is 0"),
        (["--lora_r"], "lora_r"),
        (["--eval_strategy", "no", "--load_best_model_at_end", "true"], 'eval_strategy is "no"'),
        (["--eval_strategy", "no", "--early_stopping_patience", "2"], 'eval_strategy is "no"'),
        (["--early_stopping_patience", "-1"], "early_stopping_patience is -1"),
        (["--adapter_folder", "../elsewhere"], "the plain name of a folder"),
        (["--adapter_folder", "base"], "may be the name of something else in the artifact"),
        (["--adapter_folder", "TensorBoard"], "may be the name of something else in the artifact"),
        (["--adapter_folder", "metrics.json"], "may be the name of something else in the artifact"),
        (["--adapter_folder", "adapter_model.safetensors"], "may be the name of something else in the artifact"),
        (["--seed", "5000000000"], "seed is 5000000000; it must be at most 4294967295"),
        (["--lr_scheduler_type", "polynomial", "--learning_rate", "1e-8"], "ends at 1e-07, so it must be above that"),
        (["--lr_scheduler_type", "constant", "--warmup_steps", "5"], "warmup_steps is 5, but .* constant_with_warmup"),
        (["--lr_scheduler_type", "constant", "--warmup_ratio", "0.1"], "warmup_ratio is 0.1, but .* never warms up"),
    ],
)
def test_a_bad_hyperparameter_is_named(argv: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_args(argv)


@pytest.mark.parametrize("argv", [["--seed", "4294967295"], ["--adapter_folder", "v1.5"], ["--warmup_steps", "5"]])
def test_what_is_near_a_bad_hyperparameter_is_taken(argv: list[str]) -> None:
    assert parse_args(argv)


def test_a_warm_up_beyond_the_last_step_is_doubted() -> None:
    config = TrainConfig(warmup_steps=20)
    assert "never reaches 0.0002" in config.find_doubt(4)
    assert config.find_doubt(20) == config.find_doubt(-1) == ""


def test_default_paths_move_with_the_base_folder(tmp_path: Path) -> None:
    train = tmp_path / "input" / "data" / "train"
    train.mkdir(parents=True)
    paths = resolve_paths(TrainConfig(), {"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert (paths.train, paths.output, paths.checkpoints) == (train, tmp_path / "model", tmp_path / "checkpoints")
    assert (paths.eval, paths.test, paths.adapter, paths.base_model) == (None, None, None, None)


def test_channel_variables_hold_for_default_paths_only(tmp_path: Path) -> None:
    environ = {"SM_CHANNEL_TRAIN": str(tmp_path / "channel"), "SM_MODEL_DIR": str(tmp_path / "out")}
    (tmp_path / "channel").mkdir()
    (tmp_path / "mine").mkdir()
    assert resolve_paths(TrainConfig(), environ).train == tmp_path / "channel"
    assert resolve_paths(TrainConfig(), environ).output == tmp_path / "out"
    assert resolve_paths(TrainConfig(train_data_path=str(tmp_path / "mine")), environ).train == tmp_path / "mine"


def test_only_the_first_process_writes_the_pid(tmp_path: Path) -> None:
    write_pid({"SAGEMAKER_BASE_DIR": str(tmp_path), "RANK": "1"})
    assert not (tmp_path / "output").exists()
    write_pid({"SAGEMAKER_BASE_DIR": str(tmp_path), "RANK": "0"})
    assert (tmp_path / "output" / "pid").read_text().isdigit()


@pytest.mark.parametrize("asked", ["auto", "bfloat16", "float16"])
def test_a_cpu_computes_in_float32_and_says_what_was_asked(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from container_src.sft.model import choose_dtype, say_dtype

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = TrainConfig(compute_dtype=asked)
    say_dtype(config, choose_dtype(config))
    note = "" if asked == "auto" else f", since this machine has no {asked}"
    assert capsys.readouterr().out == f"Arithmetic: float32{note}.\n"


@pytest.mark.parametrize(
    ("text", "token"), [("hf_a\n", "hf_a"), ('{"token": "hf_b"}', "hf_b"), ("", None), ('{"a": "x", "b": "y"}', None)]
)
def test_a_secret_is_a_token_or_an_object_with_one(text: str, token: str | None) -> None:
    from container_src.sft.hub_token import _token_in

    if token is None:
        with pytest.raises(JobError, match="The secret s holds no token"):
            _token_in(text, "s")
    else:
        assert _token_in(text, "s") == token


def test_a_signal_stops_with_its_name() -> None:
    stopping = Stopping()
    assert stopping.check(0) == ""
    stopping.on_signal(signal.SIGTERM, None)
    assert "SIGTERM" in stopping.check(0)


@pytest.mark.parametrize(("limit", "stops_at"), [(100, 90), (20, 15), (36_000, 35_700)])
def test_the_clock_stops_before_the_limit(limit: int, stops_at: int) -> None:
    now = [1000.0]
    stopping = Stopping(clock=lambda: now[0])
    stopping.watch_clock(limit)
    now[0] = 1000.0 + stops_at - 3
    assert stopping.check(ahead_s=1) == ""
    assert "time limit" in stopping.check(ahead_s=4)


def test_without_a_limit_the_clock_never_stops() -> None:
    now = [0.0]
    stopping = Stopping(clock=lambda: now[0])
    stopping.watch_clock(0)
    now[0] = 1e9
    assert stopping.check(0) == ""


class GatedRepoError(Exception):
    """Named as the Hub's, which is recognised by its name so that nothing need be imported."""


def _caused(outer: BaseException, cause: BaseException) -> BaseException:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "Out of memory. Halve"),
        (MemoryError(), "Out of memory. Halve"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "Out of memory. Halve",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (_caused(RuntimeError("The model x could not be loaded"), GatedRepoError("403")), "The model is gated"),
        (OSError("x is not a local folder and is not a valid model identifier"), "The model was not found"),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "could not be downloaded"),
        (ImportError("cannot import name 'SFTConfig'"), "does not fit this code"),
        (TypeError("got an unexpected keyword argument 'max_length'"), "does not fit this code"),
        (RowError("train.jsonl", 3, "not JSON"), "train.jsonl:3: not JSON"),
        (ConfigError("lora_r is 0; it must be above 0"), "lora_r is 0"),
        (ZeroDivisionError("division by zero"), "Training failed in"),
    ],
)
def test_a_failure_is_explained(tmp_path: Path, error: BaseException, sentence: str) -> None:
    failure.report(error, tmp_path / "output")
    written = (tmp_path / "output" / "failure").read_text()
    assert sentence in written
    assert len(written) <= failure.LIMIT


def test_the_first_failure_is_kept_and_an_earlier_attempts_is_cleared(tmp_path: Path) -> None:
    failure.report(MemoryError(), tmp_path)
    failure.report(ZeroDivisionError(), tmp_path)
    assert "Out of memory" in (tmp_path / "failure").read_text()
    failure.clear(tmp_path)
    assert not (tmp_path / "failure").exists()


def test_metric_lines_hold_plain_numbers() -> None:
    values: dict[str, Any] = {"loss": 2.123456789, "learning_rate": 2e-5, "eta_s": 12, "grad_norm": math.nan}
    assert (
        metric_line(10, 200, values) == "[metrics] step=10/200 loss=2.12346 learning_rate=2e-05 eta_s=12 grad_norm=nan"
    )


def test_the_metrics_file_continues_after_a_resume(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "model" / "metrics.jsonl")
    file.start([{"step": 1, "loss": 3.0}])
    file.append({"step": 2, "loss": math.inf})
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}]


def test_renamed_arguments_are_translated_and_none_is_dropped_in_silence() -> None:
    assert fit_keywords({"max_length": 5, "seed": 1}, {"max_seq_length", "seed"}) == {"max_seq_length": 5, "seed": 1}
    assert fit_keywords({"save_safetensors": True}, set()) == {}
    with pytest.raises(VersionError, match="no argument max_grad_norm, which changes the result"):
        fit_keywords({"max_grad_norm": 0.3}, {"seed"})


def test_a_module_that_the_model_lacks_is_refused() -> None:
    import torch

    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2), "norm": torch.nn.LayerNorm(2)})
    check_targets(model, TrainConfig(lora_target_modules="q_proj"))
    with pytest.raises(ModelError, match="names wqkv, which this model does not have. It has q_proj."):
        check_targets(model, TrainConfig(lora_target_modules="q_proj,wqkv"))


def test_a_run_keeps_the_optimizer_whose_states_it_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spot run may begin beside a fast step and go on where there is none, or the other way round."""
    config = TrainConfig(optim="paged_adamw_32bit")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_optimizer(config, fast=True) == "adamw_torch_fused"
    assert choose_optimizer(config, fast=False, kept="adamw_torch_fused") == "adamw_torch_fused"
    assert choose_optimizer(config, fast=True, kept="paged_adamw_32bit") == "paged_adamw_32bit"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_optimizer(config, kept="adamw_torch_fused") == "adamw_torch"
