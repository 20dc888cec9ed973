"""From phrases to sentences, and which texts are too alike to keep both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Shingles = frozenset[tuple[str, ...]]

MIN_WORDS, MAX_WORDS = 15, 120
# Rows from one set of phrases always share some; past a half, two of them read as the same row.
MAX_LIKENESS = 0.35
GIVE_UP_AFTER = 60


def sentence(phrase: str) -> str:
    """Capital first letter, full stop last."""
    text = phrase[0].upper() + phrase[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def paragraph(*phrases: str) -> str:
    return " ".join(sentence(phrase) for phrase in phrases if phrase)


def listed(phrases: Sequence[str], word: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"; a phrase with an "and" of its own brings a comma before the last."""
    if len(phrases) == 1:
        return phrases[0]
    comma = "," if any(f" {word} " in phrase for phrase in phrases) else ""
    return f"{', '.join(phrases[:-1])}{comma} {word} {phrases[-1]}"


def conditions(clauses: Sequence[str]) -> str:
    """["a", "b"] -> "if a or if b"."""
    return listed([f"if {clause}" for clause in clauses], "or")


def shingles(text: str) -> Shingles:
    """Every run of three words."""
    words = text.lower().split()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def likeness(one: Shingles, other: Shingles) -> float:
    """The share of three-word runs that two texts have in common (Jaccard)."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def fits(text: str) -> bool:
    return MIN_WORDS <= len(text.split()) <= MAX_WORDS


def take_distinct(make: Callable[[int], str], count: int, *, answer_mark: str, beside: Sequence[str] = ()) -> list[str]:
    """Call make(0), make(1), ... until `count` texts fit, ask different questions and are unlike all others.

    The question is what stands before `answer_mark`; `beside` are texts kept elsewhere.
    """
    kept: list[str] = []
    seen = [shingles(text) for text in beside]
    asked = {text.split(answer_mark)[0] for text in beside}
    for turn in range(count * GIVE_UP_AFTER):
        text = make(turn)
        marks, question = shingles(text), text.split(answer_mark)[0]
        if fits(text) and question not in asked and is_unlike(marks, seen):
            kept.append(text)
            seen.append(marks)
            asked.add(question)
        if len(kept) == count:
            return kept
    raise ValueError(f"only {len(kept)} of {count} rows are different enough: add phrases to the word lists")


def is_unlike(marks: Shingles, seen: Iterable[Shingles]) -> bool:
    return all(likeness(marks, other) < MAX_LIKENESS for other in seen)
