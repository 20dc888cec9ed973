"""What a job left beside its checkpoints about its own end: AWS knows only that the process ended well."""

from __future__ import annotations

from launcher.aws import jobs
from launcher.aws.session import Session

BY_ITSELF = "stopped by itself"


def find_early_stop(session: Session, job: str, checkpoints: str) -> str:
    """How a job that AWS calls Completed stopped before its last step, in a sentence; empty where it did not."""
    note = jobs.find_note(session, checkpoints, "outcome.json") or {}
    last = note.get("job") or job
    if last != job:
        # a job goes on from another's checkpoints only where that one had not come to its end
        return f"{BY_ITSELF} before its last step; {last} went on"
    if note.get("outcome") != "stopped":
        return ""
    steps = f"{note['steps']:,}" + (f" of {note['steps_total']:,}" if "steps_total" in note else "")
    why = f": {note['reason']}" if note.get("reason") else ""
    return f"{BY_ITSELF} after {steps} steps{why}"


def find_verdict(session: Session, checkpoints: str) -> str:
    """What came of a scheduled job, in a sentence; empty for one that left no word."""
    if verdict := jobs.find_note(session, checkpoints, "verdict.json"):
        why = "; ".join(verdict["reasons"]) or verdict["sentence"]
        return f"{verdict['decision']}: {why}"
    note = jobs.find_note(session, checkpoints, "outcome.json") or {}
    return f"{note['outcome']}: {note['reason']}" if note.get("outcome") == "unchanged" else ""
