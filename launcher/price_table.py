"""List prices of training instances in us-east-1, for when the Price List API is out of reach."""

from __future__ import annotations

from dataclasses import dataclass

REGION = "us-east-1"
SEEN = "August 2026"
UNDATED = "an undated table"

# Instance -> dollars an hour on demand, and when it was seen.
USD_PER_HOUR = {
    "ml.g5.xlarge": (1.408, SEEN),
    "ml.g5.2xlarge": (1.515, SEEN),
    "ml.g5.12xlarge": (7.09, SEEN),
    "ml.g6e.xlarge": (2.61, SEEN),
    "ml.g6.xlarge": (1.127, UNDATED),
    "ml.p4d.24xlarge": (25.25, UNDATED),
    "ml.p5.48xlarge": (63.30, UNDATED),
}


@dataclass(frozen=True)
class Price:
    """Dollars for an hour of one instance on demand, and where that is from."""

    usd_per_hour: float
    source: str
    is_elsewhere: bool = False  # another region's price: near enough to show, and no ground for a promise
