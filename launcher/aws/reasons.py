"""Why a job ended, in AWS's words, and what to do about it: one table from FailureReason and status to a fix."""

from __future__ import annotations

import re
from dataclasses import dataclass

OWN_ADVICE = "the local runner"  # reasons of the endpoint on this machine end with advice of their own


@dataclass(frozen=True)
class Reason:
    """`text` is a pattern of the FailureReason; the first match in the table wins."""

    text: str
    fix: str


REASONS = (
    Reason(
        r"^CapacityError",
        "AWS has none of this instance type at the moment, and nothing was billed. Submit again with several types "
        "(--instance ml.g5.xlarge,ml.g6.xlarge), in another region, or later; the run goes on where it was.",
    ),
    Reason(OWN_ADVICE, ""),
    Reason(
        r"^InternalServerError",
        "AWS's side failed, not yours. Submit again: the run goes on from its last checkpoint.",
    ),
    Reason(
        r"[Ee]xit ?[Cc]ode:? ?\"?137",
        "Exit code 137: the machine's own memory (not the GPU's) ran out. Take an instance with more memory, or halve "
        "per_device_train_batch_size and double gradient_accumulation_steps; the run goes on from its last checkpoint.",
    ),
    Reason(
        r"^ClientError: .*(No S3 objects found|Data download failed|404|NoSuchKey)",
        "A channel could not be read: its objects must be there, in the job's region, and the role needs s3:GetObject "
        "and s3:ListBucket on them.",
    ),
    Reason(
        r"^ClientError: .*([Uu]pload|AccessDenied|Access [Dd]enied|403)",
        "The job's role was refused: it needs to read the channels and the image, and to write the output.",
    ),
    Reason(r"^ClientError", "SageMaker could not prepare the job as asked; the reason above is its own."),
    Reason(r"^AlgorithmError", "The training itself failed; its sentence above and the log say where."),
)
STOPS = {
    "MaxWaitTimeExceeded": "No spot capacity came within compute.max_wait. Submit again with a longer one or without "
    "--spot, or set compute.on_demand_after_wait = true; the run goes on where it was.",
    "MaxRuntimeExceeded": "compute.max_runtime was reached. Submit again with a longer one: the run goes on from its "
    "last checkpoint.",
}
# Where the recipe has said already what comes after a spot job without capacity, and nobody has followed it there.
ON_DEMAND = (
    "No spot capacity came within compute.max_wait. `launcher wait {job}` starts it on demand, as its recipe says."
)


def find_fix(reason: str, secondary_status: str = "") -> str:
    """What to do about how a job ended; empty where AWS's words are all that is known."""
    if secondary_status in STOPS:
        return STOPS[secondary_status]
    return next((row.fix for row in REASONS if reason and re.search(row.text, reason)), "")


def is_capacity_error(reason: str) -> bool:
    return reason.startswith("CapacityError")
