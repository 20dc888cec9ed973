"""Tells EventBridge's rules when a training job has ended: the event `SageMaker Training Job State Change`.

moto keeps the rules and matches their patterns, but hands nothing to SNS, so that is done here, for topics and queues.
"""

from __future__ import annotations

import json
import logging
import uuid
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

from launcher.local.jobs import Document, JobBook, UnknownJob
from launcher.local.json_protocol import ApiError
from launcher.local.moto_parts import MotoParts
from launcher.local.schedule_loop import format_time
from launcher.local.settings import Settings

log = logging.getLogger(__name__)

LAST_WORDS_S = 5.0
DETAIL_TYPE = "SageMaker Training Job State Change"
TIMES = ("CreationTime", "TrainingStartTime", "TrainingEndTime", "LastModifiedTime", "StartTime", "EndTime")


class StateChanges:
    """A thread of its own, from the first job that a rule could be about: a subscriber may take its time."""

    def __init__(self, jobs: JobBook, moto: MotoParts, settings: Settings) -> None:
        self._jobs = jobs
        self._moto = moto
        self._settings = settings
        self._ended: SimpleQueue[str | None] = SimpleQueue()
        self._thread: Thread | None = None

    def announce(self, job: str) -> None:
        """The job has ended."""
        if not self._moto.list_rules():
            return
        if self._thread is None:
            self._thread = Thread(target=self._run, name="state changes", daemon=True)
            self._thread.start()
        self._ended.put(job)

    def close(self) -> None:
        """Tell what is still to be told."""
        if self._thread:
            self._ended.put(None)
            self._thread.join(LAST_WORDS_S)

    def _run(self) -> None:
        while (job := self._ended.get()) is not None:
            with suppress(UnknownJob):  # deleted since
                self._tell(make_event(self._jobs.get(job), self._jobs.tags(job), self._settings))

    def _tell(self, event: Document) -> None:
        for rule in self._moto.list_rules():
            if rule.event_pattern.matches_event(event):
                for target in list(rule.targets):
                    self._send(target, event)

    def _send(self, target: dict[str, Any], event: Document) -> None:
        arn = target["Arn"]
        try:
            if ":sns:" in arn:
                self._moto.publish(arn, make_message(target, event))
            elif ":sqs:" in arn:
                self._moto.send_message(arn.rpartition(":")[2], make_message(target, event))
            else:
                log.warning("a rule's target %s is neither a topic nor a queue; it was told nothing", arn)
        except (
            ApiError,
            OSError,
            ValueError,
            NotImplementedError,
        ):  # refused, out of reach, a template that is no JSON
            log.exception("%s was not told about %s", arn, event["detail"]["TrainingJobName"])


def make_event(job: Document, tags: dict[str, str], settings: Settings) -> Document:
    """As EventBridge shows it to rules: the description of the job, with times in milliseconds."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": DETAIL_TYPE,
        "source": "aws.sagemaker",
        "account": settings.account,
        "time": format_time(job["LastModifiedTime"]),
        "region": settings.region,
        "resources": [job["TrainingJobArn"]],
        "detail": _in_milliseconds(job) | {"Tags": tags},
    }


def make_message(target: dict[str, Any], event: Document) -> str:
    """What a target gets: a constant, the words of its template, or the event."""
    if "Input" in target:
        return str(target["Input"])
    transformer = target.get("InputTransformer")
    if not transformer:
        return json.dumps(event)
    from moto.events.utils import EventTemplateParser

    stamped = event | {"ingestion-time": event["time"]}
    made = EventTemplateParser.parse(transformer["InputTemplate"], transformer.get("InputPathsMap", {}), stamped)
    return made if isinstance(made, str) else json.dumps(made)


def _in_milliseconds(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_milliseconds(item) for item in value]
    if isinstance(value, dict):
        return {
            key: int(item * 1000) if key in TIMES and isinstance(item, int | float) else _in_milliseconds(item)
            for key, item in value.items()
        }
    return value
