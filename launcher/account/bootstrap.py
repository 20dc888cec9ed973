"""Deploy the templates of infra/, and take them away again. Nothing is created before somebody said yes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from launcher import images
from launcher.account.templates import SCHEDULE, TRAINING, load_template, template_text
from launcher.aws import buckets, schedules, secrets, stacks
from launcher.aws.errors import explained
from launcher.aws.session import Session, check_region
from launcher.aws.site import stack_name
from launcher.aws.site_checks import arn_part
from launcher.aws.stacks import Change, ChangeSet, Event, Stack
from launcher.errors import LauncherError, SiteError
from launcher.progress import Say, silent

# A stack that only holds a proposal is as good as none.
EMPTY = "REVIEW_IN_PROGRESS"
DEAD_ENDS = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
DELETED = "DELETE_COMPLETE"
SIGNS = {TRAINING: "LauncherPolicyArn", SCHEDULE: "SchedulesPolicyArn"}
# What the training stack allows people, the stack of schedules allows its role: nothing more, and nothing less.
LIMITS = ("InstanceTypes", "MaxRuntime")
ARN_NAMES = {"KmsKeyArn": "The key", "HfSecretArn": "The secret", "ImageRepositoryArn": "The repository"}
BUCKET_EXPRESSION = '!Sub "launcher-${AWS::AccountId}-${AWS::Region}"'
TLS_ONLY = "TlsOnly"  # the one statement of the bucket's policy
GOOD_ENDS = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")


@dataclass
class Proposal:
    """What a bootstrap would change; `carry_out` does it."""

    session: Session
    account: str
    name: str
    change_set: ChangeSet
    is_open: bool = field(default=True)

    @property
    def changes(self) -> tuple[Change, ...]:
        return self.change_set.changes

    @property
    def bucket(self) -> str:
        return bucket_name(self.account, self.session.region)

    def _lift_policy(self) -> str:
        """Off a bucket that is taken up again: CloudFormation imports the bucket, and makes no second policy for it."""
        actions = {change.resource: change.action for change in self.changes}
        if (actions.get("Bucket"), actions.get("BucketPolicy")) != ("import", "add"):
            return ""
        return buckets.lift_policy(self.session, self.bucket, TLS_ONLY)

    def _put_back(self, policy: str) -> None:
        if policy:
            buckets.put_policy(self.session, self.bucket, policy)

    def carry_out(self, say: Say = silent) -> Stack:
        policy = self._lift_policy()
        try:
            events = stacks.execute(self.session, self.change_set)
        except LauncherError:
            self._put_back(policy)
            raise
        self.is_open = False
        again = f"`launcher teardown --stack-name {self.name}` takes away what is left; then bootstrap again."
        after = again if self.change_set.is_new else "The stack is as it was before."
        seen = _follow(self.name, events, say)
        if not _has_ended(seen, GOOD_ENDS):
            self._put_back(policy)
        _check_end(self.name, seen, GOOD_ENDS, after)
        return _existing(self.session, self.name)


@contextmanager
def proposed(session: Session, name: str, given: dict[str, str], template: str = TRAINING) -> Iterator[Proposal]:
    """A proposal that is taken back unless it was carried out. Parameters that are not given stay as they are."""
    check_region(session.region)
    check_arns(given, session.region)
    account = find_account(session)
    found = stacks.find_stack(session, name)
    is_new = found is None or found.status == EMPTY
    if found is not None:
        check_changeable(found, template)
    if is_new and template == TRAINING:
        check_alone(session, account)
    parameters = make_parameters(template, session.region, {} if is_new or found is None else found.parameters, given)
    text = make_text(template, account, session.region)
    change_set = stacks.make_change_set(session, name, text, parameters, is_new=is_new)
    proposal = Proposal(session, account, name, change_set, is_open=not change_set.nothing_to_do)
    try:
        yield proposal
    finally:
        if proposal.is_open:
            stacks.discard(session, change_set)


def schedule_parameters(training: Stack) -> dict[str, str]:
    """What the stack of schedules takes over from the training stack."""
    outputs = training.outputs
    limits = {name: training.parameters[name] for name in LIMITS if name in training.parameters}
    return {"JobRoleName": outputs["RoleName"], "NoticeTopicArn": outputs["TopicArn"], **limits}


def has_other_limits(session: Session, training: Stack) -> bool:
    """Whether schedules of this stack may start other types, or run longer, than people may; or not as much."""
    found = _find_schedules_of(session, training)
    wanted = schedule_parameters(training)
    return found is not None and any(found.parameters.get(name) != wanted.get(name) for name in LIMITS)


def make_parameters(template: str, region: str, earlier: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """Every parameter of the template: as given, else as it was, else its default."""
    known = load_template(template)["Parameters"]
    defaults = {name: str(about["Default"]) for name, about in known.items() if "Default" in about}
    if "ImageRegistry" in known:
        defaults["ImageRegistry"] = images.REGISTRIES.get(region, images.HOME_REGISTRY)
    kept = {name: value for name, value in earlier.items() if name in known}
    return {**defaults, **kept, **given}


def bucket_name(account: str, region: str) -> str:
    return f"launcher-{account}-{region}"


def make_text(template: str, account: str, region: str) -> str:
    """The template as it is sent: a bucket that was left behind is imported only where its name is no expression."""
    return template_text(template).replace(BUCKET_EXPRESSION, f'"{bucket_name(account, region)}"')


def check_alone(session: Session, account: str) -> None:
    """The bucket's name holds account and region alone, so a second stack would fail at it half-way."""
    bucket = bucket_name(account, session.region)
    if other := stacks.find_exporter(session, "-BucketName", bucket):
        raise SiteError(
            f"{session.region} has a stack of the launcher's already: {other}, whose bucket is {bucket}. "
            "There is one in a region.",
            hint=f"`launcher bootstrap --stack-name {other}` changes it; with LAUNCHER_STACK={other} submit finds it. "
            "Or take another --region. Nothing was changed.",
        )


def check_arns(given: dict[str, str], region: str) -> None:
    """A bucket, a job and its image take keys, secrets and repositories of their own region only."""
    for name, arn in _iter_arns(given):
        if (there := arn_part(arn, 3)) != region:
            raise SiteError(
                f"{ARN_NAMES[name]} {arn} lies in {there}, and the stack is to be in {region}.",
                hint=f"Name one of {region}, or take another --region. Nothing was changed.",
            )


def list_foreign(given: dict[str, str], account: str) -> list[str]:
    """What belongs to another account, and works only where that account lets this one in."""
    return [
        f"{ARN_NAMES[name]} {arn} belongs to account {owner}: its own policy must let account {account} in"
        for name, arn in _iter_arns(given)
        if (owner := arn_part(arn, 4)) != account
    ]


def _iter_arns(given: dict[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, given[name]) for name in ARN_NAMES if given.get(name))


def is_ours(stack: Stack, template: str) -> bool:
    """By the template's description or an output that only it has; a mere proposal need not have either."""
    if stack.status == EMPTY and not stack.description:
        return True
    return stack.description.startswith(f"launcher {template}:") or SIGNS[template] in stack.outputs


def check_ours(stack: Stack, *templates: str) -> None:
    if not any(is_ours(stack, template) for template in templates):
        raise SiteError(
            f'The stack {stack.name} is not the launcher\'s ("{stack.description}").',
            hint="Choose another name with --stack-name. Nothing was changed.",
        )


def check_changeable(stack: Stack, template: str) -> None:
    check_ours(stack, template)
    if stack.status in DEAD_ENDS:
        raise SiteError(
            f"The stack {stack.name} is in {stack.status}, from which CloudFormation only lets it be deleted.",
            hint=f"`launcher teardown --stack-name {stack.name}`, then bootstrap again.",
        )
    check_settled(stack)
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        raise SiteError(
            f"The stack {stack.name} is in {stack.status}: going back to its earlier state failed half-way.",
            hint=f"`aws cloudformation continue-update-rollback --stack-name {stack.name}`, then bootstrap again.",
        )


def check_settled(stack: Stack) -> None:
    if stack.status != EMPTY and stack.status.endswith("_IN_PROGRESS"):
        raise SiteError(
            f"The stack {stack.name} is being changed at this moment ({stack.status}).",
            hint="Wait until that has ended, then try again.",
        )


def find_account(session: Session) -> str:
    with explained("asking who is signed in"):
        return str(session.client("sts").get_caller_identity()["Account"])


def find_secret(session: Session, name: str) -> str:
    return secrets.find_arn(session, name)


@dataclass(frozen=True)
class Removal:
    """What a teardown would delete. `bucket` and `queue` are empty where the stack has none (left)."""

    session: Session
    stack: Stack
    bucket: str = ""
    keeps_bucket: bool = False
    queue: str = ""
    schedules: tuple[str, ...] = ()

    @property
    def is_of_schedules(self) -> bool:
        return not is_ours(self.stack, TRAINING)

    def kept(self) -> list[str]:
        return [self.bucket] * self.keeps_bucket + [self.queue] * bool(self.queue)

    def carry_out(self, say: Say = silent) -> None:
        events = stacks.delete(self.session, self.stack)
        seen = _follow(self.stack.name, events, say)
        _check_end(self.stack.name, seen, (DELETED,), "Then `launcher teardown` again.")
        if self.bucket and not self.keeps_bucket:
            buckets.delete_bucket(self.session, self.bucket)


def find_removals(session: Session, name: str) -> list[Removal]:
    """The stack of this name, after the stack of schedules that hangs on its role; empty where there is none."""
    check_region(session.region)
    find_account(session)
    stack = stacks.find_stack(session, name)
    if stack is None:
        return []
    check_ours(stack, TRAINING, SCHEDULE)
    found = [stack]
    if is_ours(stack, TRAINING) and (other := _find_schedules_of(session, stack)):
        found.insert(0, other)
    for item in found:
        check_settled(item)
    return [_make_removal(session, item) for item in found]


def list_own(session: Session) -> list[str]:
    """The launcher's stacks in this region, as far as they have its usual names."""
    return [name for name in (stack_name(), schedules.STACK) if stacks.find_stack(session, name)]


def _find_schedules_of(session: Session, training: Stack) -> Stack | None:
    """Its policy hangs on the job's role, which cannot go before it; and its schedules would go on firing."""
    found = stacks.find_stack(session, schedules.STACK)
    if found is None or not is_ours(found, SCHEDULE):
        return None
    role = found.parameters.get("JobRoleName", "")
    hangs = role == training.outputs.get("RoleName") or role.startswith(f"{training.name}-JobRole-")
    return found if hangs else None


def _make_removal(session: Session, stack: Stack) -> Removal:
    if not is_ours(stack, TRAINING):
        queue = stack.outputs.get("QueueArn", "").rpartition(":")[2]
        group = stack.outputs.get("GroupName", schedules.GROUP)
        return Removal(session, stack, queue=queue, schedules=tuple(schedules.iter_names(session, group)))
    bucket = stack.outputs.get("BucketName", "")
    empty = buckets.is_empty(session, bucket) if bucket else None
    return Removal(session, stack, "" if empty is None else bucket, keeps_bucket=empty is False)


def _existing(session: Session, name: str) -> Stack:
    stack = stacks.find_stack(session, name)
    if stack is None:
        raise SiteError(f"The stack {name} was deleted by somebody else.", hint="Bootstrap again.")
    return stack


def _follow(name: str, events: Iterator[Event], say: Say) -> list[Event]:
    seen = []
    on = f"The stack {name} goes on without you; the same command again tells where it is."
    try:
        for event in events:
            seen.append(event)
            say(f"{event.status:<20} {event.resource}" + (f": {event.reason}" if event.failed else ""))
    except KeyboardInterrupt:
        say(on)
        raise
    except LauncherError as error:  # of the look at it, as when the sign-in has ended meanwhile
        error.hint += f" {on}"
        raise
    return seen


def _has_ended(seen: list[Event], good: tuple[str, ...]) -> bool:
    return bool(seen) and seen[-1].status in good


def _check_end(name: str, seen: list[Event], good: tuple[str, ...], after_failure: str) -> None:
    if not _has_ended(seen, good):
        raise stacks.explain_failure(name, seen, after_failure)
