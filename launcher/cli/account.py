"""Verbs about an AWS account: bootstrap, teardown."""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import TYPE_CHECKING, Any

from launcher.cli.verbs import add_json, add_verb
from launcher.errors import InputError

if TYPE_CHECKING:
    from launcher.account.bootstrap import Proposal, Removal
    from launcher.aws.session import Session

# A flag -> the template's parameter it sets.
PARAMETER_FLAGS = {
    "prefix": "Prefix",
    "instances": "InstanceTypes",
    "kms_key": "KmsKeyArn",
    "image_repository": "ImageRepositoryArn",
    "vpc": "Network",
    "promotion": "Promotion",
    "email": "NoticeEmail",
}

POLICY_HOLDERS = {
    "LauncherPolicyArn": "submits; `launcher submit --instance ml.g5.xlarge` finds bucket and role by itself",
    "LauncherKeyPolicyArn": "submits, too: without the bucket's key nobody uploads or fetches",
    "SchedulesPolicyArn": "schedules; `launcher schedule create` finds role and queue by itself",
}


def add_verbs(verbs: Any) -> None:
    bootstrap = add_verb(
        verbs,
        "bootstrap",
        run_bootstrap,
        "make bucket, role, policy and notices in an AWS account; shows them first, and asks",
        "bootstrap --region eu-central-1 --instances 'ml.g5.*' --max-runtime 8h",
    )
    _add_place(bootstrap)
    bootstrap.add_argument("--print", action="store_true", help="only show who may do what; needs no account")
    bootstrap.add_argument("--prefix", help="output.prefix of the recipes (default: launcher)")
    bootstrap.add_argument("--instances", metavar="TYPES", help="types people may start, such as 'ml.g5.*,ml.g6.*'")
    bootstrap.add_argument(
        "--max-runtime", type=_seconds, metavar="TIME", help="longest time limit people may ask for, such as 8h"
    )
    bootstrap.add_argument(
        "--hf-secret", metavar="NAME", help="secret with a Hub token that jobs may read; '' for none"
    )
    bootstrap.add_argument(
        "--kms-key", metavar="ARN", help="your own key for the bucket; '' for AWS's own, which is free"
    )
    bootstrap.add_argument("--image-repository", metavar="ARN", help="ECR repository with images of your own")
    bootstrap.add_argument(
        "--vpc",
        nargs="?",
        const="create",
        choices=("none", "existing", "create"),
        help="let jobs join an existing VPC, or create one without a way to the internet (default: none)",
    )
    bootstrap.add_argument(
        "--promotion", nargs="?", const="yes", choices=("no", "yes"), help="let jobs move the champion's pointer"
    )
    bootstrap.add_argument("--email", metavar="ADDRESS", help="who is told of failed and stopped jobs; '' for nobody")
    bootstrap.add_argument(
        "--schedules", action="store_true", help="also what schedules need: group, role, queue, alarm"
    )
    add_json(bootstrap)

    teardown = add_verb(
        verbs, "teardown", run_teardown, "delete what bootstrap made, but no bucket with something in it", "teardown"
    )
    _add_place(teardown)
    add_json(teardown)


def _seconds(text: str) -> int:
    from launcher.recipe_sections import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", default="", help="region of AWS (default: AWS_REGION, then your AWS configuration)")
    parser.add_argument(
        "--stack-name", help="name of the stack, of which a region has one (default: LAUNCHER_STACK, then launcher)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _open(args: argparse.Namespace) -> tuple[Session, str]:
    from launcher.aws.session import open_session
    from launcher.aws.site import stack_name

    return open_session("aws", args.region), args.stack_name or stack_name()


def _confirm(yes: bool, question: str) -> None:
    from launcher import console

    if yes:
        return
    if not console.can_ask():
        raise InputError(
            "There is no terminal to ask on, so nothing was done.", hint="Add --yes to go on without asking."
        )
    if not console.confirm(question):
        raise InputError("Nothing was done.", hint="Run it again when you are ready; nothing of it is left behind.")


def run_bootstrap(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.account.bootstrap import find_secret, has_other_limits, schedule_parameters
    from launcher.account.templates import SCHEDULE, TRAINING
    from launcher.aws.schedules import STACK as SCHEDULES_STACK
    from launcher.aws.stacks import find_stack

    if args.print:
        return _print_grants(args.json)
    given = _given(args)
    session, name = _open(args)
    if args.hf_secret:
        given["HfSecretArn"] = find_secret(session, args.hf_secret)
    reports = [_deploy(args, session, name, TRAINING, given)]
    training = find_stack(session, name)
    assert training is not None, "deployed above"
    if args.schedules:
        reports.append(_deploy(args, session, SCHEDULES_STACK, SCHEDULE, schedule_parameters(training)))
    elif has_other_limits(session, training):
        console.say(
            "schedules have other limits on types and run time\n  -> `launcher bootstrap --schedules` evens them"
        )
    if args.json:
        console.data_json(reports if args.schedules else reports[0])
    return 0


def _deploy(
    args: argparse.Namespace, session: Session, name: str, template: str, given: dict[str, str]
) -> dict[str, Any]:
    """One stack, after its changes were shown and agreed to."""
    from launcher import console
    from launcher.account.bootstrap import list_foreign, proposed

    with proposed(session, name, given, template) as proposal:
        console.say(f"account {proposal.account}, region {session.region}, stack {name}")
        if proposal.change_set.nothing_to_do:
            return _report(args.json, proposal, "unchanged")
        for line in list_foreign(given, proposal.account):
            console.say(f"note: {line}")
        if not args.json or console.can_ask():
            _print_changes(proposal, to_stdout=not args.json)
        _confirm(args.yes, f"Make this change in account {proposal.account}?")
        proposal.carry_out(console.say)
    return _report(args.json, proposal, "created" if proposal.change_set.is_new else "updated")


def _given(args: argparse.Namespace) -> dict[str, str]:
    """Parameters that the command line sets, as the template allows them; the others stay as they are."""
    from launcher import leaks
    from launcher.account.templates import TRAINING, find_broken

    flags = {flag: value for flag in (*PARAMETER_FLAGS, "hf_secret") if (value := getattr(args, flag)) is not None}
    for flag, value in flags.items():
        leaks.refuse(value, _spelt(flag))
    texts = {flag: re.sub(r"\s*,\s*", ",", value.strip()) for flag, value in flags.items()}
    given = {name: texts[flag] for flag, name in PARAMETER_FLAGS.items() if flag in texts}
    if args.max_runtime is not None:
        given["MaxRuntime"] = str(args.max_runtime)
    if args.hf_secret == "":
        given["HfSecretArn"] = ""
    names = {name: flag for flag, name in (*PARAMETER_FLAGS.items(), ("max_runtime", "MaxRuntime"))}
    for name, wanted in find_broken(TRAINING, given).items():
        shown = f"{args.max_runtime:,} s" if name == "MaxRuntime" else repr(given[name])
        raise InputError(f"{_spelt(names[name])} is {shown}; it must be {wanted}.", hint="Nothing was sent to AWS.")
    return given


def _spelt(flag: str) -> str:
    return f"--{flag.replace('_', '-')}"


def _print_changes(proposal: Proposal, *, to_stdout: bool) -> None:
    from launcher import console

    if not proposal.changes:
        console.say("no resource changes by itself: only parameters or outputs")
        return
    rows = [(change.action, change.resource, change.kind, change.replaced) for change in proposal.changes]
    console.print_table(("CHANGE", "RESOURCE", "TYPE", "REPLACED"), rows, console.data if to_stdout else console.say)


def _report(as_json: bool, proposal: Proposal, status: str) -> dict[str, Any]:
    from launcher import console
    from launcher.aws.stacks import find_stack

    stack = find_stack(proposal.session, proposal.name)
    outputs = stack.outputs if stack else {}
    if not as_json:
        console.say("nothing to change" if status == "unchanged" else f"the stack {proposal.name} is {status}")
        console.print_pairs(outputs.items())
        for key, holder in POLICY_HOLDERS.items():
            if key in outputs:
                console.say(f"  -> attach {outputs[key]} to whoever {holder}")
    changes = [dataclasses.asdict(change) for change in proposal.changes]
    return {"stack": proposal.name, "status": status, "changes": changes, "outputs": dict(outputs)}


def _print_grants(as_json: bool) -> int:
    from launcher import console
    from launcher.account.templates import find_grants, shipped_templates

    for name in shipped_templates() if not as_json else ():
        rows = [line for grant in find_grants(name) for line in grant.lines()]
        console.data(f"{name}.yaml")
        console.print_table(("WHO", "ACTION", "RESOURCE", "CONDITION"), rows)
    if as_json:
        console.data_json([grant.as_json() for name in shipped_templates() for grant in find_grants(name)])
    return 0


def run_teardown(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.account.bootstrap import find_removals

    session, name = _open(args)
    removals = find_removals(session, name)
    if not removals:
        _say_absent(args, session, name)
    for removal in removals:
        console.say(_removal_words(removal))
    if removals:
        _confirm(args.yes, f"Delete {'both' if len(removals) > 1 else 'it'}? Jobs that still run lose their role.")
    for removal in removals:
        removal.carry_out(console.say)
        console.say(f"the stack {removal.stack.name} is deleted")
        if removal.keeps_bucket:
            console.say(
                f"kept: the bucket {removal.bucket}, with its objects and their old versions\n"
                f"  -> the S3 console's Empty deletes them all, then `aws s3 rb s3://{removal.bucket}` the bucket; "
                "`launcher bootstrap` takes it up again as it is"
            )
    if args.json:
        status = "deleted" if removals else "absent"
        gone, kept = [removal.stack.name for removal in removals], [name for item in removals for name in item.kept()]
        console.data_json({"stack": name, "status": status, "deleted": gone, "kept": kept})
    return 0


def _say_absent(args: argparse.Namespace, session: Session, name: str) -> None:
    """Nothing to delete is fine for a second teardown, and a mistake where somebody names a stack."""
    from launcher import console
    from launcher.account.bootstrap import list_own

    there = " or ".join(f"`launcher teardown --stack-name {other}`" for other in list_own(session))
    if args.stack_name:
        hint = f"The launcher's own here: {there}." if there else "None of the launcher's usual names is there either."
        raise InputError(f"There is no stack {name} in {session.region}; nothing was deleted.", hint=hint)
    console.say(f"there is no stack {name} in {session.region}; nothing to delete")
    if there:
        console.say(f"  -> {there} deletes what schedules have left there")


def _removal_words(removal: Removal) -> str:
    words = f"deletes the stack {removal.stack.name} in {removal.session.region}: "
    if removal.is_of_schedules:
        names = f", and with it {len(removal.schedules)}: {', '.join(removal.schedules)}" if removal.schedules else ""
        words += f"role, alarm and group of schedules{names}"
        return words + (f"; keeps the queue {removal.queue}" if removal.queue else "")
    words += "role, policy and notices"
    if not removal.bucket:
        return words
    return words + (f"; keeps the bucket {removal.bucket}, which is not empty" if removal.keeps_bucket else
                    f"; and the bucket {removal.bucket}, which is empty")  # fmt: skip
