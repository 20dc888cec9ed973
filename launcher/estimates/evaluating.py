"""What an evaluation does not leave room for on a GPU, in words and in seconds. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from container_src.sft.memory_plan import OVERHEAD
from launcher.estimates.memory_model import GIB, SPREAD, Scored
from launcher.estimates.time_model import Duration

# To lay the base out and capture the graphs again after an evaluation that took their memory. The slow end is a job's
# first step (4 to 16 s on an H200), which also compiles the kernels; the fast end is assumed.
BEGIN_S = (2.0, 16.0)


@dataclass(frozen=True)
class Held:
    """GiB that a fast step holds of a GPU, surely and at most, also while an evaluation runs."""

    surely: float
    most: float

    def leaves_room(self, scored: Scored, usable: float) -> bool:
        """For evaluations, however long their rows are."""
        return self.most + scored.most_added + OVERHEAD / GIB <= usable

    def never_leaves_room(self, scored: Scored, usable: float) -> bool:
        return self.surely + scored.surely_added > usable


def find_new_beginning(held: Held, scored: Scored, usable: float) -> Duration:
    """What an evaluation costs the step after it."""
    always, never = held.never_leaves_room(scored, usable), held.leaves_room(scored, usable)
    return Duration(BEGIN_S[0] if always else 0.0, 0.0 if never else BEGIN_S[1])


def explain(scored: Scored, base: float, usable: float, held: Held | None) -> str:
    """What gives way, or does not fit at all, and what to set."""
    clauses = []
    if held and not held.leaves_room(scored, usable):
        when = "at every evaluation" if held.never_leaves_room(scored, usable) else "where evaluated rows are long"
        clauses.append(f"the fast step gives its memory back {when}")
    room = base + (usable - base) / (1 + SPREAD) - scored.fixed
    # below 0, the base alone is too much; packed rows have few logits at a time
    if scored.rows and 0 < room < scored.most_added:
        clauses.append(f"an evaluation's logits alone take {scored.most_added:.1f} GiB")
        if (rows := max(1, scored.fitting_rows(room))) < scored.rows:
            logits = scored.most_added * rows / scored.rows
            clauses[-1] += f", {logits:.1f} with per_device_eval_batch_size = {rows}"
    return "; ".join(clauses)
