"""Two models on the same rows, as base against tuned: how sure the difference is, and a sentence that says so. Pure.

Losses of few rows are skewed, so that the percentiles of a plain bootstrap are too narrow: at 15 rows they hold the
true mean of an exponential in 86 to 88 of 100 cases, where 95 are meant. Here each resample is measured in its own
standard errors (a studentised bootstrap): 92 of 100.
"""

from __future__ import annotations

import math
from typing import Any

from .evaluate import RowScores, perplexity_of

RESAMPLES = 2000
CHUNK = 100
CONFIDENCE = 0.95
# With fewer rows no interval is to be believed, or only roughly.
LEAST_ROWS = 15
MANY_ROWS = 30
# A resample may miss the only rows that differ; its own standard error would be next to nothing then.
LEAST_ERROR_SHARE = 0.2
NOT_A_NUMBER = "not a number"
# what can be measured, and where it can lie
MEASURES = {
    "base_loss": (0.0, math.inf),
    "base_token_accuracy": (0.0, 1.0),
    "tuned_loss": (0.0, math.inf),
    "tuned_token_accuracy": (0.0, 1.0),
    "loss_difference": (-math.inf, math.inf),
    "token_accuracy_difference": (-1.0, 1.0),
}

Measure = dict[str, float]


def compare(
    base: RowScores,
    tuned: RowScores,
    channel: str,
    seed: int,
    names: tuple[str, str] = ("base", "tuned"),
    chosen_by_rows: bool = False,
) -> dict[str, Any]:
    """The content of evaluation.json. Rows are resampled, since tokens of a row are not independent; and in pairs.

    `chosen_by_rows` says that the tuned model is the best of several by its loss on these same rows.
    """
    measured = _measure(base, tuned, seed)
    found = {
        "evaluated_on": channel,
        "rows": len(base.tokens),
        "tokens": sum(base.tokens),
        "verdict": _judge(len(base.tokens), measured),
        "sentence": "",
        "chosen_by_these_rows": chosen_by_rows,
        names[0]: _describe(measured, "base"),
        names[1]: _describe(measured, "tuned"),
        "difference": {name: measured[f"{name}_difference"] for name in ("loss", "token_accuracy")},
        "method": f"studentised intervals at {CONFIDENCE:.0%} of {RESAMPLES} bootstrap resamples of rows, in pairs, "
        f"seed {seed}; loss, perplexity and accuracy are over trained tokens",
    }
    return {**found, "sentence": _sentence(found, names)}


def _measure(base: RowScores, tuned: RowScores, seed: int) -> dict[str, Measure]:
    import numpy as np

    four = np.array([base.losses, base.rights, tuned.losses, tuned.rights], dtype=np.float64)
    tokens = np.array(base.tokens, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # of a loss that is not a number nothing else is one
        sums = np.concatenate([four, four[2:] - four[:2]])
        values = sums.sum(axis=1) / tokens.sum()
        lows, highs = _intervals(sums - np.outer(values, tokens), tokens, seed)
    return {
        name: {
            "value": float(value),
            "low": float(np.maximum(value - below, least)),
            "high": float(np.minimum(value + above, most)),
        }
        for (name, (least, most)), value, below, above in zip(MEASURES.items(), values, lows, highs, strict=True)
    }


def _intervals(rest: Any, tokens: Any, seed: int) -> tuple[Any, Any]:
    """How far each measure's interval reaches below and above its value; `rest` is what it leaves of each row's sum."""
    import numpy as np

    error = _standard_error((rest**2).sum(axis=1), tokens.sum(), len(tokens))
    shifts, errors = _resample(rest, tokens, seed)
    errors = np.maximum(errors, LEAST_ERROR_SHARE * error)
    # without any error all rows are alike, and so are the resamples
    shares = np.divide(shifts, errors, out=np.zeros_like(shifts), where=errors != 0)
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(shares, [outside, 1 - outside], axis=0)
    return high * error, -low * error


def _resample(rest: Any, tokens: Any, seed: int) -> tuple[Any, Any]:
    """Of each resample and measure: how far it lies from the sample, and its own standard error."""
    import numpy as np

    rows, measures = len(tokens), len(rest)
    random = np.random.default_rng(seed)
    terms = np.concatenate([rest, rest**2, rest * tokens, [tokens, tokens**2]]).T
    drawn = np.concatenate([_count_draws(random, rows) @ terms for _ in range(RESAMPLES // CHUNK)])
    sums, squares, products = (drawn[:, start : start + measures] for start in range(0, 3 * measures, measures))
    total, tokens_squared = drawn[:, -2:-1], drawn[:, -1:]
    shifts = sums / total
    return shifts, _standard_error(squares - 2 * shifts * products + shifts**2 * tokens_squared, total, rows)


def _count_draws(random: Any, rows: int) -> Any:
    """How often each row is drawn, for a chunk of resamples."""
    import numpy as np

    drawn = random.integers(rows, size=(CHUNK, rows)) + rows * np.arange(CHUNK)[:, None]
    return np.bincount(drawn.ravel(), minlength=CHUNK * rows).reshape(CHUNK, rows).astype(np.float64)


def _standard_error(squares: Any, tokens: Any, rows: int) -> Any:
    """Of a mean over tokens that come in rows."""
    import numpy as np

    return np.sqrt(np.maximum(squares, 0) * rows / max(rows - 1, 1)) / tokens


def _describe(measured: dict[str, Measure], who: str) -> dict[str, Measure]:
    loss = measured[f"{who}_loss"]
    return {
        "loss": loss,
        "perplexity": {name: perplexity_of(value) for name, value in loss.items()},
        "token_accuracy": measured[f"{who}_token_accuracy"],
    }


def _judge(rows: int, measured: dict[str, Measure]) -> str:
    if not all(math.isfinite(measured[name]["value"]) for name in ("base_loss", "tuned_loss")):
        return NOT_A_NUMBER
    if rows < LEAST_ROWS:
        return "too few rows"
    if measured["loss_difference"]["high"] < 0:
        return "better"
    return "worse" if measured["loss_difference"]["low"] > 0 else "no detectable change"


def _sentence(found: dict[str, Any], names: tuple[str, str]) -> str:
    base, tuned, difference = found[names[0]], found[names[1]], found["difference"]["loss"]
    where = f"on {found['rows']} rows of {found['evaluated_on']}"
    if found["verdict"] == NOT_A_NUMBER:
        losses = f"{names[0]} {_short(base['loss'])}, {names[1]} {_short(tuned['loss'])}"
        return f"A loss is not a number {where} ({losses}), so nothing can be said of the difference."
    doer = "Tuning" if names[1] == "tuned" else f"The {names[1]}"
    opening = {
        "better": f"{doer} lowered the loss",
        "worse": f"{doer} raised the loss",
        "no detectable change": "No detectable change of the loss",
        "too few rows": f"Too few rows to tell ({LEAST_ROWS} or more would do); the loss went",
    }[found["verdict"]]
    rough = ", with so few rows a rough guide" if found["rows"] < MANY_ROWS else ""
    flattered = (
        " These rows also chose the best checkpoint, which flatters it; a test channel would not."
        if found["chosen_by_these_rows"]
        else ""
    )
    return (
        f"{opening} from {_short(base['loss'])} to {_short(tuned['loss'])} {where} "
        f"(difference {_short(difference)}, {CONFIDENCE:.0%} interval {difference['low']:.4g} "
        f"to {difference['high']:.4g}{rough}); perplexity {_short(base['perplexity'])} to "
        f"{_short(tuned['perplexity'])}, token accuracy {base['token_accuracy']['value']:.1%} to "
        f"{tuned['token_accuracy']['value']:.1%}.{flattered}"
    )


def _short(measure: Measure) -> str:
    value = measure["value"]
    if math.isnan(value):
        return "not a number"
    return f"{value:.4g}" if math.isfinite(value) else "infinite"
