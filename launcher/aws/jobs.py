"""Training jobs as AWS describes them, and the one table from its states to ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from launcher.aws.errors import explained
from launcher.aws.session import Session


def describe_job(session: Session, name: str) -> dict[str, Any]:
    with explained(f"asking for job {name}"):
        answer: dict[str, Any] = session.client("sagemaker").describe_training_job(TrainingJobName=name)
    answer.pop("ResponseMetadata", None)
    return answer


def create_job(session: Session, request: dict[str, Any]) -> None:
    """Send a request as it stands; what a plan makes goes through the estimator instead."""
    with explained(f"starting job {request['TrainingJobName']}"):
        session.client("sagemaker").create_training_job(**request)


def stop_job(session: Session, name: str) -> None:
    with explained(f"stopping job {name}"):
        session.client("sagemaker").stop_training_job(TrainingJobName=name)


def iter_jobs(session: Session, contains: str = "", page_size: int = 100) -> Iterator[dict[str, Any]]:
    """Summaries, newest first."""
    words: dict[str, Any] = {"SortBy": "CreationTime", "SortOrder": "Descending"}
    if contains:
        words["NameContains"] = contains
    with explained("listing training jobs"):
        pages = session.client("sagemaker").get_paginator("list_training_jobs")
        for page in pages.paginate(**words, PaginationConfig={"PageSize": page_size}):
            yield from page["TrainingJobSummaries"]
