"""Evaluations in as much memory as there is: without what a fast step holds, then with fewer rows at once."""

from __future__ import annotations

from collections.abc import Callable

import torch  # noqa: TID253

from .evaluate import RowScores
from .failure import JobError
from .log import warn
from .out_of_memory import is_out_of_memory, shorten


class Scoring:
    """Runs a job's evaluations; `give_way` frees what the fast step holds, and says whether it held anything."""

    def __init__(self, size: int, processes: int, give_way: Callable[[], bool]) -> None:
        self._size = size
        self._processes = processes
        self._give_way = give_way

    def run(self, score: Callable[[int], RowScores], rows: int) -> RowScores:
        """`score` is asked anew, with fewer rows at once, until the memory is enough."""
        while True:
            at_once = min(self._size, rows)
            try:
                return score(at_once)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not self._give_way():
                    self._halve(at_once, error)
            torch.cuda.empty_cache()  # here: the exception held what is given back

    def _halve(self, at_once: int, error: Exception) -> None:
        # one process alone cannot: the others would wait for its rounds
        if self._processes > 1 or at_once == 1:
            raise JobError(_explain(at_once, error)) from error
        self._size = -(-at_once // 2)
        warn(
            f"Out of memory in the evaluation ({shorten(error)}). It begins anew with {self._size} rows at once "
            f"instead of {at_once}; per_device_eval_batch_size = {self._size} has it so from the start."
        )


def _explain(at_once: int, error: Exception) -> str:
    less = "Lower per_device_eval_batch_size" if at_once > 1 else "Lower max_length"
    return (
        f"Out of memory in an evaluation, with rows taken {at_once} at once. {less}, or take an instance with "
        f"more memory. ({shorten(error)})"
    )
