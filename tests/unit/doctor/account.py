"""An account in stubs: what doctor asks of a good one, and each way in which its answers can be made wrong."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from botocore.stub import Stubber

ACCOUNT, REGION, BUCKET = "111122223333", "us-east-1", "my-bucket"
USER = f"arn:aws:iam::{ACCOUNT}:user/me"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service/trainer"
TAG = "2.8.0-transformers4.56.2-gpu-py312-cu129-ubuntu22.04"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
SERVICES = ("sts", "iam", "s3", "service-quotas", "ecr", "pricing", "secretsmanager")
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:hub-token-AbCdEf"
JOBS = ["sagemaker:CreateTrainingJob", "sagemaker:AddTags", "sagemaker:DescribeTrainingJob"]
CONTEXT = [
    {"ContextKeyName": "iam:PassedToService", "ContextKeyValues": ["sagemaker.amazonaws.com"]},
    {"ContextKeyName": "sagemaker:InstanceTypes", "ContextKeyValues": ["ml.g5.xlarge"]},
    {"ContextKeyName": "sagemaker:MaxRuntimeInSeconds", "ContextKeyValues": ["14400"]},
    {"ContextKeyName": "sagemaker:TaggingAction", "ContextKeyValues": ["CreateTrainingJob"]},
    {"ContextKeyName": "aws:ResourceTag/launcher:run", "ContextKeyValues": ["x"]},
    {"ContextKeyName": "aws:SecureTransport", "ContextKeyValues": ["true"]},
]
KINDS = {"sagemaker:InstanceTypes": "stringList", "sagemaker:MaxRuntimeInSeconds": "numeric"}
for entry in CONTEXT:
    entry["ContextKeyType"] = KINDS.get(str(entry["ContextKeyName"]), "string")
RESOURCES = {
    f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/*": [*JOBS, "sagemaker:StopTrainingJob"],
    "*": ["sagemaker:ListTrainingJobs"],
    f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/sagemaker/TrainingJobs:log-stream:*": [
        "logs:DescribeLogStreams",
        "logs:GetLogEvents",
    ],
    ROLE: ["iam:PassRole"],
    f"arn:aws:s3:::{BUCKET}": ["s3:ListBucket"],
    f"arn:aws:s3:::{BUCKET}/launcher/*": ["s3:GetObject"],
    f"arn:aws:s3:::{BUCKET}/launcher/source/x": ["s3:PutObject"],
    f"arn:aws:s3:::{BUCKET}/launcher/data/x": ["s3:PutObject", "s3:DeleteObject"],
    f"arn:aws:s3:::{BUCKET}/launcher/runs/x": ["s3:PutObject", "s3:DeleteObject"],
}


BY_NAME = ("iam", "secretsmanager")


class Account:
    """An account in stubs. A call is answered only with the very parameters it should have."""

    def __init__(self, clients: dict[str, Any]) -> None:
        self.clients = clients
        self.stubs = {name: Stubber(client) for name, client in clients.items() if name not in BY_NAME}
        self.denied: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.roles: list[tuple[int, dict[str, Any]]] = []
        self.token = ""
        self.is_binary = False

    def open(self) -> None:
        """Some are asked for side by side, and a Stubber knows one order only: these go by name."""
        for stub in self.stubs.values():
            stub.activate()
        for service, event, handler in self._handlers():
            self.clients[service].meta.events.register(event, handler, event)

    def close(self) -> None:
        for stub in self.stubs.values():
            stub.deactivate()
        for service, event, _ in self._handlers():
            self.clients[service].meta.events.unregister(event, unique_id=event)

    def _handlers(self) -> list[tuple[str, str, Any]]:
        return [
            ("iam", "provide-client-params.iam.SimulatePrincipalPolicy", self._note),
            ("iam", "before-call.iam.SimulatePrincipalPolicy", self._simulate),
            ("iam", "before-call.iam.GetRole", self._role),
            ("secretsmanager", "before-call.secrets-manager.DescribeSecret", self._secret),
            ("secretsmanager", "before-call.secrets-manager.GetSecretValue", self._secret),
        ]

    def _secret(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        assert json.loads(params["body"]) == {"SecretId": "hub-token"}
        held = {"SecretBinary": b"hidden"} if self.is_binary else {"SecretString": self.token}
        return Answered(200), {"ARN": SECRET, **held}

    def _note(self, params: dict[str, Any], **_: Any) -> None:
        self.asked.append(params)

    def _simulate(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        body = params["body"]
        actions = [value for key, value in sorted(body.items()) if key.startswith("ActionNames.member.")]
        results = [{"EvalActionName": action, "EvalDecision": self.denied.get(action, "allowed")} for action in actions]
        return Answered(200), {"EvaluationResults": results}

    def _role(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        assert params["body"]["RoleName"] == "trainer"
        status, found = self.roles.pop(0)
        return Answered(status), found

    def make(self, service: str, region: str) -> Any:
        assert region in ("", "us-east-1")
        return self.clients[service]

    def good(self, *without: str) -> Account:
        """What a good account answers, but for these operations."""
        for service, operation, params, response in (
            ("sts", "get_caller_identity", {}, {"Account": ACCOUNT, "Arn": USER, "UserId": "x"}),
            ("iam", "get_role", {}, role(TRUST)),
            ("s3", "head_bucket", {"Bucket": BUCKET}, region_header(REGION)),
            ("s3", "get_bucket_encryption", {"Bucket": BUCKET}, encryption("aws:kms")),
            ("service-quotas", "list_service_quotas", LIST, page(2, 4, 0)),
            (
                "ecr",
                "batch_get_image",
                {
                    "registryId": "763104351884",
                    "repositoryName": "huggingface-pytorch-training",
                    "imageIds": [{"imageTag": TAG}],
                },
                {"images": [{"repositoryName": "huggingface-pytorch-training"}]},
            ),
            ("pricing", "get_products", None, {"FormatVersion": "aws_v1", "PriceList": [PRODUCT]}),
        ):
            if operation in without:
                continue
            if service == "iam":
                self.roles.append((200, response))
            else:
                self.stubs[service].add_response(operation, response, params)
        return self

    def answers(self, service: str, operation: str, response: dict[str, Any]) -> Account:
        if service == "iam":
            self.roles.append((200, response))
        else:
            self.stubs[service].add_response(operation, response)
        return self

    def refuses(self, service: str, operation: str, code: str, status: int = 400, **headers: str) -> Account:
        if service == "iam":
            self.roles.append((status, {"Error": {"Code": code, "Message": "the reason"}}))
            return self
        self.stubs[service].add_client_error(
            operation, code, "the reason", http_status_code=status, response_meta={"HTTPHeaders": headers}
        )
        return self


class Answered(NamedTuple):
    """botocore looks at the status alone."""

    status_code: int


LIST = {"ServiceCode": "sagemaker", "MaxResults": 100}
PRODUCT = json.dumps(
    {"terms": {"OnDemand": {"t": {"priceDimensions": {"d": {"pricePerUnit": {"USD": "1.4080000000"}}}}}}}
)


def role(trust: dict[str, Any]) -> dict[str, Any]:
    return {
        "Role": {
            "Path": "/service/",
            "RoleName": "trainer",
            "RoleId": "AROAAAAAAAAAAAAAAAAA",
            "Arn": ROLE,
            "CreateDate": "2026-01-01T00:00:00Z",
            "AssumeRolePolicyDocument": json.dumps(trust),
        }
    }


def region_header(region: str) -> dict[str, Any]:
    return {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": region}, "HTTPStatusCode": 200}}


def encryption(kind: str) -> dict[str, Any]:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": kind}}
    return {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}


def page(training: float, spot: float, warm: float) -> dict[str, Any]:
    names = {"training job usage": training, "spot training job usage": spot, "training warm pool usage": warm}
    listed = [
        {"QuotaName": f"ml.g5.xlarge for {name}", "QuotaCode": f"L-{number}", "Value": value}
        for number, (name, value) in enumerate(names.items())
    ]
    return {"Quotas": [{"QuotaName": "something else", "QuotaCode": "L-9", "Value": 1.0}, *listed]}
