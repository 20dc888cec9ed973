"""An account for tests to ask: the training stack is deployed in it, and every call is held against a policy of it."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from launcher.account.templates import load_template


def load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"account_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


evaluator, deployed = load("evaluator"), load("deployed")
G5, G6 = "ml.g5.xlarge", "ml.g6.xlarge"
ACCOUNT, REGION = deployed.ACCOUNT, deployed.REGION
BUCKET = f"launcher-{ACCOUNT}-{REGION}"
IAM = f"arn:aws:iam::{ACCOUNT}"
JOB_ROLE = f"{IAM}:role/launcher-JobRole"
SSO = "AWSReservedSSO_Training_0123456789abcdef"
ROLES = {
    "launcher-JobRole": JOB_ROLE,
    SSO: f"{IAM}:role/aws-reserved/sso.amazonaws.com/{REGION}/{SSO}",
    "trainers": f"{IAM}:role/trainers",
}
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:hub-AbCdEf"
TRUST = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
STACK_ARN = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack"
SERVICES = ("sts", "iam", "s3", "service-quotas", "ecr", "pricing", "secretsmanager", "cloudformation")
USES = {"training": "training job", "spot": "spot training job", "warm pool": "training warm pool"}
# What AWS holds a call against, where it is not the call's own name.
ACTIONS = {
    "HeadBucket": "s3:ListBucket",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
}


class Answered(NamedTuple):
    """botocore looks at the status, and at nothing else."""

    status_code: int


class Refused(Exception):
    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(code)
        self.answer = (Answered(status), {"Error": {"Code": code, "Message": text}})


class Account:
    """The training stack, deployed, and somebody signed in who holds its LauncherPolicy."""

    def __init__(self, clients: dict[str, Any]) -> None:
        self.clients = clients
        self.arn = f"{IAM}:user/ann"
        self.secrets: dict[str, dict[str, Any]] = {}
        self.quotas = {f"{name} for {use} usage": 0.0 for name in (G5, G6) for use in USES.values()}
        self.set_quota(training=1)
        self.bucket_region = REGION
        self.has_stack = True
        self.silent: set[str] = set()
        self._asked = threading.local()
        self.deploy()

    def deploy(self, **parameters: str) -> None:
        self.site = deployed.Deployed(load_template("training"), **parameters)
        self.own = self.site.statements("LauncherPolicy")

    def set_quota(self, instance: str = G5, **values: float) -> None:
        self.quotas |= {f"{instance} for {USES[use.replace('_', ' ')]} usage": value for use, value in values.items()}

    def make(self, service: str, region: str) -> Any:
        return self.clients["silent " + service if service in self.silent else service]

    def note(self, params: dict[str, Any], **_: Any) -> None:
        self._asked.params = params

    def answer(self, model: Any, **_: Any) -> tuple[Answered, dict[str, Any]]:
        """As AWS: whether the caller may ask comes first."""
        asked = self._asked.params
        try:
            if model.name != "GetCallerIdentity":
                self._authorize(model, asked)
            return Answered(200), getattr(self, f"on_{model.name}")(asked)
        except Refused as refused:
            return refused.answer  # type: ignore[no-any-return]

    def _authorize(self, model: Any, asked: dict[str, Any]) -> None:
        action = ACTIONS.get(model.name, f"{model.service_model.signing_name}:{model.name}")
        request = evaluator.Request(action, self._resource(asked), {"aws:username": "ann"})
        if evaluator.decide(self.own, request) != "allow":
            raise Refused(403, "AccessDenied", f"not authorized to perform: {action} on {request.resource}")

    def _resource(self, asked: dict[str, Any]) -> str:
        if "RoleName" in asked:
            return ROLES[asked["RoleName"]]
        if "StackName" in asked:
            return f"{STACK_ARN}/{asked['StackName']}/*"
        if "registryId" in asked:
            return f"arn:aws:ecr:{REGION}:{asked['registryId']}:repository/{asked['repositoryName']}"
        if "SecretId" in asked:
            return str(self.secrets.get(asked["SecretId"], {}).get("ARN", SECRET.replace("hub-AbCdEf", "?")))
        return asked.get("PolicySourceArn") or (f"arn:aws:s3:::{asked['Bucket']}" if "Bucket" in asked else "*")

    def on_GetCallerIdentity(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Account": ACCOUNT, "Arn": self.arn, "UserId": "x"}

    def on_GetRole(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Role": {"Arn": self._resource(asked), "AssumeRolePolicyDocument": json.dumps({"Statement": TRUST})}}

    def on_SimulatePrincipalPolicy(self, asked: dict[str, Any]) -> dict[str, Any]:
        is_job = asked["PolicySourceArn"] == JOB_ROLE
        statements = self.site.statements_of_role("JobRole") if is_job else self.own
        context = {
            entry["ContextKeyName"]: entry["ContextKeyValues"]
            if entry["ContextKeyType"].endswith("List")
            else entry["ContextKeyValues"][0]
            for entry in asked["ContextEntries"]
        }
        (resource,) = asked["ResourceArns"]
        found = [
            (action, evaluator.decide(statements, evaluator.Request(action, resource, context)))
            for action in asked["ActionNames"]
        ]
        words = {"allow": "allowed", "deny": "explicitDeny", "nothing": "implicitDeny"}
        return {"EvaluationResults": [{"EvalActionName": name, "EvalDecision": words[end]} for name, end in found]}

    def on_DescribeStacks(self, asked: dict[str, Any]) -> dict[str, Any]:
        if not self.has_stack:
            raise Refused(400, "ValidationError", f"Stack with id {asked['StackName']} does not exist")
        outputs = [{"OutputKey": key, "OutputValue": value} for key, value in self.site.outputs.items()]
        name, status = asked["StackName"], "CREATE_COMPLETE"
        return {"Stacks": [{"StackName": name, "StackId": "x", "StackStatus": status, "Outputs": outputs}]}

    def on_HeadBucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": self.bucket_region}}}

    def on_GetBucketEncryption(self, asked: dict[str, Any]) -> dict[str, Any]:
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
        return {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}

    def on_ListServiceQuotas(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Quotas": [self._quota(number) for number in range(len(self.quotas))]}

    def on_GetServiceQuota(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Quota": self._quota(int(asked["QuotaCode"].removeprefix("L-")))}

    def _quota(self, number: int) -> dict[str, Any]:
        name, value = list(self.quotas.items())[number]
        return {"QuotaName": name, "QuotaCode": f"L-{number}", "Value": value}

    def on_BatchGetImage(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"images": [{"repositoryName": asked["repositoryName"]}]}

    def on_GetProducts(self, asked: dict[str, Any]) -> dict[str, Any]:
        (instance,) = [part["Value"] for part in asked["Filters"] if part["Field"] == "instanceName"]
        terms = {"t": {"priceDimensions": {"d": {"pricePerUnit": {"USD": "2.5" if instance == G6 else "1.5"}}}}}
        return {"FormatVersion": "aws_v1", "PriceList": [json.dumps({"terms": {"OnDemand": terms}})]}

    def on_DescribeSecret(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["SecretId"] not in self.secrets:
            raise Refused(400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
        return self.secrets[asked["SecretId"]]

    def on_GetSecretValue(self, asked: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("whoever submits may not read it")
