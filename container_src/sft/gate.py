"""Whether a challenger may take the champion's place: base, champion and challenger on the same rows. Pure."""

from __future__ import annotations

from typing import Any

from .comparison import NOT_A_NUMBER, compare
from .evaluate import RowScores


def weigh(
    base: RowScores,
    champion: RowScores | None,
    challenger: RowScores,
    channel: str,
    seed: int,
    guards: list[str],
    chosen_by_rows: bool = False,
) -> dict[str, Any]:
    """The gate's verdict. Without a champion the base is what has to be beaten."""
    against_base = compare(base, challenger, channel, seed, chosen_by_rows=chosen_by_rows)
    against_champion = (
        compare(champion, challenger, channel, seed, ("champion", "challenger"), chosen_by_rows) if champion else None
    )
    deciding = against_champion or against_base
    reasons = [] if deciding["verdict"] == "better" else [deciding["sentence"]]
    reasons += _find_losses(against_base, against_champion, guards)
    return {
        "better": not reasons,
        "against": "champion" if against_champion else "base",
        "reasons": reasons,
        "sentence": deciding["sentence"],
        "guards": guards,
        "base": against_base,
        **({"champion": against_champion} if against_champion else {}),
    }


def _find_losses(base: dict[str, Any], champion: dict[str, Any] | None, guards: list[str]) -> list[str]:
    """The guarded measures that got worse, each beyond its interval."""
    accuracy, loss = (champion or base)["difference"]["token_accuracy"], base["difference"]["loss"]
    found = []
    if "token_accuracy" in guards and accuracy["high"] < 0:
        interval = f"{accuracy['low']:.1%} to {accuracy['high']:.1%}"
        found.append(f"Guarded: token accuracy fell by {-accuracy['value']:.1%} ({interval}).")
    if "base_loss" in guards and champion and loss["low"] > 0:
        found.append(f"Guarded: the loss is {loss['value']:.4g} above the base's.")
    if "base_loss" in guards and champion and base["verdict"] == NOT_A_NUMBER:
        found.append(f"Guarded: {base['sentence']}")
    return found
