"""Encoded rows -> the batches of an optimizer step."""

from __future__ import annotations

from typing import Any

from .data import IGNORED, Encoded
from .steps import share_of, split


def pad_rows(rows: list[Encoded], pad_id: int, length: int = 0) -> dict[str, list[list[int]]]:
    """Rows of equal length. Padding is told by its place and never by its id, so the end token may also pad."""
    width = max(length, *(len(row.input_ids) for row in rows))
    padded: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        missing = width - len(row.input_ids)
        padded["input_ids"].append(row.input_ids + [pad_id] * missing)
        padded["attention_mask"].append([1] * len(row.input_ids) + [0] * missing)
        padded["labels"].append(row.labels + [IGNORED] * missing)
    return padded


class Padding:
    """How this job pads: with which id, and to which length (0: the batch's longest row)."""

    def __init__(self, pad_id: int, length: int) -> None:
        self._pad_id = pad_id
        self._length = length

    def batch(self, rows: list[Encoded]) -> dict[str, Any]:
        import torch

        return {name: torch.tensor(values) for name, values in pad_rows(rows, self._pad_id, self._length).items()}


class StepDataset:
    """The job's optimizer steps in order: item N is everything that this process sees in step N + 1."""

    def __init__(
        self,
        rows: list[Encoded],
        steps: list[list[int]],
        size: int,
        padding: Padding,
        process: int,
        processes: int,
        whole: bool = False,
    ):
        self._rows = rows
        self._steps = steps
        self._size = size
        self._padding = padding
        self._process = process
        self._processes = processes
        # a fast step packs its rows itself, and pads none
        self._whole = whole

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> dict[str, Any]:
        step = self._steps[number]
        share = share_of(step, self._process, self._processes)
        # every process must take part in the gradients' sum: one without rows adds a row with no weight
        encoded = [self._rows[index] for index in share or [step[0]]]
        return {
            "batches": [] if self._whole else self.pad(encoded),
            "encoded": encoded,
            "counts": bool(share),
            # the whole step's trained tokens, known to every process without asking the others
            "trained": sum(self._rows[index].trained for index in step),
            "tokens": sum(len(self._rows[index].input_ids) for index in step),
            "rows": len(step),
        }

    def pad(self, rows: list[Encoded]) -> list[dict[str, Any]]:
        """Rows as padded batches of the recipe's size."""
        return [self._padding.batch([rows[place] for place in group]) for group in split(range(len(rows)), self._size)]
