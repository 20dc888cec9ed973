"""The CloudFormation templates: AWS's own linter, and what we want of them whatever a deploy says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from launcher.account.bootstrap import TLS_ONLY, make_text
from launcher.account.templates import (
    find_grants,
    load_template,
    parse_template,
    shipped_templates,
    template_folder,
    template_text,
)

# A check that is left out stands here with its reason.
SKIPPED_LINTS: dict[str, str] = {}
MANAGED_POLICY_LIMIT = 6144  # characters without spaces
TEMPLATE_LIMIT = 51_200  # bytes of a template that travels in the request


@pytest.fixture(scope="module")
def training() -> dict[str, Any]:
    return load_template("training")


def properties(template: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"][name]["Properties"]
    return found


def test_the_templates_ship() -> None:
    assert "training" in shipped_templates()


def test_the_linter_finds_nothing() -> None:
    pytest.importorskip("cfnlint", reason="the dev extra has cfn-lint")
    files = [str(path) for path in sorted(template_folder().glob("*.yaml"))]
    program = "import sys; from cfnlint.runner import main; sys.exit(main())"
    options = [word for code in SKIPPED_LINTS for word in ("--ignore-checks", code)]
    words = [sys.executable, "-c", program, *options, "--template", *files]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", shipped_templates())
def test_a_template_fits_into_a_request(name: str) -> None:
    assert len((template_folder() / f"{name}.yaml").read_bytes()) < TEMPLATE_LIMIT


def test_policies_for_people_fit_into_a_managed_policy(training: dict[str, Any]) -> None:
    text = json.dumps(properties(training, "LauncherPolicy")["PolicyDocument"], separators=(",", ":"))
    assert len(text) < MANAGED_POLICY_LIMIT * 0.9  # names of resources grow when they are filled in, by a little


def test_the_bucket_is_closed_encrypted_and_versioned(training: dict[str, Any]) -> None:
    bucket = properties(training, "Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["BucketKeyEnabled"] is True
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"


def test_the_bucket_outlives_its_stack_and_can_be_taken_up_again(training: dict[str, Any]) -> None:
    bucket = training["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"
    assert bucket["Properties"]["BucketName"]  # only a named resource can be imported
    policy = training["Resources"]["BucketPolicy"]  # what is left behind stays as closed as it was
    assert policy["DeletionPolicy"] == "RetainExceptOnCreate"
    assert [statement["Sid"] for statement in policy["Properties"]["PolicyDocument"]["Statement"]] == [TLS_ONLY]


def test_the_bucket_is_sent_by_its_plain_name() -> None:
    """CloudFormation imports resources with static names alone; no other part of a template is touched."""
    text = make_text("training", "111122223333", "eu-west-1")
    sent, shipped = parse_template(text), load_template("training")
    assert sent["Resources"]["Bucket"]["Properties"].pop("BucketName") == "launcher-111122223333-eu-west-1"
    assert shipped["Resources"]["Bucket"]["Properties"].pop("BucketName") == {
        "Fn::Sub": "launcher-${AWS::AccountId}-${AWS::Region}"
    }
    assert sent == shipped
    assert make_text("schedule", "111122223333", "eu-west-1") == template_text("schedule")


def test_what_is_old_expires(training: dict[str, Any]) -> None:
    rules = {rule["Id"]: rule for rule in properties(training, "Bucket")["LifecycleConfiguration"]["Rules"]}
    assert all(rule["Status"] == "Enabled" for rule in rules.values())
    assert rules["unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 3}
    assert rules["old-versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"] == {"Ref": "OldVersionDays"}
    assert rules["checkpoints"]["ExpirationInDays"] == {"Ref": "CheckpointDays"}
    assert rules["checkpoints"]["Prefix"] == {"Fn::Sub": "${Prefix}/checkpoints/"}
    expiring = [name for name, rule in rules.items() if "ExpirationInDays" in rule]
    assert expiring == ["checkpoints"]  # adapters and data never go by themselves


def test_notices_are_of_our_failed_and_stopped_jobs_only(training: dict[str, Any]) -> None:
    rule = properties(training, "FailedJobs")
    detail = rule["EventPattern"]["detail"]
    assert detail["TrainingJobStatus"] == ["Failed", "Stopped"]
    assert detail["RoleArn"] == [{"Fn::GetAtt": ["JobRole", "Arn"]}]
    (target,) = rule["Targets"]
    assert target["Arn"] == {"Ref": "Failures"}
    assert "RoleArn" not in target  # EventBridge delivers to a topic by the topic's policy


def test_without_being_asked_for_there_is_no_vpc_promotion_secret_or_key(training: dict[str, Any]) -> None:
    defaults = {name: about["Default"] for name, about in training["Parameters"].items()}
    assert (defaults["Network"], defaults["Promotion"]) == ("none", "no")
    assert (defaults["HfSecretArn"], defaults["KmsKeyArn"]) == ("", "")
    optional = {name: item["Condition"] for name, item in training["Resources"].items() if "Condition" in item}
    network = {name for name, item in training["Resources"].items() if item["Type"].startswith("AWS::EC2::")}
    assert {name for name, condition in optional.items() if condition == "MakesVpc"} == network


def test_the_vpc_has_no_way_to_the_internet(training: dict[str, Any]) -> None:
    kinds = [item["Type"] for item in training["Resources"].values()]
    assert not {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route"} & set(kinds)
    assert not properties(training, "SubnetA")["MapPublicIpOnLaunch"]
    assert properties(training, "S3Endpoint")["VpcEndpointType"] == "Gateway"


def test_other_stacks_can_import_what_they_need(training: dict[str, Any]) -> None:
    exported = {name for name, output in training["Outputs"].items() if "Export" in output}
    assert {"BucketName", "RoleArn", "RoleName", "Prefix", "TopicArn", "KmsKeyArn"} <= exported


def test_no_statement_allows_everything() -> None:
    for name in shipped_templates():
        for grant in find_grants(name):
            if grant.effect == "Allow" and grant.who != "anybody":
                assert not [action for action in grant.actions if "*" in action], grant
                assert grant.resources != ("*",) or not [action for action in grant.actions if "iam:" in action], grant


def test_a_table_shows_every_statement_once(training: dict[str, Any]) -> None:
    grants = find_grants("training")
    secret = [grant for grant in grants if "secretsmanager:GetSecretValue" in grant.actions]
    assert [(grant.who, grant.resources, grant.only_if) for grant in secret] == [
        ("JobRole", ("${HfSecretArn}",), "HasSecret")
    ]
    (look,) = [grant for grant in grants if "secretsmanager:DescribeSecret" in grant.actions]
    assert (look.who, look.only_if) == ("LauncherPolicy", "")
    assert look.resources[0].startswith("${HfSecretArn} (if HasSecret, else arn:")
    documents = [
        document
        for item in training["Resources"].values()
        for key in ("AssumeRolePolicyDocument", "PolicyDocument")
        if (document := item["Properties"].get(key))
    ] + [policy["PolicyDocument"] for policy in properties(training, "JobRole")["Policies"]]
    assert len(grants) == sum(len(document["Statement"]) for document in documents)


def test_conditional_parts_of_other_templates_are_shown_with_their_condition() -> None:
    text = '{Statement: !If [Is, !GetAtt A.Arn, !Ref "AWS::NoValue"], Out: !Join [",", [a, !Sub "${B}"]]}'
    assert parse_template(text) == {
        "Statement": {"Fn::If": ["Is", {"Fn::GetAtt": ["A", "Arn"]}, {"Ref": "AWS::NoValue"}]},
        "Out": {"Fn::Join": [",", ["a", {"Fn::Sub": "${B}"}]]},
    }
