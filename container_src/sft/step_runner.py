"""How a step's gradients come about: the fast way where there is one, else plainly, in less memory if need be."""

from __future__ import annotations

import contextlib
from typing import Any

import torch  # noqa: TID253

from .batches import StepDataset
from .evaluate import sum_tokens
from .fast_conditions import NoFastStep
from .fast_step import FastStep
from .log import say, warn
from .out_of_memory import is_out_of_memory, shorten


class StepRunner:
    """Both ways leave the gradients of the same loss: the mean over the step's trained tokens."""

    def __init__(self, trainer: Any, dataset: StepDataset, fast: FastStep | None, reason: str) -> None:
        self._trainer = trainer
        self._dataset = dataset
        self._fast = fast
        self._size = 0
        self._checkpointing = False
        if fast is None:
            say(f"Fast step: off, since {reason}.")

    def run(self, model: Any, step: dict[str, Any], number: int) -> tuple[Any, Any]:
        """The step's loss (this process's share of it, scaled) and how many tokens were predicted right."""
        if self._fast is not None:
            try:
                loss, rights = self._fast.run(step["encoded"], number, self._scale())
                return loss / step["trained"], rights
            except NoFastStep as why:
                warn(f"No fast step: {why}. Training goes on by the plain path, from the same state.")
            self._fast.forget()  # here: the exception held what is given back
            self._fast = None
        if not step["batches"]:
            step = {**step, "batches": self._dataset.pad(step["encoded"])}
        return self._run_plainly(model, self._trainer._prepare_inputs({**step, "encoded": ()}))

    def _scale(self) -> Any:
        """What Trainer will divide the gradients by: in float16 small ones would be lost otherwise."""
        scaler = self._trainer.accelerator.scaler
        return None if scaler is None else scaler.scale(torch.ones(1, device=self._trainer.accelerator.device))

    @property
    def is_fast(self) -> bool:
        return self._fast is not None

    def give_way(self) -> bool:
        """Free what the fast step holds, for an evaluation that needs the room; the next step takes it again."""
        if self._fast is None or not self._fast.begun:
            return False
        warn("Out of memory in the evaluation. The fast step makes room, and begins anew after it.")
        self._fast.forget()
        return True

    def _run_plainly(self, model: Any, step: dict[str, Any]) -> tuple[Any, Any]:
        while True:
            state = _random_state()
            try:
                return self._run_batches(model, step)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._may_step_down(step):
                    raise
                problem = shorten(error)
            # the weights are as they were: only the gradients and the random state have moved
            model.zero_grad()
            _restore(state)
            self._step_down(step, problem)

    def _run_batches(self, model: Any, step: dict[str, Any]) -> tuple[Any, Any]:
        accelerator = self._trainer.accelerator
        # processes' gradients are averaged, so each one's share is scaled up to make the average the sum
        weight = accelerator.num_processes / step["trained"] if step["counts"] else 0.0
        losses, rights = [], []
        batches = [part for batch in step["batches"] for part in _cut(batch, self._size)]
        for place, batch in enumerate(batches, start=1):
            last = place == len(batches)
            with contextlib.nullcontext() if last else accelerator.no_sync(model):
                with self._trainer.compute_loss_context_manager():
                    loss, right = sum_tokens(model, batch)
                accelerator.backward(loss * weight)
            losses.append(loss.detach())
            rights.append(right * step["counts"])
        return sum(losses) * weight, sum(rights)

    def _may_step_down(self, step: dict[str, Any]) -> bool:
        # one process alone cannot: the others would wait for its gradients
        return self._trainer.accelerator.num_processes == 1 and not (self._checkpointing and self._rows(step) == 1)

    def _rows(self, step: dict[str, Any]) -> int:
        return self._size or max(len(batch["input_ids"]) for batch in step["batches"])

    def _step_down(self, step: dict[str, Any], problem: str) -> None:
        rows = self._rows(step)
        if rows > 1:
            self._size = -(-rows // 2)
            change = f"{self._size} rows at once instead of {rows}"
        else:
            self._checkpointing = True
            self._trainer.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
            change = "activations recomputed"
        torch.cuda.empty_cache()
        warn(f"Out of memory ({problem}). Going on from the same state with {change}; the step stays the same.")


def _cut(batch: dict[str, Any], size: int) -> list[dict[str, Any]]:
    rows = len(batch["input_ids"])
    size = size or rows
    return [
        {name: tensor[start : start + size] for name, tensor in batch.items()} for start in range(0, rows, size)
    ]  # fmt: skip


def _random_state() -> tuple[Any, Any]:
    """What dropout draws from, so that a step begun again drops the same."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(state: tuple[Any, Any]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
