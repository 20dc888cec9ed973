"""The rows that a job trains and judges by, as text and as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .config import TrainConfig
from .data import Encoded, Row, encode, load_rows
from .failure import JobError
from .log import say, warn
from .paths import Paths

Item = TypeVar("Item", Row, Encoded)


@dataclass(frozen=True)
class Channels(Generic[Item]):
    """The same three, row by row, before and after they are encoded; all but the first may be empty."""

    train: list[Item]
    eval: list[Item]
    test: list[Item]

    @property
    def judging(self) -> tuple[str, list[Item]]:
        """The channel that the job's result is judged by, and its rows: no step has seen them."""
        return ("test", self.test) if self.test else ("eval", self.eval)


def load_channels(paths: Paths) -> Channels[Row]:
    return Channels(
        load_rows(paths.train),
        load_rows(paths.eval) if paths.eval else [],
        load_rows(paths.test) if paths.test else [],
    )


def check_eval_rows(config: TrainConfig, rows: int) -> None:
    """Settings that go by the eval loss would do nothing without rows to take it from."""
    if not rows and (config.load_best_model_at_end or config.early_stopping_patience):
        raise JobError(
            "load_best_model_at_end and early_stopping_patience go by the eval loss, and there are no eval rows. Give "
            "the job an eval channel or eval_data_path, or leave both settings out."
        )


def encode_channels(rows: Channels[Row], tokenizer: Any, config: TrainConfig) -> Channels[Encoded]:
    return Channels(
        _encode("train", rows.train, tokenizer, config),
        _encode("eval", rows.eval, tokenizer, config),
        _encode("test", rows.test, tokenizer, config),
    )


def _encode(channel: str, rows: list[Row], tokenizer: Any, config: TrainConfig) -> list[Encoded]:
    """A channel as tokens; says how much was cut."""
    encoded = [encode(row, tokenizer, config) for row in rows]
    cut = sum(row.truncated for row in encoded)
    if cut:
        endless = sum(not row.ends for row in encoded)
        warn(
            f"{cut} of {len(rows)} rows of {channel} were cut at max_length = {config.max_length}, "
            f"{endless} of them before their end token."
        )
    if encoded:
        longest = max(len(row.input_ids) for row in encoded)
        say(
            f"Tokens of {channel}: {sum(len(row.input_ids) for row in encoded):,}, the longest row {longest}, "
            f"{sum(row.trained for row in encoded):,} trained."
        )
    return encoded
