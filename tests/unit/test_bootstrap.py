"""What bootstrap says when AWS is in no state for it; AWS's answers are botocore's Stubber's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from launcher.account import bootstrap
from launcher.account.templates import load_template, shipped_templates
from launcher.aws import stacks
from launcher.aws.session import Session
from launcher.aws.site import find_site
from launcher.cli import account, main, make_parser
from launcher.errors import CloudError, CredentialsError, InputError, SiteError
from launcher.recipe import load_recipe

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STACK_ID = "arn:aws:cloudformation:eu-west-1:111122223333:stack/launcher/1"
CHANGE_SET = "arn:aws:cloudformation:eu-west-1:111122223333:changeSet/c/1"
OURS = "launcher training: bucket and more"
SCHEDULES = "launcher-schedule"
Stub = Callable[[str], Stubber]


def sign_in(stub: Stub) -> None:
    stub("sts").add_response("get_caller_identity", {"Account": "111122223333"}, {})


def add_stack(stub: Stub, status: str, description: str = OURS, name: str = "launcher", **more: Any) -> None:
    stack = {"StackName": name, "StackId": STACK_ID, "StackStatus": status, "CreationTime": NOW, **more}
    found = {"Stacks": [stack | ({"Description": description} if description else {})]}
    stub("cloudformation").add_response("describe_stacks", found, {"StackName": name})


def add_no_stack(stub: Stub, name: str = "launcher") -> None:
    stub("cloudformation").add_client_error(
        "describe_stacks",
        "ValidationError",
        f"Stack with id {name} does not exist",
        400,
        expected_params={"StackName": name},
    )


def add_exports(stub: Stub, **values: str) -> None:
    exports = [
        {"ExportingStackId": STACK_ID, "Name": f"launcher-{key}", "Value": value} for key, value in values.items()
    ]
    stub("cloudformation").add_response("list_exports", {"Exports": exports}, {})


def event(number: int, resource: str, status: str, reason: str = "", of_stack: bool = False) -> dict[str, Any]:
    return {
        "StackId": STACK_ID,
        "EventId": str(number),
        "StackName": "launcher",
        "LogicalResourceId": resource,
        "PhysicalResourceId": STACK_ID if of_stack else resource,
        "ResourceType": "AWS::CloudFormation::Stack" if of_stack else "AWS::IAM::Role",
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
        "Timestamp": NOW,
    }


def test_nobody_signed_in(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert main(["bootstrap", "--yes"]) == 3
    assert "No AWS credentials were found." in capsys.readouterr().err


def test_printing_needs_nobody_and_no_region(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bootstrap", "--print"]) == 0
    out = capsys.readouterr().out
    assert "NumericLessThanEquals sagemaker:MaxRuntimeInSeconds = ${MaxRuntime}" in out
    assert "DENY s3:*" in out
    assert main(["bootstrap", "--print", "--json"]) == 0
    assert '"only_if": "HasSecret"' in capsys.readouterr().out


def test_expired_credentials(session: Session, stub: Stub) -> None:
    stub("sts").add_client_error("get_caller_identity", "ExpiredToken", "The security token is expired", 403)
    with pytest.raises(CredentialsError, match="ExpiredToken"), bootstrap.proposed(session, "launcher", {}):
        pass


def test_a_region_that_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert main(["bootstrap", "--yes", "--region", "eu-wets-1"]) == 3
    said = capsys.readouterr().err
    assert "eu-wets-1 is not a region of AWS." in said
    assert "Did you mean eu-west-1?" in said


@pytest.mark.parametrize(
    ("status", "sentence", "fix"),
    [
        ("ROLLBACK_COMPLETE", "only lets it be deleted", "launcher teardown"),
        ("DELETE_FAILED", "only lets it be deleted", "launcher teardown"),
        ("UPDATE_IN_PROGRESS", "being changed at this moment", "Wait"),
        ("UPDATE_ROLLBACK_FAILED", "half-way", "continue-update-rollback"),
    ],
)
def test_a_stack_in_no_state_to_be_changed(session: Session, stub: Stub, status: str, sentence: str, fix: str) -> None:
    sign_in(stub)
    add_stack(stub, status)
    with pytest.raises(SiteError, match=sentence) as caught, bootstrap.proposed(session, "launcher", {}):
        pass
    assert fix in caught.value.hint


@pytest.mark.parametrize("description", ["somebody's", ""])
def test_a_stack_that_is_not_ours(session: Session, stub: Stub, description: str) -> None:
    sign_in(stub)
    add_stack(stub, "CREATE_COMPLETE", description)
    with pytest.raises(SiteError, match="is not the launcher's"), bootstrap.proposed(session, "launcher", {}):
        pass


def add_proposal(stub: Stub, kind: str, status: str = "CREATE_COMPLETE", reason: str = "") -> None:
    sent = {
        "StackName": "launcher",
        "ChangeSetName": ANY,
        "ChangeSetType": kind,
        "TemplateBody": ANY,
        "Parameters": ANY,
        "Capabilities": ["CAPABILITY_IAM"],
        "ImportExistingResources": True,
    }
    stub("cloudformation").add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK_ID}, sent)
    change = {"Action": "Add", "LogicalResourceId": "JobRole", "ResourceType": "AWS::IAM::Role"}
    first = {"Status": "CREATE_IN_PROGRESS"}
    last = {"Status": status, "StatusReason": reason, "Changes": [{"Type": "Resource", "ResourceChange": change}]}
    for answer in (first, last):
        stub("cloudformation").add_response("describe_change_set", answer, {"ChangeSetName": CHANGE_SET})


def add_discard(stub: Stub, *, is_new: bool) -> None:
    stub("cloudformation").add_response("delete_change_set", {}, {"ChangeSetName": CHANGE_SET})
    if is_new:
        stub("cloudformation").add_response("delete_stack", {}, {"StackName": STACK_ID})


def test_a_proposal_that_nobody_carries_out_leaves_nothing(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_no_stack(stub)
    add_exports(stub)
    add_proposal(stub, "CREATE")
    add_discard(stub, is_new=True)
    with bootstrap.proposed(session, "launcher", {}) as proposal:
        assert [(change.action, change.resource) for change in proposal.changes] == [("add", "JobRole")]


def test_so_does_one_that_is_interrupted(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_no_stack(stub)
    add_exports(stub)
    add_proposal(stub, "CREATE")
    add_discard(stub, is_new=True)
    with pytest.raises(KeyboardInterrupt), bootstrap.proposed(session, "launcher", {}):
        raise KeyboardInterrupt


def test_nothing_to_change(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_stack(stub, "CREATE_COMPLETE")
    add_proposal(stub, "UPDATE", "FAILED", "The submitted information didn't contain changes.")
    add_discard(stub, is_new=False)
    with bootstrap.proposed(session, "launcher", {}) as proposal:
        assert proposal.change_set.nothing_to_do


def test_a_refused_proposal_says_why_and_leaves_nothing(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_no_stack(stub)
    add_exports(stub)
    add_proposal(stub, "CREATE", "FAILED", "Bucket already exists")
    add_discard(stub, is_new=True)
    with pytest.raises(CloudError, match="Bucket already exists"), bootstrap.proposed(session, "launcher", {}):
        pass


def test_a_failed_stack_is_explained_by_its_first_failure(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_no_stack(stub)
    add_exports(stub)
    add_proposal(stub, "CREATE")
    cloud = stub("cloudformation")
    start = event(1, "launcher", "REVIEW_IN_PROGRESS", of_stack=True)
    cloud.add_response("describe_stack_events", {"StackEvents": [start]})
    cloud.add_response("execute_change_set", {}, {"ChangeSetName": CHANGE_SET})
    later = [
        event(6, "launcher", "ROLLBACK_COMPLETE", of_stack=True),
        event(5, "launcher", "ROLLBACK_IN_PROGRESS", "The following resource(s) failed", of_stack=True),
        event(4, "Failures", "CREATE_FAILED", "Resource creation cancelled"),
        event(3, "JobRole", "CREATE_FAILED", "ann is not authorized to perform: iam:CreateRole"),
        event(2, "JobRole", "CREATE_IN_PROGRESS"),
    ]
    cloud.add_response("describe_stack_events", {"StackEvents": [*later, start]})
    said: list[str] = []
    with pytest.raises(CloudError) as caught, bootstrap.proposed(session, "launcher", {}) as proposal:
        proposal.carry_out(said.append)
    assert caught.value.exit_code == 3
    assert "failed at JobRole (AWS::IAM::Role): ann is not authorized to perform: iam:CreateRole" in str(caught.value)
    assert "ask for the right" in caught.value.hint
    assert "launcher teardown" in caught.value.hint
    assert [line.split()[1].rstrip(":") for line in said] == ["JobRole", "JobRole", "Failures", "launcher", "launcher"]


def test_events_are_told_once_while_the_stack_grows(session: Session, stub: Stub) -> None:
    cloud = stub("cloudformation")
    one, two = event(1, "A", "CREATE_IN_PROGRESS"), event(2, "A", "CREATE_COMPLETE")
    end = event(3, "launcher", "CREATE_COMPLETE", of_stack=True)
    for answer in ([one], [one], [two, one], [end, two, one]):
        cloud.add_response("describe_stack_events", {"StackEvents": answer}, {"StackName": STACK_ID})
    pauses: list[float] = []
    found = [item.id for item in stacks.iter_events(session, STACK_ID, "", sleep=pauses.append)]
    assert found == ["1", "2", "3"]
    assert len(pauses) == 3


def start_of_a_change(stub: Stub) -> None:
    add_proposal(stub, "UPDATE")
    cloud = stub("cloudformation")
    cloud.add_response(
        "describe_stack_events", {"StackEvents": [event(1, "launcher", "CREATE_COMPLETE", of_stack=True)]}
    )
    cloud.add_response("execute_change_set", {}, {"ChangeSetName": CHANGE_SET})
    events = [event(2, "JobRole", "UPDATE_IN_PROGRESS"), event(1, "launcher", "CREATE_COMPLETE", of_stack=True)]
    cloud.add_response("describe_stack_events", {"StackEvents": events})


GOES_ON = "The stack launcher goes on without you; the same command again tells where it is."


def test_who_interrupts_a_change_is_told_that_it_goes_on(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_stack(stub, "CREATE_COMPLETE")
    start_of_a_change(stub)
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), bootstrap.proposed(session, "launcher", {}) as proposal:
        proposal.carry_out(interrupt)
    assert said[1:] == [GOES_ON]


def test_so_is_whose_sign_in_ends_meanwhile(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_stack(stub, "CREATE_COMPLETE")
    start_of_a_change(stub)
    stub("cloudformation").add_client_error("describe_stack_events", "ExpiredToken", "The token is expired", 403)
    with pytest.raises(CredentialsError) as caught, bootstrap.proposed(session, "launcher", {}) as proposal:
        proposal.carry_out()
    assert "Sign in again" in caught.value.hint
    assert GOES_ON in caught.value.hint


def test_so_is_a_teardown_that_loses_its_sign_in(session: Session, stub: Stub) -> None:
    cloud = stub("cloudformation")
    cloud.add_response("describe_stack_events", {"StackEvents": []})
    cloud.add_response("delete_stack", {}, {"StackName": STACK_ID})
    cloud.add_client_error("describe_stack_events", "ExpiredToken", "The token is expired", 403)
    removal = bootstrap.Removal(session, stacks.Stack("launcher", STACK_ID, "CREATE_COMPLETE", OURS, {}, {}))
    with pytest.raises(CredentialsError) as caught:
        removal.carry_out()
    assert GOES_ON in caught.value.hint


def test_who_may_not_look_at_stacks_is_told_of_the_other_way(session: Session, stub: Stub) -> None:
    denied = "ann is not authorized to perform: cloudformation:DescribeStacks"
    stub("cloudformation").add_client_error("describe_stacks", "AccessDenied", denied, 403)
    with pytest.raises(SiteError, match="cloudformation:DescribeStacks") as caught:
        find_site(session, load_recipe(None, {"compute.instance": "ml.g5.xlarge"}))
    assert "Or set compute.role and output.bucket" in caught.value.hint


def test_parameters_that_are_not_given_stay_and_the_region_knows_its_registry() -> None:
    made = bootstrap.make_parameters("training", "eu-south-1", {"Network": "create", "Gone": "x"}, {"Promotion": "yes"})
    assert (made["Network"], made["Promotion"], made["Prefix"]) == ("create", "yes", "launcher")
    assert made["ImageRegistry"] == "692866216735"
    assert "Gone" not in made


def outputs(**values: str) -> list[dict[str, str]]:
    return [{"OutputKey": key, "OutputValue": value} for key, value in values.items()]


def add_schedules(stub: Stub, role: str, status: str = "CREATE_COMPLETE", **parameters: str) -> None:
    made = outputs(GroupName="group", QueueArn="arn:aws:sqs:eu-west-1:111122223333:dead")
    values = {"JobRoleName": role, **parameters}
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
    add_stack(stub, status, "launcher schedule: x", SCHEDULES, Outputs=made, Parameters=given)


def add_training(stub: Stub) -> None:
    add_stack(stub, "CREATE_COMPLETE", Outputs=outputs(RoleName="launcher-JobRole-1", LauncherPolicyArn="arn"))


def test_teardown_takes_the_schedules_that_hang_on_the_role_away_first(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_training(stub)
    add_schedules(stub, "launcher-JobRole-1")
    stub("scheduler").add_response("list_schedules", {"Schedules": [{"Name": "nightly"}]}, {"GroupName": "group"})
    first, second = bootstrap.find_removals(session, "launcher")
    assert (first.stack.name, second.stack.name) == (SCHEDULES, "launcher")
    assert account._removal_words(first) == (
        f"deletes the stack {SCHEDULES} in eu-west-1: role, alarm and group of schedules, and with it 1: nightly; "
        "keeps the queue dead"
    )
    assert (first.kept(), second.kept()) == (["dead"], [])


@pytest.mark.parametrize("there", [True, False])
def test_the_schedules_of_another_stack_stay(session: Session, stub: Stub, there: bool) -> None:
    sign_in(stub)
    add_training(stub)
    if there:
        add_schedules(stub, "other-JobRole-1")
    else:
        add_no_stack(stub, SCHEDULES)
    assert [item.stack.name for item in bootstrap.find_removals(session, "launcher")] == ["launcher"]


@pytest.mark.parametrize(
    ("theirs", "differ"),
    [
        ({"InstanceTypes": "ml.g5.*", "MaxRuntime": "3600"}, False),
        ({"InstanceTypes": "ml.g5.*", "MaxRuntime": "86400"}, True),
        ({"InstanceTypes": "ml.p5.*", "MaxRuntime": "3600"}, True),
        ({}, True),  # of a template that knew no limits
        (None, False),
    ],
)
def test_schedules_that_were_left_with_other_limits_are_noticed(
    session: Session, stub: Stub, theirs: dict[str, str] | None, differ: bool
) -> None:
    limits = {"InstanceTypes": "ml.g5.*", "MaxRuntime": "3600"}
    made = {"RoleName": "launcher-JobRole-1", "TopicArn": "arn:t", "LauncherPolicyArn": "arn"}
    training = stacks.Stack("launcher", STACK_ID, "UPDATE_COMPLETE", OURS, made, limits)
    assert bootstrap.schedule_parameters(training) == {
        "JobRoleName": "launcher-JobRole-1",
        "NoticeTopicArn": "arn:t",
        **limits,
    }
    if theirs is None:
        add_no_stack(stub, SCHEDULES)
    else:
        add_schedules(stub, "launcher-JobRole-1", **theirs)
    assert bootstrap.has_other_limits(session, training) is differ


def test_schedules_that_are_being_changed_hold_the_teardown_up(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_training(stub)
    add_schedules(stub, "launcher-JobRole-1", "UPDATE_IN_PROGRESS")
    with pytest.raises(SiteError, match=f"The stack {SCHEDULES} is being changed"):
        bootstrap.find_removals(session, "launcher")


def test_every_policy_of_a_stack_is_one_to_attach(
    session: Session, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bucket with a key of its own has two: who holds the first alone can upload nothing."""
    policies = {key: f"arn:{key}" for key in ("LauncherPolicyArn", "LauncherKeyPolicyArn", "SchedulesPolicyArn")}
    add_stack(stub, "CREATE_COMPLETE", Outputs=outputs(**policies))
    proposal = bootstrap.Proposal(session, "111122223333", "launcher", stacks.ChangeSet("c", STACK_ID, False))
    account._report(False, proposal, "updated")
    attached = [line.split()[2] for line in capsys.readouterr().err.splitlines() if "-> attach" in line]
    assert attached == list(policies.values())
    templates = [load_template(name)["Outputs"] for name in shipped_templates()]
    assert {key for found in templates for key in found if key.endswith("PolicyArn")} == set(policies)


def test_a_stack_that_was_named_and_is_not_there_is_an_error_with_the_names_that_are(
    session: Session, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        add_no_stack(stub)
        add_schedules(stub, "launcher-JobRole-1")
    named = make_parser().parse_args(["teardown", "--stack-name", "launcher-schedules"])
    with pytest.raises(InputError, match="There is no stack launcher-schedules in eu-west-1") as caught:
        account._say_absent(named, session, "launcher-schedules")
    assert f"`launcher teardown --stack-name {SCHEDULES}`" in caught.value.hint
    account._say_absent(make_parser().parse_args(["teardown"]), session, "launcher")
    said = capsys.readouterr().err
    assert "nothing to delete" in said
    assert f"`launcher teardown --stack-name {SCHEDULES}` deletes what schedules have left there" in said
