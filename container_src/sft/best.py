"""The adapter with the lowest eval loss so far, kept in memory and in every checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILE = "best_adapter.safetensors"


class Best:
    """Lies inside the checkpoints, so that it is as whole as they are and never of a later step than its own."""

    def __init__(self) -> None:
        self.step = 0
        self.loss = float("inf")
        self._weights: dict[str, Any] = {}

    def offer(self, step: int, loss: float, model: Any) -> None:
        if loss < self.loss:
            self.step, self.loss, self._weights = step, loss, _copy_weights(model)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        if self.step:
            notes = {"step": str(self.step), "eval_loss": repr(self.loss)}
            save_file(self._weights, folder / FILE, metadata=notes)

    def load(self, folder: Path) -> None:
        from safetensors import safe_open

        if not (folder / FILE).is_file():
            return
        with safe_open(folder / FILE, framework="pt") as file:
            notes = file.metadata()
            self.step, self.loss = int(notes["step"]), float(notes["eval_loss"])
            self._weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict

    def restore(self, model: Any) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, self._weights)


def _copy_weights(model: Any) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
