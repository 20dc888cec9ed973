"""CloudFormation stacks: find one, propose a change, carry it out, follow it, take it away."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from launcher.aws.errors import explained
from launcher.aws.session import Clients, Session
from launcher.errors import CloudError

POLL_S = 3.0
SERVICE_URL_POLL_S = 0.2  # an endpoint of one's own does at once what it does at all
CAPABILITIES = ["CAPABILITY_IAM"]
UNCHANGED = re.compile("didn't contain changes|No updates are to be performed")
CHANGING = ("CREATE_PENDING", "CREATE_IN_PROGRESS")
# What follows from the first failure is said of every other resource, and explains nothing.
CONSEQUENCE = re.compile("cancelled", re.IGNORECASE)
FIXES = (
    ("not authorized|AccessDenied|UnauthorizedOperation", "Sign in as somebody who may do this, or ask for the right."),
    ("[Aa]lready exists", "Rename or delete what has this name, or choose another region."),
    ("attached|DeleteConflict|detach", "Detach it first: the IAM console shows from whom."),
    ("in use by", "Delete the stack that imports it first."),
    ("[Ll]imit|quota", "Ask for a higher quota, or delete what is not needed."),
)


@dataclass(frozen=True)
class Stack:
    name: str
    id: str
    status: str
    description: str
    outputs: dict[str, str]
    parameters: dict[str, str]


@dataclass(frozen=True)
class Change:
    """`action` is add, modify, remove or import; `replaced` is yes, no or maybe."""

    action: str
    resource: str
    kind: str
    replaced: str


@dataclass(frozen=True)
class ChangeSet:
    id: str
    stack_id: str
    is_new: bool
    changes: tuple[Change, ...] = ()
    nothing_to_do: bool = False  # an update of outputs alone changes no resource, and is still one


@dataclass(frozen=True)
class Event:
    id: str
    resource: str
    kind: str
    status: str
    reason: str
    is_of_stack: bool

    @property
    def failed(self) -> bool:
        return self.status.endswith("_FAILED") and not CONSEQUENCE.search(self.reason)


def find_stack(session: Clients, name: str) -> Stack | None:
    from botocore.exceptions import ClientError

    with explained(f"looking for the stack {name} in {session.region}"):
        try:
            (found,) = session.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if "does not exist" in error.response["Error"].get("Message", ""):
                return None
            raise
    return Stack(
        name=found["StackName"],
        id=found["StackId"],
        status=found["StackStatus"],
        description=found.get("Description", ""),
        outputs={item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])},
        parameters={item["ParameterKey"]: item.get("ParameterValue", "") for item in found.get("Parameters", [])},
    )


def find_exporter(session: Clients, ending: str, value: str) -> str:
    """The name of the stack that exports this value; empty where none does, or where nobody may look."""
    from botocore.exceptions import ClientError

    with explained(f"looking for other stacks in {session.region}"):
        try:
            pages = session.client("cloudformation").get_paginator("list_exports").paginate()
            found = [
                item["ExportingStackId"].split("/")[1]
                for page in pages
                for item in page["Exports"]
                if item["Name"].endswith(ending) and item["Value"] == value
            ]
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("AccessDenied", "AccessDeniedException"):
                raise
            return ""  # CloudFormation itself refuses what is there already, if later
    return found[0] if found else ""


def make_change_set(
    session: Session,
    name: str,
    template: str,
    parameters: dict[str, str],
    *,
    is_new: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> ChangeSet:
    """Nothing of it is carried out yet. What AWS calls a failed change set for want of changes is gone again."""
    client = session.client("cloudformation")
    with explained(f"proposing a change to the stack {name}"):
        made = client.create_change_set(
            StackName=name,
            ChangeSetName=f"launcher-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}",
            ChangeSetType="CREATE" if is_new else "UPDATE",
            TemplateBody=template,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=CAPABILITIES,
            ImportExistingResources=True,  # a bucket that an earlier stack left behind is taken up again
        )
        proposed = ChangeSet(made["Id"], made["StackId"], is_new)
        try:
            changes = _await_changes(client, made["Id"], name, lambda: sleep(_pause(session)))
        except BaseException:  # Ctrl-C too: neither the proposal nor the empty stack made for it may stay behind
            discard(session, proposed)
            raise
    if changes is None:
        discard(session, proposed)
    return dataclasses.replace(proposed, changes=changes or (), nothing_to_do=changes is None)


def _await_changes(client: Any, change_set: str, name: str, pause: Callable[[], None]) -> tuple[Change, ...] | None:
    while True:
        pages = [client.describe_change_set(ChangeSetName=change_set)]
        if pages[0]["Status"] not in CHANGING:
            break
        pause()
    if pages[0]["Status"] == "FAILED":
        reason = pages[0].get("StatusReason", "")
        if UNCHANGED.search(reason):
            return None
        raise CloudError(f"CloudFormation refuses the change to {name}: {reason}", hint=_fix(reason))
    while token := pages[-1].get("NextToken"):
        pages.append(client.describe_change_set(ChangeSetName=change_set, NextToken=token))
    return tuple(_make_change(item["ResourceChange"]) for page in pages for item in page.get("Changes", []))


def _make_change(change: dict[str, Any]) -> Change:
    replaced = {"True": "yes", "Conditional": "maybe"}.get(change.get("Replacement", ""), "no")
    return Change(change["Action"].lower(), change["LogicalResourceId"], change["ResourceType"], replaced)


def discard(session: Session, proposed: ChangeSet) -> None:
    """Forget a proposal, and the empty stack that proposing a new one made."""
    client = session.client("cloudformation")
    with explained("taking the proposed change back"):
        client.delete_change_set(ChangeSetName=proposed.id)
        if proposed.is_new:
            client.delete_stack(StackName=proposed.stack_id)


def execute(session: Session, proposed: ChangeSet) -> Iterator[Event]:
    """Carry it out; the events of doing so, to its end."""
    mark = _newest_event(session, proposed.stack_id)
    with explained("carrying the change out"):
        session.client("cloudformation").execute_change_set(ChangeSetName=proposed.id)
    return iter_events(session, proposed.stack_id, mark)


def delete(session: Session, stack: Stack) -> Iterator[Event]:
    mark = _newest_event(session, stack.id)
    with explained(f"deleting the stack {stack.name}"):
        session.client("cloudformation").delete_stack(StackName=stack.id)
    return iter_events(session, stack.id, mark)


def iter_events(
    session: Session, stack_id: str, after: str, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Event]:
    """What happens to a stack after an event, until the stack itself has come to an end."""
    while True:
        for event in _events_after(session, stack_id, after):
            after = event.id
            yield event
            if event.is_of_stack and event.status.endswith(("_COMPLETE", "_FAILED")):
                return
        sleep(_pause(session))


def _events_after(session: Session, stack_id: str, after: str) -> list[Event]:
    """Oldest first; AWS tells the newest first."""
    found: list[Event] = []
    with explained("reading the stack's events"):
        pages = session.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack_id)
        for item in (item for page in pages for item in page["StackEvents"]):
            if item["EventId"] == after:
                break
            found.append(_make_event(item, stack_id))
    return found[::-1]


def _newest_event(session: Session, stack_id: str) -> str:
    with explained("reading the stack's events"):
        events = session.client("cloudformation").describe_stack_events(StackName=stack_id)["StackEvents"]
    return events[0]["EventId"] if events else ""


def _make_event(item: dict[str, Any], stack_id: str) -> Event:
    return Event(
        id=item["EventId"],
        resource=item["LogicalResourceId"],
        kind=item["ResourceType"],
        status=item["ResourceStatus"],
        reason=item.get("ResourceStatusReason", ""),
        is_of_stack=item.get("PhysicalResourceId") == stack_id,
    )


def explain_failure(name: str, events: list[Event], hint: str) -> CloudError:
    """By the first resource that failed for a reason of its own."""
    failed = [event for event in events if event.failed]
    first = next((event for event in failed if not event.is_of_stack), failed[0] if failed else None)
    if first is None:
        return CloudError(
            f"The stack {name} ended in {events[-1].status if events else 'an unknown state'}.", hint=hint
        )
    fix = _fix(first.reason)
    return CloudError(
        f"The stack {name} failed at {first.resource} ({first.kind}): {first.reason or first.status}",
        hint=f"{fix} {hint}" if fix else hint,
    )


def _fix(reason: str) -> str:
    return next((fix for pattern, fix in FIXES if re.search(pattern, reason)), "")


def _pause(session: Session) -> float:
    return SERVICE_URL_POLL_S if session.service_url else POLL_S
