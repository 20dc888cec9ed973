"""Two models on the same rows, as base against tuned: how sure the difference is, and a sentence that says so. Pure."""

from __future__ import annotations

import math
from typing import Any

from .evaluate import RowScores

RESAMPLES = 2000
CHUNK = 100
CONFIDENCE = 0.95
# with fewer rows the intervals are too narrow to be believed at all, or only roughly
LEAST_ROWS = 5
MANY_ROWS = 30


def compare(
    base: RowScores, tuned: RowScores, channel: str, seed: int, names: tuple[str, str] = ("base", "tuned")
) -> dict[str, Any]:
    """The content of evaluation.json. Rows are resampled, since tokens of a row are not independent; and in pairs."""
    import numpy as np

    sums = np.array([base.losses, base.rights, tuned.losses, tuned.rights, base.tokens], dtype=np.float64)
    draws = _resample(sums, seed)
    value = {name: float(found[0]) for name, found in _measures(sums.sum(axis=1, keepdims=True)).items()}
    spread = {name: _interval(found) for name, found in _measures(draws).items()}

    def with_interval(name: str) -> dict[str, float]:
        return {"value": value[name], "low": spread[name][0], "high": spread[name][1]}

    verdict = _judge(len(base.tokens), spread["loss_difference"])
    found = {
        "evaluated_on": channel,
        "rows": len(base.tokens),
        "tokens": sum(base.tokens),
        "verdict": verdict,
        "sentence": "",
        **{
            name: {what: with_interval(f"{who}_{what}") for what in ("loss", "perplexity", "token_accuracy")}
            for name, who in zip(names, ("base", "tuned"), strict=True)
        },
        "difference": {name: with_interval(f"{name}_difference") for name in ("loss", "token_accuracy")},
        "method": f"percentile intervals at {CONFIDENCE:.0%} of {RESAMPLES} bootstrap resamples of rows, in pairs, "
        f"seed {seed}; loss, perplexity and accuracy are over trained tokens",
    }
    return {**found, "sentence": _sentence(found, names)}


def _resample(sums: Any, seed: int) -> Any:
    """Each column the sums over as many rows as there are, drawn with replacement."""
    import numpy as np

    rows = sums.shape[1]
    random = np.random.default_rng(seed)
    chunks = [random.multinomial(rows, [1 / rows] * rows, size=CHUNK) for _ in range(RESAMPLES // CHUNK)]
    return np.concatenate([sums @ counts.T for counts in chunks], axis=1)


def _measures(sums: Any) -> dict[str, Any]:
    import numpy as np

    base_loss, base_right, tuned_loss, tuned_right = sums[:4] / sums[4]
    return {
        "base_loss": base_loss,
        "base_perplexity": np.exp(np.minimum(base_loss, 700)),
        "base_token_accuracy": base_right,
        "tuned_loss": tuned_loss,
        "tuned_perplexity": np.exp(np.minimum(tuned_loss, 700)),
        "tuned_token_accuracy": tuned_right,
        "loss_difference": tuned_loss - base_loss,
        "token_accuracy_difference": tuned_right - base_right,
    }


def _interval(found: Any) -> tuple[float, float]:
    import numpy as np

    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [outside, 1 - outside])
    return float(low), float(high)


def _judge(rows: int, interval: tuple[float, float]) -> str:
    low, high = interval
    if rows < LEAST_ROWS:
        return "too few rows"
    if high < 0:
        return "better"
    return "worse" if low > 0 else "no detectable change"


def _sentence(found: dict[str, Any], names: tuple[str, str]) -> str:
    base, tuned, difference = found[names[0]], found[names[1]], found["difference"]["loss"]
    doer = "Tuning" if names[1] == "tuned" else f"The {names[1]}"
    opening = {
        "better": f"{doer} lowered the loss",
        "worse": f"{doer} raised the loss",
        "no detectable change": "No detectable change of the loss",
        "too few rows": "Too few rows to tell; the loss went",
    }[found["verdict"]]
    rough = ", with so few rows a rough guide" if LEAST_ROWS <= found["rows"] < MANY_ROWS else ""
    return (
        f"{opening} from {_short(base['loss'])} to {_short(tuned['loss'])} on {found['rows']} rows of "
        f"{found['evaluated_on']} (difference {_short(difference)}, {CONFIDENCE:.0%} interval {difference['low']:.4g} "
        f"to {difference['high']:.4g}{rough}); perplexity {_short(base['perplexity'])} to "
        f"{_short(tuned['perplexity'])}, token accuracy {base['token_accuracy']['value']:.1%} to "
        f"{tuned['token_accuracy']['value']:.1%}."
    )


def _short(measure: dict[str, float]) -> str:
    value = measure["value"]
    return f"{value:.4g}" if math.isfinite(value) else "infinite"
