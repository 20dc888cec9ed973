"""Evaluations, packed where steps are, else in as much memory as there is: with fewer rows at once, if need be."""

from __future__ import annotations

from collections.abc import Callable

import torch  # noqa: TID253

from .data import Encoded
from .evaluate import RowScores
from .failure import JobError
from .fast_conditions import NoFastStep
from .log import warn
from .out_of_memory import is_out_of_memory, shorten

# what scores rows packed, and raises NoFastStep where it cannot
Packed = Callable[[list[Encoded]], RowScores]


class Scoring:
    """Runs a job's evaluations; `give_way` frees what the fast step holds, and says whether it held anything."""

    def __init__(self, size: int, processes: int, give_way: Callable[[], bool]) -> None:
        self._size = size
        self._processes = processes
        self._give_way = give_way
        self._packs = True

    def run(self, score: Callable[[int], RowScores], rows: list[Encoded], packed: Packed | None = None) -> RowScores:
        """`score`, the plain path, is asked anew, with fewer rows at once, until the memory is enough."""
        if packed is not None and self._packs:
            try:
                return packed(rows)
            except NoFastStep as why:
                # for good, so that what is scored again is scored as the other was
                self._packs = False
                warn(f"No packed evaluation: {why}. This one and those to come are made by the plain path.")
        while True:
            at_once = min(self._size, len(rows))
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
