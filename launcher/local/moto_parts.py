"""What this process asks of moto's queues, topics and rules. They live in its memory, and only if someone made any."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from launcher.local.json_protocol import ApiError
from launcher.local.settings import Settings


class MotoParts:
    def __init__(self, settings: Settings) -> None:
        self._account = settings.account
        self._region = settings.region

    def send_message(self, queue: str, body: str, attributes: dict[str, str] | None = None) -> str:
        """The id of a message that is now in the queue of that name."""
        backend = self._find_backend("sqs")
        if backend is None:
            raise ApiError("AWS.SimpleQueueService.NonExistentQueue", f"There is no queue {queue}.")
        fields = {name: {"DataType": "String", "StringValue": value} for name, value in (attributes or {}).items()}
        with _as_api_error():
            return str(backend.send_message(queue, body, message_attributes=fields).id)

    def publish(self, topic_arn: str, message: str, subject: str | None = None) -> str:
        backend = self._find_backend("sns")
        if backend is None:
            raise ApiError("NotFound", f"There is no topic {topic_arn}.", 404)
        with _as_api_error():
            return str(backend.publish(message, arn=topic_arn, subject=subject))

    def make_again(self, text: str) -> None:
        """The queues and topics of this place that a text names; those that are there stay as they are."""
        pattern = rf"arn:aws[a-z-]*:(sqs|sns):{self._region}:{self._account}:([\w-]+)"
        for service, name in sorted(set(re.findall(pattern, text))):
            import_module(f"moto.{service}.models")
            backend = self._find_backend(service)
            if service == "sqs" and name not in backend.queues:
                backend.create_queue(name)
            elif service == "sns":
                backend.create_topic(name)

    def list_rules(self) -> list[Any]:
        """The enabled rules of the default bus."""
        backend = self._find_backend("events")
        rules = [] if backend is None else list(backend.event_buses["default"].rules.values())
        return [rule for rule in rules if rule.state == "ENABLED" and rule.event_pattern.get_pattern()]

    def _find_backend(self, service: str) -> Any:
        """None while nothing of the service was ever used: loading moto to find it empty would take a second."""
        module = sys.modules.get(f"moto.{service}.models")
        return None if module is None else vars(module)[f"{service}_backends"][self._account][self._region]


@contextmanager
def _as_api_error() -> Iterator[None]:
    from moto.core.exceptions import ServiceException

    try:
        yield
    except ServiceException as error:
        raise ApiError(error.code, error.message) from error
