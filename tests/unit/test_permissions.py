"""The template's policies, proved by evaluation: calls that have to be allowed, and calls that must not be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from launcher.account.templates import load_template


def load(name: str) -> ModuleType:
    path = Path(__file__).parent / "iam" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"iam_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


evaluator, deployed = load("evaluator"), load("deployed")

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"
SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hf-AbCdEf"
OWN_IMAGES = "arn:aws:ecr:eu-west-1:111122223333:repository/mine"
FULL = {
    "KmsKeyArn": KEY,
    "HfSecretArn": SECRET,
    "ImageRepositoryArn": OWN_IMAGES,
    "Network": "create",
    "Promotion": "yes",
    "MaxRuntime": "3600",
    "InstanceTypes": "ml.g5.xlarge",
    "Prefix": "team/a",
}
PLAIN_SITE = deployed.Deployed(load_template("training"))
FULL_SITE = deployed.Deployed(load_template("training"), **FULL)

SCHEDULES = deployed.Deployed(
    load_template("schedule"), JobRoleName="launcher-JobRole", NoticeTopicArn=PLAIN_SITE.outputs["TopicArn"]
)
TIGHT_SCHEDULES = deployed.Deployed(
    load_template("schedule"), JobRoleName="launcher-JobRole", InstanceTypes="ml.g5.xlarge", MaxRuntime="3600"
)

B = "arn:aws:s3:::launcher-111122223333-eu-west-1"
JOB = "arn:aws:sagemaker:eu-west-1:111122223333:training-job/my-run-20260101-120000"
ROLE = "arn:aws:iam::111122223333:role/launcher-JobRole"
LOGS = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/sagemaker/TrainingJobs"
IMAGES = "arn:aws:ecr:eu-west-1:763104351884:repository/huggingface-pytorch-training"
STACK = "arn:aws:cloudformation:eu-west-1:111122223333:stack/launcher/*"  # as AWS evaluates a stack asked by name
SSO = "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_Training_0123456789abcdef"
ENI = "arn:aws:ec2:eu-west-1:111122223333:network-interface/eni-1"
Context = dict[str, Any]


def start(*types: str, limit: int = 3600) -> Context:
    return {"sagemaker:InstanceTypes": list(types), "sagemaker:MaxRuntimeInSeconds": str(limit)}


PEOPLE: list[tuple[str, str, Context, bool]] = [
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge"), True),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", "ml.g6e.xlarge"), True),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", limit=86400), True),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", limit=86401), False),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.p5.48xlarge"), False),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", "ml.p5.48xlarge"), False),
    ("sagemaker:CreateTrainingJob", JOB, {"sagemaker:MaxRuntimeInSeconds": "60"}, False),
    ("sagemaker:CreateTrainingJob", JOB, {"sagemaker:InstanceTypes": ["ml.g5.xlarge"]}, False),
    ("sagemaker:CreateTrainingJob", JOB.replace("eu-west-1", "us-east-1"), start("ml.g5.xlarge"), False),
    ("sagemaker:CreateProcessingJob", JOB.replace("training", "processing"), start("ml.g5.xlarge"), False),
    ("sagemaker:AddTags", JOB, {"sagemaker:TaggingAction": "CreateTrainingJob"}, True),
    ("sagemaker:AddTags", JOB, {}, False),  # a tag put on later would make any job one that may be stopped
    ("sagemaker:DescribeTrainingJob", JOB, {}, True),
    ("sagemaker:ListTrainingJobs", "*", {}, True),
    ("sagemaker:StopTrainingJob", JOB, {"aws:ResourceTag/launcher:run": "my-run"}, True),
    ("sagemaker:StopTrainingJob", JOB, {"aws:ResourceTag/team": "other"}, False),
    ("sagemaker:CreateEndpoint", "*", {}, False),
    ("iam:PassRole", ROLE, {"iam:PassedToService": "sagemaker.amazonaws.com"}, True),
    ("iam:PassRole", ROLE, {"iam:PassedToService": "ec2.amazonaws.com"}, False),
    ("iam:PassRole", ROLE, {}, False),
    ("iam:PassRole", "arn:aws:iam::111122223333:role/admin", {"iam:PassedToService": "sagemaker.amazonaws.com"}, False),
    ("iam:GetRole", ROLE, {}, True),
    ("iam:SimulatePrincipalPolicy", ROLE, {}, True),
    ("iam:SimulatePrincipalPolicy", "arn:aws:iam::111122223333:user/ann", {"aws:username": "ann"}, True),
    ("iam:SimulatePrincipalPolicy", "arn:aws:iam::111122223333:user/bob", {"aws:username": "ann"}, False),
    ("iam:GetRole", SSO, {}, True),  # whose path nobody can guess, and a simulation needs it
    ("iam:SimulatePrincipalPolicy", SSO, {}, True),
    ("iam:GetRole", "arn:aws:iam::111122223333:role/admin", {}, False),
    ("iam:PutRolePolicy", ROLE, {}, False),
    ("iam:UpdateAssumeRolePolicy", ROLE, {}, False),
    ("sts:AssumeRole", ROLE, {}, False),
    ("s3:PutObject", f"{B}/launcher/source/abc/sourcedir.tar.gz", {}, True),
    ("s3:PutObject", f"{B}/launcher/data/train/abc/train.jsonl", {}, True),
    ("s3:PutObject", f"{B}/launcher/runs/my-run/after-nothing.json", {}, True),
    ("s3:PutObject", f"{B}/launcher/current/my-recipe/train.manifest", {}, True),
    ("s3:PutObject", f"{B}/launcher/champions/my-recipe/champion.manifest", {}, True),
    ("s3:PutObject", f"{B}/launcher/models/qwen/config.json", {}, True),  # model.s3, for jobs without a network
    ("s3:PutObject", f"{B}/launcher/output/my-run/output/model.tar.gz", {}, False),
    ("s3:PutObject", f"{B}/launcher/checkpoints/my-run/x/state", {}, False),
    ("s3:PutObject", f"{B}/other/data/x", {}, False),
    ("s3:PutObject", "arn:aws:s3:::somebody-elses/launcher/data/x", {}, False),
    ("s3:GetObject", f"{B}/launcher/output/my-run/output/model.tar.gz", {}, True),
    ("s3:GetObject", f"{B}/other/x", {}, False),
    ("s3:DeleteObject", f"{B}/launcher/runs/my-run/after-nothing.json", {}, True),
    ("s3:DeleteObject", f"{B}/launcher/output/my-run/output/model.tar.gz", {}, False),
    ("s3:DeleteObjectVersion", f"{B}/launcher/runs/my-run/after-nothing.json", {}, False),
    ("s3:ListBucket", B, {"s3:prefix": "launcher/checkpoints/my-run/"}, True),
    ("s3:ListBucket", B, {}, True),  # a HEAD for an object that is not there, which is to be answered 404
    ("s3:ListBucket", B, {"s3:prefix": "other/"}, False),
    ("s3:GetBucketLocation", B, {}, True),
    ("s3:GetEncryptionConfiguration", B, {}, True),
    ("s3:PutBucketPolicy", B, {}, False),
    ("s3:DeleteBucket", B, {}, False),
    ("logs:GetLogEvents", f"{LOGS}:log-stream:my-run/algo-1", {}, True),
    ("logs:GetLogEvents", f"{LOGS.replace('TrainingJobs', 'Endpoints')}:log-stream:x", {}, False),
    ("logs:DeleteLogGroup", LOGS, {}, False),
    ("cloudformation:DescribeStacks", STACK, {}, True),
    ("cloudformation:DescribeStacks", STACK.replace("/launcher/", "/other/"), {}, False),
    ("cloudformation:UpdateStack", STACK, {}, False),
    ("pricing:GetProducts", "*", {}, True),
    ("servicequotas:ListServiceQuotas", "*", {}, True),
    ("servicequotas:RequestServiceQuotaIncrease", "*", {}, False),
    ("ecr:DescribeImages", IMAGES, {}, True),
    ("secretsmanager:DescribeSecret", SECRET, {}, False),
    ("secretsmanager:GetSecretValue", SECRET, {}, False),
]
JOBS: list[tuple[str, str, Context, bool]] = [
    ("s3:GetObject", f"{B}/launcher/source/abc/sourcedir.tar.gz", {}, True),
    ("s3:GetObject", f"{B}/launcher/current/my-recipe/train.manifest", {}, True),
    ("s3:GetObject", f"{B}/launcher/champions/my-recipe/champion.manifest", {}, True),
    ("s3:GetObject", f"{B}/launcher/models/qwen/config.json", {}, True),
    ("s3:PutObject", f"{B}/launcher/models/qwen/config.json", {}, False),
    ("s3:GetObject", f"{B}/launcherx/data/train", {}, False),
    ("s3:GetObject", "arn:aws:s3:::somebody-elses/launcher/data/x", {}, False),
    ("s3:PutObject", f"{B}/launcher/output/my-run/output/model.tar.gz", {}, True),
    ("s3:PutObject", f"{B}/launcher/checkpoints/my-run/x/state", {}, True),
    ("s3:PutObject", f"{B}/launcher/data/train/abc/train.jsonl", {}, False),
    ("s3:PutObject", f"{B}/launcher/source/abc/sourcedir.tar.gz", {}, False),
    ("s3:PutObject", f"{B}/launcher/champions/my-recipe/champion.manifest", {}, False),
    ("s3:AbortMultipartUpload", f"{B}/launcher/output/my-run/output/model.tar.gz", {}, True),
    ("s3:DeleteObject", f"{B}/launcher/checkpoints/my-run/x/state", {}, True),
    ("s3:DeleteObject", f"{B}/launcher/output/my-run/output/model.tar.gz", {}, False),
    ("s3:DeleteObject", f"{B}/launcher/data/train/abc/train.jsonl", {}, False),
    ("s3:ListBucket", B, {"s3:prefix": "launcher/data/train/abc/"}, True),
    ("s3:ListBucket", B, {"s3:prefix": "other/"}, False),
    ("s3:PutBucketVersioning", B, {}, False),
    ("logs:PutLogEvents", f"{LOGS}:log-stream:my-run/algo-1", {}, True),
    ("logs:CreateLogGroup", LOGS, {}, True),
    ("logs:PutLogEvents", f"{LOGS.replace('TrainingJobs', 'Endpoints')}:log-stream:x", {}, False),
    ("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "/aws/sagemaker/TrainingJobs"}, True),
    ("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "AWS/Billing"}, False),
    ("ecr:GetAuthorizationToken", "*", {}, True),
    ("ecr:BatchGetImage", IMAGES, {}, True),
    ("ecr:BatchGetImage", OWN_IMAGES, {}, False),
    ("ecr:PutImage", IMAGES, {}, False),
    ("secretsmanager:GetSecretValue", SECRET, {}, False),
    ("kms:Decrypt", KEY, {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}, False),
    ("ec2:CreateNetworkInterface", ENI, {}, False),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge"), False),
    ("iam:PassRole", ROLE, {"iam:PassedToService": "sagemaker.amazonaws.com"}, False),
]
T = "team/a"
FULL_JOBS: list[tuple[str, str, Context, bool]] = [
    ("s3:GetObject", f"{B}/{T}/source/abc/sourcedir.tar.gz", {}, True),
    ("s3:GetObject", f"{B}/team/b/source/abc/sourcedir.tar.gz", {}, False),
    ("s3:PutObject", f"{B}/{T}/champions/my-recipe/champion.manifest", {}, True),
    ("s3:PutObject", f"{B}/{T}/champions/my-recipe/other.json", {}, True),
    ("s3:DeleteObject", f"{B}/{T}/champions/my-recipe/champion.manifest", {}, False),
    ("s3:PutObject", f"{B}/{T}/current/my-recipe/train.manifest", {}, False),
    ("secretsmanager:GetSecretValue", SECRET, {}, True),
    ("secretsmanager:GetSecretValue", SECRET.replace("hf", "other"), {}, False),
    ("secretsmanager:PutSecretValue", SECRET, {}, False),
    ("kms:Decrypt", KEY, {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}, True),
    ("kms:Decrypt", KEY, {}, False),
    ("kms:Decrypt", KEY.replace("key/1", "key/2"), {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}, False),
    ("kms:CreateGrant", KEY, {"kms:GrantIsForAWSResource": "true"}, True),
    ("kms:CreateGrant", KEY, {"kms:GrantIsForAWSResource": "false"}, False),
    ("ec2:CreateNetworkInterface", ENI, {}, True),
    ("ec2:DescribeSubnets", "*", {}, True),
    ("ec2:RunInstances", ENI, {}, False),
    ("ecr:BatchGetImage", OWN_IMAGES, {}, True),
]
FULL_PEOPLE: list[tuple[str, str, Context, bool]] = [
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge"), True),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.2xlarge"), False),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", limit=3601), False),
    ("s3:PutObject", f"{B}/{T}/data/train/abc/train.jsonl", {}, True),
    ("s3:PutObject", f"{B}/launcher/data/train/abc/train.jsonl", {}, False),
    ("secretsmanager:DescribeSecret", SECRET, {}, True),
    ("secretsmanager:DescribeSecret", SECRET.replace("hf", "other"), {}, False),
    ("secretsmanager:GetSecretValue", SECRET, {}, False),
]
SCHEDULER: list[tuple[str, str, Context, bool]] = [
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", limit=86400), True),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", "ml.g6e.xlarge"), True),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.p5.48xlarge"), False),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", "ml.p5.48xlarge"), False),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", limit=2419200), False),
    ("sagemaker:CreateTrainingJob", JOB, {"sagemaker:MaxRuntimeInSeconds": "60"}, False),
    ("sagemaker:CreateTrainingJob", JOB, {"sagemaker:InstanceTypes": ["ml.g5.xlarge"]}, False),
    ("sagemaker:AddTags", JOB, {"sagemaker:TaggingAction": "CreateTrainingJob"}, True),
    ("sagemaker:AddTags", JOB, {}, False),
    ("sagemaker:StopTrainingJob", JOB, {"aws:ResourceTag/launcher:run": "my-run"}, False),
    ("iam:PassRole", ROLE, {"iam:PassedToService": "sagemaker.amazonaws.com"}, True),
    ("iam:PassRole", ROLE.replace("JobRole", "Other"), {"iam:PassedToService": "sagemaker.amazonaws.com"}, False),
]
TIGHT_SCHEDULER: list[tuple[str, str, Context, bool]] = [
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", limit=3600), True),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.xlarge", limit=3601), False),
    ("sagemaker:CreateTrainingJob", JOB, start("ml.g5.2xlarge", limit=3600), False),
]
ROWS = [
    *(("people", PLAIN_SITE.statements("LauncherPolicy"), *row) for row in PEOPLE),
    *(("people, all options", FULL_SITE.statements("LauncherPolicy"), *row) for row in FULL_PEOPLE),
    *(("job", PLAIN_SITE.statements_of_role("JobRole"), *row) for row in JOBS),
    *(("scheduler", SCHEDULES.statements_of_role("SchedulerRole"), *row) for row in SCHEDULER),
    *(("scheduler, tight", TIGHT_SCHEDULES.statements_of_role("SchedulerRole"), *row) for row in TIGHT_SCHEDULER),
    *(("job, all options", FULL_SITE.statements_of_role("JobRole"), *row) for row in FULL_JOBS),
]


@pytest.mark.parametrize(
    ("statements", "action", "resource", "context", "allowed"),
    [row[1:] for row in ROWS],
    ids=[f"{row[0]}-{row[2]}-{'allowed' if row[5] else 'denied'}-{number}" for number, row in enumerate(ROWS)],
)
def test_call(statements: Any, action: str, resource: str, context: Context, allowed: bool) -> None:
    found = evaluator.decide(statements, evaluator.Request(action, resource, context))
    assert found == ("allow" if allowed else "nothing")


OURS = {"aws:SourceAccount": deployed.ACCOUNT, "aws:SourceArn": JOB}


@pytest.mark.parametrize(
    ("principal", "context", "allowed"),
    [
        ("sagemaker.amazonaws.com", OURS, True),
        ("sagemaker.amazonaws.com", {}, False),
        ("sagemaker.amazonaws.com", OURS | {"aws:SourceAccount": "999999999999"}, False),
        ("sagemaker.amazonaws.com", OURS | {"aws:SourceArn": JOB.replace("training-job", "processing-job")}, False),
        ("sagemaker.amazonaws.com", OURS | {"aws:SourceArn": JOB.replace("111122223333", "999999999999")}, False),
        ("sagemaker.amazonaws.com", OURS | {"aws:SourceArn": JOB.replace("eu-west-1", "us-east-1")}, False),
        ("ec2.amazonaws.com", OURS, False),
    ],
)
def test_only_training_jobs_of_this_account_and_region_get_the_role(
    principal: str, context: Context, allowed: bool
) -> None:
    trust = PLAIN_SITE.statements("JobRole", "AssumeRolePolicyDocument")
    found = evaluator.decide(trust, evaluator.Request("sts:AssumeRole", ROLE, context, principal))
    assert found == ("allow" if allowed else "nothing")


@pytest.mark.parametrize(
    ("action", "resource", "tls", "expected"),
    [
        ("s3:GetObject", f"{B}/launcher/data/x", "false", "deny"),
        ("s3:PutObject", f"{B}/launcher/data/x", "false", "deny"),
        ("s3:ListBucket", B, "false", "deny"),
        ("s3:GetObject", f"{B}/launcher/data/x", "true", "nothing"),
        ("s3:ListBucket", B, "true", "nothing"),
    ],
)
def test_the_bucket_refuses_everything_without_tls_and_grants_nothing(
    action: str, resource: str, tls: str, expected: str
) -> None:
    request = evaluator.Request(action, resource, {"aws:SecureTransport": tls}, "anybody")
    assert evaluator.decide(PLAIN_SITE.statements("BucketPolicy"), request) == expected


@pytest.mark.parametrize(
    ("principal", "rule", "allowed"),
    [
        ("events.amazonaws.com", "launcher-FailedJobs", True),
        ("events.amazonaws.com", "somebody-elses", False),
        ("s3.amazonaws.com", "launcher-FailedJobs", False),
    ],
)
def test_only_our_rule_may_write_to_the_topic(principal: str, rule: str, allowed: bool) -> None:
    source = f"arn:aws:events:eu-west-1:111122223333:rule/{rule}"
    topic = PLAIN_SITE.outputs["TopicArn"]
    request = evaluator.Request("sns:Publish", topic, {"aws:SourceArn": source}, principal)
    found = evaluator.decide(PLAIN_SITE.statements("FailuresPolicy"), request)
    assert found == ("allow" if allowed else "nothing")


def test_the_vpcs_way_to_s3_ends_at_buckets_of_the_account() -> None:
    statements = FULL_SITE.statements("S3Endpoint")
    own = evaluator.Request("s3:PutObject", f"{B}/team/a/output/x", {"aws:ResourceAccount": deployed.ACCOUNT}, "job")
    foreign = evaluator.Request("s3:PutObject", "arn:aws:s3:::other/x", {"aws:ResourceAccount": "999999999999"}, "job")
    assert evaluator.decide(statements, own) == "allow"
    assert evaluator.decide(statements, foreign) == "nothing"
