"""What bootstrap sees before its question: another stack of the region, and ARNs of another region or account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from botocore.stub import Stubber

from launcher.account import bootstrap
from launcher.aws.session import Session
from launcher.aws.stacks import Change, ChangeSet
from launcher.errors import CloudError, SiteError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STACK_ID = "arn:aws:cloudformation:eu-west-1:111122223333:stack/launcher/1"
CHANGE_SET = "arn:aws:cloudformation:eu-west-1:111122223333:changeSet/c/1"
Stub = Callable[[str], Stubber]


def start(stub: Stub, name: str) -> Stubber:
    """Signed in, and there is no stack of this name."""
    stub("sts").add_response("get_caller_identity", {"Account": "111122223333"}, {})
    cloud = stub("cloudformation")
    cloud.add_client_error("describe_stacks", "ValidationError", f"Stack with id {name} does not exist", 400)
    return cloud


def add_exports(stub: Stub, **values: str) -> None:
    exports = [
        {"ExportingStackId": STACK_ID, "Name": f"launcher-{key}", "Value": value} for key, value in values.items()
    ]
    stub("cloudformation").add_response("list_exports", {"Exports": exports}, {})


def test_a_second_stack_of_a_region_is_refused_before_the_question(session: Session, stub: Stub) -> None:
    """The bucket's name has no room for two."""
    start(stub, "second")
    add_exports(stub, RoleName="x", BucketName="launcher-111122223333-eu-west-1")
    wanted = bootstrap.proposed(session, "second", {})
    with pytest.raises(SiteError, match="has a stack of the launcher's already: launcher") as caught, wanted:
        pass
    assert "`launcher bootstrap --stack-name launcher` changes it" in caught.value.hint


@pytest.mark.parametrize("may_look", [True, False])
def test_exports_of_others_or_unseen_ones_hinder_nothing(session: Session, stub: Stub, may_look: bool) -> None:
    cloud = start(stub, "launcher")
    if may_look:
        add_exports(stub, BucketName="launcher-111122223333-us-east-1", RoleName="launcher-111122223333-eu-west-1")
    else:
        cloud.add_client_error("list_exports", "AccessDenied", "cloudformation:ListExports", 403)
    cloud.add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK_ID}, None)
    made = {"Status": "CREATE_COMPLETE", "Changes": []}
    cloud.add_response("describe_change_set", made, {"ChangeSetName": CHANGE_SET})
    cloud.add_response("delete_change_set", {}, {"ChangeSetName": CHANGE_SET})
    cloud.add_response("delete_stack", {}, {"StackName": STACK_ID})
    with bootstrap.proposed(session, "launcher", {}) as proposal:
        assert not proposal.change_set.nothing_to_do


ARNS = {
    "KmsKeyArn": "arn:aws:kms:us-east-1:111122223333:key/1",
    "HfSecretArn": "arn:aws:secretsmanager:us-east-1:111122223333:secret:hf-AbCdEf",
    "ImageRepositoryArn": "arn:aws:ecr:us-east-1:111122223333:repository/mine",
}


@pytest.mark.parametrize("name", ARNS)
def test_what_lies_in_another_region_is_refused_before_anything_is_asked(session: Session, name: str) -> None:
    wanted = bootstrap.proposed(session, "launcher", {name: ARNS[name]})
    with pytest.raises(SiteError, match="lies in us-east-1, and the stack is to be in eu-west-1") as caught, wanted:
        pass
    assert ARNS[name] in caught.value.message
    here = {name: ARNS[name].replace("us-east-1", "eu-west-1")}
    bootstrap.check_arns(here, "eu-west-1")
    assert bootstrap.list_foreign(here, "111122223333") == []
    (line,) = bootstrap.list_foreign(here, "999999999999")
    assert "belongs to account 111122223333: its own policy must let account 999999999999 in" in line


def test_emptied_parameters_have_no_region() -> None:
    bootstrap.check_arns(dict.fromkeys(ARNS, ""), "eu-west-1")


def test_a_secret_by_its_arn_is_never_to_be_created_by_it(session: Session, stub: Stub) -> None:
    with pytest.raises(SiteError, match="lies in us-east-1, and this is eu-west-1") as caught:
        bootstrap.find_secret(session, ARNS["HfSecretArn"])
    assert "create-secret" not in caught.value.hint
    stub("secretsmanager").add_client_error("describe_secret", "ResourceNotFoundException", "can't find it")
    with pytest.raises(SiteError, match="There is no secret arn:") as caught:
        bootstrap.find_secret(session, ARNS["HfSecretArn"].replace("us-east-1", "eu-west-1"))
    assert "Check the ARN" in caught.value.hint
    assert "create-secret" not in caught.value.hint


TLS_ONLY = '{"Statement": [{"Sid": "TlsOnly", "Effect": "Deny"}]}'
BUCKET = {"Bucket": "launcher-111122223333-eu-west-1"}


def add_end(stub: Stub, status: str) -> None:
    cloud = stub("cloudformation")
    event = {"StackId": STACK_ID, "StackName": "launcher", "LogicalResourceId": "launcher", "Timestamp": NOW}
    event |= {"PhysicalResourceId": STACK_ID, "ResourceType": "AWS::CloudFormation::Stack"}
    start = event | {"EventId": "1", "ResourceStatus": "REVIEW_IN_PROGRESS"}
    cloud.add_response("describe_stack_events", {"StackEvents": [start]})
    cloud.add_response("execute_change_set", {}, {"ChangeSetName": CHANGE_SET})
    end = event | {"EventId": "2", "ResourceStatus": status}
    cloud.add_response("describe_stack_events", {"StackEvents": [end, start]})


def take_up(session: Session, bucket: str = "import") -> bootstrap.Proposal:
    changes = (Change(bucket, "Bucket", "AWS::S3::Bucket", "no"), Change("add", "BucketPolicy", "x", "no"))
    change_set = ChangeSet(CHANGE_SET, STACK_ID, True, changes)
    return bootstrap.Proposal(session, "111122223333", "launcher", change_set)


def test_a_bucket_is_taken_up_again_without_the_policy_that_it_was_left_with(session: Session, stub: Stub) -> None:
    """CloudFormation answers that the policy exists already, and rolls everything back."""
    s3 = stub("s3")
    s3.add_response("get_bucket_policy", {"Policy": TLS_ONLY}, BUCKET)
    s3.add_response("delete_bucket_policy", {}, BUCKET)
    add_end(stub, "IMPORT_COMPLETE")
    stack = {"StackName": "launcher", "StackId": STACK_ID, "StackStatus": "CREATE_COMPLETE", "CreationTime": NOW}
    stub("cloudformation").add_response("describe_stacks", {"Stacks": [stack]})
    assert take_up(session).carry_out().name == "launcher"


def test_it_gets_its_policy_back_where_the_stack_failed(session: Session, stub: Stub) -> None:
    s3 = stub("s3")
    s3.add_response("get_bucket_policy", {"Policy": TLS_ONLY}, BUCKET)
    s3.add_response("delete_bucket_policy", {}, BUCKET)
    s3.add_response("put_bucket_policy", {}, {**BUCKET, "Policy": TLS_ONLY})
    add_end(stub, "ROLLBACK_COMPLETE")
    with pytest.raises(CloudError, match="ROLLBACK_COMPLETE"):
        take_up(session).carry_out()


def test_so_does_one_whose_stack_was_never_started(session: Session, stub: Stub) -> None:
    s3, cloud = stub("s3"), stub("cloudformation")
    s3.add_response("get_bucket_policy", {"Policy": TLS_ONLY}, BUCKET)
    s3.add_response("delete_bucket_policy", {}, BUCKET)
    s3.add_response("put_bucket_policy", {}, {**BUCKET, "Policy": TLS_ONLY})
    cloud.add_response("describe_stack_events", {"StackEvents": []})
    cloud.add_client_error("execute_change_set", "AccessDenied", "cloudformation:ExecuteChangeSet", 403)
    with pytest.raises(SiteError, match="ExecuteChangeSet"):
        take_up(session).carry_out()


def test_a_policy_of_somebody_else_is_left_alone(session: Session, stub: Stub) -> None:
    stub("s3").add_response("get_bucket_policy", {"Policy": TLS_ONLY.replace("TlsOnly", "Theirs")}, BUCKET)
    with pytest.raises(SiteError, match="has a policy that is not the launcher's") as caught:
        take_up(session).carry_out()
    assert "delete-bucket-policy" in caught.value.hint


def test_a_bucket_without_a_policy_and_a_new_one_have_none_to_lift(session: Session, stub: Stub) -> None:
    stub("s3").add_client_error("get_bucket_policy", "NoSuchBucketPolicy", "", 404)
    assert take_up(session)._lift_policy() == ""
    assert take_up(session, bucket="add")._lift_policy() == ""
