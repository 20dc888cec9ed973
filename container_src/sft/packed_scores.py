"""Evaluations by the fast step's own forward pass: rows end to end, and few logits at a time.

Of the model as it is, with the adapter in use or with none. Nothing is kept from one evaluation to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch  # noqa: TID253

from . import reference
from .agreement import describe_refusal, find_difference, load_ops, score_packed
from .attention import BlockAttention, FlashAttention
from .data import Encoded
from .decoder import Decoder, find_obstacle_to_scores
from .evaluate import AbandonedError, RowScores
from .fast_conditions import NoFastStep
from .gpu_room import free_bytes, shape_of
from .memory_plan import ROOM, SCORED_TOKENS, choose_scored_tokens, whole_tiles
from .out_of_memory import is_out_of_memory, shorten
from .packing import split_by_tokens

# a CPU's attention looks at every pair of a packed row's tokens
TOKENS_ON_CPU = 512


class PackedScores:
    """Scores rows where the job's steps take the fast way; `give_way` frees what they hold, if they hold anything."""

    def __init__(self, model: Any, dtype: Any, give_way: Callable[[], bool], should_stop: Callable[[], bool]) -> None:
        self._model = model
        self._dtype = dtype
        self._give_way = give_way
        self._should_stop = should_stop
        self._cuda = torch.cuda.is_available()
        # tokens of a packed row: at most, and those of the last evaluation
        self._most = SCORED_TOKENS if self._cuda else TOKENS_ON_CPU
        self._tokens = self._most

    def score(self, rows: list[Encoded]) -> RowScores:
        """Raises NoFastStep where the plain path must do it, AbandonedError when the job is asked to stop meanwhile."""
        longest = whole_tiles(max(len(row.input_ids) for row in rows))
        while True:
            try:
                return self._score(rows, longest)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                problem = shorten(error)
            if self._tokens > longest:
                self._most = self._tokens // 2
            elif not self._give_way():
                raise NoFastStep(f"out of memory ({problem})")
            torch.cuda.empty_cache()  # here: the exception held what is given back

    def _score(self, rows: list[Encoded], longest: int) -> RowScores:
        room = int(ROOM * free_bytes()) if self._cuda else None
        self._tokens = choose_scored_tokens(shape_of(self._model), self._most, longest, room)
        # by length: what is out of memory is so at once, and the sums do not hang on the order
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids), reverse=True)
        first, *others = split_by_tokens([rows[number] for number in order], self._tokens)
        decoder, scores = self._begin(first, longest)
        sums = [scores]
        for group in others:
            if self._should_stop():
                raise AbandonedError
            sums.append(score_packed(decoder, group, longest))
        found = torch.empty(len(rows), 2, dtype=torch.float64)
        found[order] = torch.cat(sums).cpu()
        losses, rights = found.T.tolist()
        return RowScores(losses, rights, [row.trained for row in rows], packed=True)

    def _begin(self, rows: list[Encoded], longest: int) -> tuple[Decoder, Any]:
        """With the first packed row's scores, whose kernels may be others than those of what is checked."""
        if self._should_stop():
            raise AbandonedError
        if reason := find_obstacle_to_scores(self._model):
            raise NoFastStep(reason)
        ops = load_ops() if self._cuda else reference
        scale = shape_of(self._model).head ** -0.5
        attention = FlashAttention(scale, longest) if self._cuda else BlockAttention(scale)
        try:
            decoder = Decoder(self._model, attention, ops, self._dtype, longest, resident=False, trains=False)
            problem = find_difference(self._model, decoder, rows, longest, self._dtype)
            scores = None if problem else score_packed(decoder, rows, longest)
        except ops.REFUSALS as error:
            if is_out_of_memory(error):
                raise
            raise NoFastStep(describe_refusal(error)) from error
        if problem:
            raise NoFastStep(problem)
        return decoder, scores
