"""Seeded choices that are the same on every Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """All is built on Random.random(), the one method promised to stay the same between versions."""

    def __init__(self, seed: int) -> None:
        self._roll = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self._roll() * limit)

    def between(self, low: int, high: int) -> int:
        """Both ends can come up."""
        return low + self.below(high - low + 1)

    def chance(self, share: float) -> bool:
        return self._roll() < share

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def draw(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return `count` different items in random order, or all of them where there are fewer."""
        return self.shuffled(items)[:count]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(len(left))]
