"""What a scheduled job's role must be allowed for its verdict to have consequences; asked before a GPU is billed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launcher.aws import identity
from launcher.aws.schedules import Home
from launcher.errors import CloudError
from launcher.progress import Say
from launcher.recipe import Recipe
from launcher.request import Site


@dataclass(frozen=True)
class Right:
    """An action, what it is for, and how it is allowed."""

    action: str
    resource: str
    purpose: str
    fix: str

    def describe(self, role: str) -> str:
        return f"{role} may not {self.purpose} ({self.action} on {self.resource})"


def list_rights(recipe: Recipe, role: str, pointer: str, stack_topic: str = "") -> list[Right]:
    """What the recipe asks for and a stack does not have of itself; `pointer` is the champion's, as s3://."""
    rights, topic = [], recipe.config.notify_topic
    if recipe.config.promote == "if-better":
        rights.append(
            Right(
                "s3:PutObject",
                f"arn:{role.split(':')[1]}:s3:::{pointer.removeprefix('s3://')}",
                'move the champion\'s pointer, and schedule.promote is "if-better"',
                "`launcher bootstrap --promotion` allows it; `launcher champion promote JOB` goes without.",
            )
        )
    if topic and topic != stack_topic:
        rights.append(
            Right(
                "sns:Publish",
                topic,
                "publish to schedule.notify_topic",
                "Allow it, or leave schedule.notify_topic empty to have the stack's own topic told.",
            )
        )
    return rights


def find_denied(iam: Any, role: str, rights: list[Right]) -> list[Right]:
    """By simulation, which knows the role's policies and not those of the bucket and the topic."""
    context = {"aws:SecureTransport": "true"}
    return [
        right
        for right in rights
        if identity.find_denied(iam, role, identity.Permission((right.action,), right.resource), context)
    ]


def say_rights(recipe: Recipe, site: Site, pointer: str, home: Home, open_iam: Callable[[], Any], say: Say) -> None:
    """Tell what the role lacks; a policy of the bucket or the topic may allow it all the same: nothing is refused."""
    topic = recipe.config.notify_topic
    if topic and home.topic and topic != home.topic:
        say(f"verdicts go to {topic}; failed jobs and firings that made no job are told to {home.topic}")
    if not (rights := list_rights(recipe, site.role, pointer, home.topic)):
        return
    try:
        for right in find_denied(open_iam(), site.role, rights):
            say(f"as far as its policies tell, {right.describe(site.role)}. {right.fix}")
    except CloudError as error:
        purposes = " and ".join(right.purpose for right in rights)
        say(f"nobody has looked whether {site.role} may {purposes}: {error.message}")
