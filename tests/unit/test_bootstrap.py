"""What bootstrap says when AWS is in no state for it; AWS's answers are botocore's Stubber's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from launcher import bootstrap
from launcher.aws import stacks
from launcher.aws.session import Session
from launcher.aws.site import find_site
from launcher.cli import main
from launcher.errors import CloudError, CredentialsError, SiteError
from launcher.recipe import load_recipe

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STACK_ID = "arn:aws:cloudformation:eu-west-1:111122223333:stack/launcher/1"
CHANGE_SET = "arn:aws:cloudformation:eu-west-1:111122223333:changeSet/c/1"
OURS = "launcher training: bucket and more"
Stub = Callable[[str], Stubber]


@pytest.fixture
def session() -> Session:
    # an address makes the polls short; nothing is sent to it
    return Session("aws", "eu-west-1", "http://127.0.0.1:9", ("key", "secret"))


@pytest.fixture
def stub(session: Session) -> Iterator[Stub]:
    made: dict[str, Stubber] = {}

    def make(service: str) -> Stubber:
        if service not in made:
            made[service] = Stubber(session.client(service))
            made[service].activate()
        return made[service]

    yield make
    for stubber in made.values():
        stubber.assert_no_pending_responses()


def sign_in(stub: Stub) -> None:
    stub("sts").add_response("get_caller_identity", {"Account": "111122223333"}, {})


def add_stack(stub: Stub, status: str, description: str = OURS, **more: Any) -> None:
    stack = {"StackName": "launcher", "StackId": STACK_ID, "StackStatus": status, "CreationTime": NOW, **more}
    found = {"Stacks": [stack | ({"Description": description} if description else {})]}
    stub("cloudformation").add_response("describe_stacks", found, {"StackName": "launcher"})


def add_no_stack(stub: Stub) -> None:
    stub("cloudformation").add_client_error(
        "describe_stacks", "ValidationError", "Stack with id launcher does not exist", 400
    )


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
    add_proposal(stub, "CREATE")
    add_discard(stub, is_new=True)
    with bootstrap.proposed(session, "launcher", {}) as proposal:
        assert [(change.action, change.resource) for change in proposal.changes] == [("add", "JobRole")]


def test_so_does_one_that_is_interrupted(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_no_stack(stub)
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
    add_proposal(stub, "CREATE", "FAILED", "Bucket already exists")
    add_discard(stub, is_new=True)
    with pytest.raises(CloudError, match="Bucket already exists"), bootstrap.proposed(session, "launcher", {}):
        pass


def test_a_failed_stack_is_explained_by_its_first_failure(session: Session, stub: Stub) -> None:
    sign_in(stub)
    add_no_stack(stub)
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
