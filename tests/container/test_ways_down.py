"""A fast step that this machine refuses, and an evaluation out of memory, go on in another way, and say so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from container_src.sft import reference, step_runner
from container_src.sft.architectures import find_architecture, shrink
from container_src.sft.batches import Padding, StepDataset
from container_src.sft.config import TrainConfig
from container_src.sft.data import Encoded
from container_src.sft.evaluate import AbandonedError, RowScores, score_rows
from container_src.sft.failure import JobError
from container_src.sft.fast_step import FastStep
from container_src.sft.scoring import Scoring
from container_src.sft.step_runner import StepRunner

ROWS = [Encoded(list(range(5, 5 + length)), list(range(5, 5 + length)), False, True) for length in (9, 4, 7, 5, 3, 8)]
WEIGHT = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"


class OutOfResources(Exception):
    """As Triton's: no RuntimeError."""


class Step:
    """A model with dropout, the job's only step, and the two ways to run it."""

    def __init__(self) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoConfig, AutoModelForCausalLM

        known = find_architecture("TinyLlama/TinyLlama-1.1B-Chat-v1.0")
        assert known is not None
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shrink(known)), attn_implementation="sdpa")
        lora = LoraConfig(
            r=4, lora_dropout=0.3, target_modules=TrainConfig().target_modules, init_lora_weights=False,
            task_type="CAUSAL_LM",
        )  # fmt: skip
        self.model = get_peft_model(base, lora).train()
        self.dataset = StepDataset(ROWS, [list(range(len(ROWS)))], 2, Padding(0, 0), 0, 1, whole=True)
        self.trainer = SimpleNamespace(
            model=self.model, accelerator=Accelerator(cpu=True), _prepare_inputs=lambda inputs: inputs,
            compute_loss_context_manager=contextlib.nullcontext,
        )  # fmt: skip

    def run(self, fast: FastStep | None) -> tuple[float, Any]:
        runner = StepRunner(self.trainer, self.dataset, fast, "a test says so")
        torch.manual_seed(1)
        self.model.train()
        self.model.zero_grad()
        loss, _ = runner.run(self.model, self.dataset[0], 0)
        return float(loss), dict(self.model.named_parameters())[WEIGHT].grad.clone()

    def fast(self) -> FastStep:
        return FastStep(self.model, [ROWS], 0, torch.float32)


@pytest.fixture(scope="module")
def step() -> Step:
    return Step()


def _refuse(error: Exception) -> Callable[..., None]:
    def operation(*args: Any) -> None:
        raise error

    return operation


@pytest.mark.parametrize(
    "error",
    [
        OutOfResources("out of resource: shared memory, Required: 155648\nmore"),
        RuntimeError("Failed to find C compiler"),
    ],
)
def test_what_is_refused_at_the_beginning_gives_way_to_the_plain_path(
    step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    plain = step.run(None)
    capsys.readouterr()
    monkeypatch.setattr(reference, "REFUSALS", (RuntimeError, OutOfResources))
    monkeypatch.setattr(reference, "drop_down", _refuse(error))
    loss, gradient = step.run(step.fast())
    assert loss == plain[0] and torch.equal(gradient, plain[1])  # with the same dropout, too
    said = capsys.readouterr().out
    name, line = type(error).__name__, str(error).splitlines()[0]
    assert f"[warning] No fast step: it cannot begin here ({name}: {line}). Training goes on by the plain path" in said


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyError("a bug"), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_error_of_ours_is_hidden_by_no_plain_path(
    step: Step, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fast = step.fast()
    fast._step_down = _refuse(error)  # type: ignore[method-assign] - the fast step's own way down from too little memory
    monkeypatch.setattr(reference, "drop_down", _refuse(error))
    with pytest.raises(type(error)):
        step.run(fast)


def test_float16_s_gradients_come_scaled_and_its_loss_does_not(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = step.fast()
    loss, gradient = step.run(fast)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)  # type: ignore[attr-defined] - torch does not export it
    monkeypatch.setattr(step.trainer.accelerator, "scaler", scaler)
    for scale in (4096.0, 2048.0):
        assert step.run(fast)[0] == loss
        scaled = dict(step.model.named_parameters())[WEIGHT].grad
        assert torch.equal(scaled, gradient * scale)  # powers of two: exactly
        scaler.update(scale / 2)


def test_what_fails_in_a_later_step_ends_the_job(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = step.fast()
    step.run(fast)
    monkeypatch.setattr(reference, "drop_down", _refuse(RuntimeError("an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        step.run(fast)


def _once(error: Exception, real: Callable[..., Any]) -> Callable[..., Any]:
    errors = [error]

    def call(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)  # what it left is there: half of a step
        if errors:
            raise errors.pop()
        return found

    return call


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_fast_step_out_of_memory_in_its_middle_is_begun_again(
    step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    fast = step.fast()
    expected = step.run(fast)
    monkeypatch.setattr(reference, "grad_down", _once(error, reference.grad_down))
    loss, gradient = step.run(fast)
    assert loss == expected[0] and torch.equal(gradient, expected[1])
    assert "[warning] Out of memory (" in capsys.readouterr().out


def test_a_fast_step_gives_its_memory_to_an_evaluation_and_goes_on_as_before(
    step: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = step.fast()
    runner = StepRunner(step.trainer, step.dataset, fast, "")
    assert not runner.give_way()  # nothing is held before the first step
    expected = step.run(fast)
    assert fast.begun and runner.give_way() and not fast.begun and not runner.give_way()
    loss, gradient = step.run(fast)
    assert loss == expected[0] and torch.equal(gradient, expected[1])
    assert capsys.readouterr().out.count("makes room, and begins anew after it") == 1


@pytest.mark.parametrize("error", FULL)
def test_a_plain_step_out_of_memory_goes_on_with_fewer_rows(
    step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(step.dataset, "_size", len(ROWS))
    expected = step.run(None)
    monkeypatch.setattr(step_runner, "sum_tokens", _once(error, step_runner.sum_tokens))
    assert step.run(None)[0] == pytest.approx(expected[0], rel=0.3)  # dropout falls otherwise on other batches
    assert "Going on from the same state with 3 rows at once instead of 6" in capsys.readouterr().out


class Model(SimpleNamespace):
    """Has memory for so many rows at once."""

    def __init__(self, room: int, error: Exception = FULL[0]) -> None:
        super().__init__(training=True, room=room, error=error, asked=[])

    def eval(self) -> None:
        self.training = False

    def train(self, training: bool) -> None:
        self.training = training

    def __call__(self, input_ids: Any, **kwargs: Any) -> Any:
        self.asked.append(tuple(input_ids.shape))
        if len(input_ids) > self.room:
            raise self.error
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids, 20).float())


def _accelerator(mixed_precision: str) -> Any:
    return SimpleNamespace(
        process_index=0, num_processes=1, device="cpu", mixed_precision=mixed_precision,
        reduce=lambda sums, reduction: sums,
    )  # fmt: skip


def _score(model: Model, size: int, processes: int = 1, give_way: Callable[[], bool] = lambda: False) -> RowScores:
    accelerator = _accelerator("no")
    scoring = Scoring(size, processes, give_way)
    found = [
        scoring.run(lambda at_once: score_rows(model, ROWS, Padding(0, 0), at_once, accelerator), ROWS)
        for _ in range(2)
    ]
    assert found[0] == found[1] and model.training
    return found[0]


@pytest.mark.parametrize("error", FULL)
def test_an_evaluation_takes_fewer_rows_at_once_where_memory_runs_out(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    model = Model(2, error)
    assert _score(model, 64) == _score(Model(room=64), 1)
    # the longest rows first, so that nothing is scored in vain; and the second evaluation begins with what fits
    assert [rows for rows, _ in model.asked] == [6, 3, *[2] * 3, *[2] * 3]
    assert model.asked[1] == (3, 9)
    said = capsys.readouterr().out
    assert "[warning] Out of memory in the evaluation (CUDA " in said and "begins anew with 3 rows at once" in said
    assert "per_device_eval_batch_size = 2 has it so" in said


def test_an_evaluation_left_midway_leaves_no_old_weights_behind(step: Step) -> None:
    """Autocast keeps a half-precision copy of every trained weight until it ends."""

    def score(should_stop: Callable[[], bool]) -> list[float]:
        return score_rows(step.model, ROWS, Padding(0, 0), 2, _accelerator("bf16"), should_stop).losses

    before = score(lambda: False)
    with pytest.raises(AbandonedError):
        score(iter([False, True]).__next__)
    assert not torch.is_autocast_enabled("cpu")
    weight = dict(step.model.named_parameters())[WEIGHT]
    kept = weight.data.clone()
    weight.data += 1
    changed = score(lambda: False)
    weight.data.copy_(kept)
    assert changed != before and score(lambda: False) == before


def test_the_fast_step_gives_way_before_rows_do() -> None:
    model = Model(room=2)
    asked: list[int] = []

    def give_way() -> bool:
        asked.append(model.room)
        held, model.room = model.room < 8, 8
        return held

    _score(model, 8, give_way=give_way)
    assert asked == [2]
    assert [rows for rows, _ in model.asked] == [6, 6, 6]


@pytest.mark.parametrize(
    ("room", "processes", "words"),
    [(0, 1, "1 at once. Lower max_length"), (2, 2, "6 at once. Lower per_device_eval_batch_size")],
)
def test_an_evaluation_that_cannot_go_on_says_what_to_lower(room: int, processes: int, words: str) -> None:
    with pytest.raises(JobError, match=words):
        _score(Model(room), 64, processes)
