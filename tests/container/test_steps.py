"""What a step is made of, how it is padded, and what happens after it."""

from __future__ import annotations

from typing import Any

import pytest

from container_src.sft.batches import Padding, StepDataset, pad_rows
from container_src.sft.config import TrainConfig
from container_src.sft.data import IGNORED, Encoded
from container_src.sft.steps import make_schedule, make_steps, share_of

END = 9


def _encoded(*ids: int) -> Encoded:
    return Encoded([*ids, END], [IGNORED, *ids[1:], END], truncated=False, ends=True)


def test_every_epoch_sees_every_row_once_in_another_order() -> None:
    steps = make_steps(rows=10, rows_per_step=4, total=6, seed=1)
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    first, second = sum(steps[:3], []), sum(steps[3:], [])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_order_hangs_on_the_seed_alone() -> None:
    assert make_steps(10, 4, 6, seed=1) == make_steps(10, 4, 9, seed=1)[:6]
    assert make_steps(10, 4, 6, seed=1) != make_steps(10, 4, 6, seed=2)


def test_processes_share_a_step_without_overlap() -> None:
    shares = [share_of([5, 3, 8], process, 2) for process in range(2)]
    assert sorted(sum(shares, [])) == [3, 5, 8]


@pytest.mark.parametrize(
    ("settings", "processes", "total", "per_epoch"),
    [
        ({}, 1, 25, 25),
        ({"num_train_epochs": 2.5}, 1, 63, 25),
        ({"max_steps": 200}, 1, 200, 25),
        ({}, 2, 13, 13),
    ],
)
def test_length_of_a_job(settings: dict[str, Any], processes: int, total: int, per_epoch: int) -> None:
    schedule = make_schedule(TrainConfig(**settings), rows=200, processes=processes)
    assert (schedule.total, schedule.per_epoch) == (total, per_epoch)


def test_what_happens_after_which_step() -> None:
    config = TrainConfig(max_steps=7, logging_steps=3, eval_steps=4, save_steps=5)
    schedule = make_schedule(config, rows=200, processes=1)
    steps = range(1, 8)
    assert [step for step in steps if schedule.logs_after(step)] == [1, 3, 6, 7]
    assert [step for step in steps if schedule.evaluates_after(step)] == [4, 7]
    assert [step for step in steps if schedule.saves_after(step)] == [5, 7]


def test_saving_and_evaluating_by_epoch() -> None:
    config = TrainConfig(num_train_epochs=2.5, eval_strategy="epoch", save_strategy="epoch")
    schedule = make_schedule(config, rows=40, processes=1)
    saved = [step for step in range(1, schedule.total + 1) if schedule.saves_after(step)]
    assert saved == [step for step in range(1, schedule.total + 1) if schedule.evaluates_after(step)]
    assert saved == [5, 10, 13]


def test_warm_up_by_share_or_by_steps() -> None:
    assert make_schedule(TrainConfig(max_steps=100, warmup_ratio=0.03), 10, 1).warmup_steps == 3
    assert make_schedule(TrainConfig(max_steps=100, warmup_ratio=0.03, warmup_steps=20), 10, 1).warmup_steps == 20


def test_padding_is_masked_by_place_so_that_the_end_token_may_pad() -> None:
    padded = pad_rows([_encoded(1, 2, 3), _encoded(4)], pad_id=END)
    assert padded["input_ids"] == [[1, 2, 3, END], [4, END, END, END]]
    assert padded["attention_mask"] == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert padded["labels"] == [[IGNORED, 2, 3, END], [IGNORED, END, IGNORED, IGNORED]]


def test_padding_to_a_fixed_length() -> None:
    assert {len(row) for row in pad_rows([_encoded(1, 2)], pad_id=0, length=8)["input_ids"]} == {8}


def test_a_step_is_split_into_micro_batches_and_knows_its_tokens() -> None:
    rows = [_encoded(*range(1, length + 1)) for length in (1, 2, 3)]
    item = StepDataset(rows, [[2, 0, 1]], 2, Padding(0, 0), process=0, processes=1)[0]
    assert [batch["input_ids"].shape for batch in item["batches"]] == [(2, 4), (1, 3)]
    assert (item["rows"], item["tokens"], item["trained"]) == (3, 9, 6)


def test_a_process_without_rows_takes_part_without_weight() -> None:
    item = StepDataset([_encoded(1)], [[0]], 2, Padding(0, 0), process=1, processes=2)[0]
    assert len(item["batches"]) == 1
    assert not item["counts"]
    assert item["trained"] == 1
