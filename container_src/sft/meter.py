"""Loss, accuracy and speed between two metric lines, and how many tokens the run has seen."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .steps import Schedule


class Meter:
    """What happened since the last metric line, kept on the device so that no step waits for the host."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.tokens = 0
        self.trained_tokens = 0
        self._reset()

    def _reset(self) -> None:
        self._since = time.monotonic()
        self._idle_s = 0.0
        self._losses: list[Any] = []
        self._rights: list[Any] = []
        self._steps = self._rows = self._tokens = self._trained = 0

    def add(self, step: Mapping[str, Any], loss: Any, right: Any) -> None:
        self._losses.append(loss)
        self._rights.append(right)
        self._steps += 1
        self._rows += step["rows"]
        self._tokens += step["tokens"]
        self._trained += step["trained"]
        self.tokens += step["tokens"]
        self.trained_tokens += step["trained"]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Evaluating and saving do not count as slow steps."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._idle_s += time.monotonic() - started

    def take(self, done: int, accelerator: Any) -> dict[str, float]:
        """The numbers of one metric line, over the steps since the last one and over all processes."""
        sums = accelerator.reduce(self._sum(accelerator), reduction="sum").tolist()
        seconds = max(self._seconds(), 1e-9)
        speed = self._steps / seconds
        values = {
            "loss": sums[0] / self._steps,
            "mean_token_accuracy": sums[1] / self._trained,
            "tokens_per_second": self._tokens / seconds,
            "samples_per_second": self._rows / seconds,
            "steps_per_second": speed,
            "eta_s": round((self._schedule.total - done) / speed),
        }
        self._reset()
        return values

    def _sum(self, accelerator: Any) -> Any:
        """This process's share, in the order of the steps: a resume that adds on to it changes no bit."""
        import torch

        zero = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        # in double precision one by one, as the sum in a checkpoint is
        return torch.stack([sum((part.double() for part in parts), zero) for parts in (self._losses, self._rights)])

    def _seconds(self) -> float:
        return time.monotonic() - self._since - self._idle_s

    def save(self, accelerator: Any) -> dict[str, Any]:
        """For a checkpoint: the run's tokens, and the steps that no metric line holds yet. Asked of all processes."""
        sums = accelerator.gather(self._sum(accelerator)).view(-1, 2).tolist()
        return {
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "since_line": {
                "sums": sums,  # of each process
                "steps": self._steps,
                "rows": self._rows,
                "tokens": self._tokens,
                "trained": self._trained,
                "seconds": self._seconds(),
            },
        }

    def load(self, saved: Mapping[str, Any], accelerator: Any) -> None:
        import torch

        self.tokens, self.trained_tokens = saved["tokens"], saved["trained_tokens"]
        line = saved["since_line"]
        # as many processes as then take their own; fewer take what is left too
        for loss, right in line["sums"][accelerator.process_index :: accelerator.num_processes]:
            self._losses.append(torch.tensor(loss, dtype=torch.float64, device=accelerator.device))
            self._rights.append(torch.tensor(right, dtype=torch.float64, device=accelerator.device))
        self._steps, self._rows = line["steps"], line["rows"]
        self._tokens, self._trained = line["tokens"], line["trained"]
        self._since = time.monotonic() - line["seconds"]
