"""doctor for somebody who has bootstrap's policy and nothing else: each of its calls is held against that policy, and
what it says of rights is what an evaluation of the template's statements says."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import botocore.session
import pytest
from botocore.config import Config

from launcher.doctor import Finding, examine, is_healthy
from launcher.recipe import load_recipe
from launcher.templates import load_template

G5, G6 = "ml.g5.xlarge", "ml.g6.xlarge"
GATED = {"model.id": "me/gated", "secrets.hf_token": "hub"}


def load(name: str) -> ModuleType:
    path = Path(__file__).parent / "iam" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"doctor_iam_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


evaluator, deployed = load("evaluator"), load("deployed")
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

    def look(self, **overrides: Any) -> dict[str, Finding]:
        keys = {"compute.instance": G5, "compute.region": REGION, **overrides}
        recipe = load_recipe("qwen2.5-1.5b-medical", keys)
        return {finding.name: finding for finding in examine(recipe, make_client=self.make)}

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


@pytest.fixture(scope="module")
def silence() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def clients(silence: str) -> dict[str, Any]:
    session = botocore.session.get_session()
    session.set_credentials("a", "b")
    config = Config(read_timeout=20, retries={"total_max_attempts": 1})
    made = {name: session.create_client(name, region_name=REGION) for name in SERVICES}
    for name in ("sts", "cloudformation"):
        made[f"silent {name}"] = session.create_client(name, region_name=REGION, endpoint_url=silence, config=config)
    return made


@pytest.fixture
def account(clients: dict[str, Any], hub: None) -> Iterator[Account]:
    account = Account(clients)
    events = [clients[service].meta.events for service in SERVICES]
    for one in events:
        one.register_last("provide-client-params.*.*", account.note, "note")
        one.register_first("before-call.*.*", account.answer, "answer")
    yield account
    for one in events:
        one.unregister("provide-client-params.*.*", unique_id="note")
        one.unregister("before-call.*.*", unique_id="answer")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that has every model, and gates those of that name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"gated": "gated" in self.path}).encode())

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def states(found: dict[str, Finding], state: str) -> list[str]:
    return [name for name, finding in found.items() if finding.state == state]


def test_whoever_holds_the_policy_misses_nothing(account: Account) -> None:
    found = account.look()
    assert states(found, "ok") == list(found), found
    assert found["role"].text == f"{JOB_ROLE}, which SageMaker may assume"
    assert found["bucket"].text.startswith(f"{BUCKET} in {REGION}")


def test_neither_does_a_role_of_iam_identity_center(account: Account) -> None:
    account.arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{SSO}/ann@example.com"
    assert account.look()["permissions"].state == "ok"


def test_another_role_is_told_what_it_needs_to_look_at_itself(account: Account) -> None:
    account.arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/trainers/ann"
    finding = account.look()["permissions"]
    assert finding.state == "unknown"
    assert f"iam:GetRole and iam:SimulatePrincipalPolicy on {IAM}:role/trainers" in finding.fix


@pytest.mark.parametrize(
    ("overrides", "denied"),
    [
        ({"compute.instance": "ml.p5.48xlarge"}, "sagemaker:CreateTrainingJob"),
        ({"compute.instance": f"{G5},ml.p5.4xlarge"}, "sagemaker:CreateTrainingJob"),
        ({"compute.max_runtime": "30h"}, "sagemaker:CreateTrainingJob"),
        ({"output.bucket": "other"}, "s3:PutObject on other/launcher/source/, s3:PutObject on other/launcher/data/"),
        ({"compute.role": "arn:aws:iam::111122223333:role/trainers"}, "iam:PassRole"),
    ],
)
def test_what_the_policy_does_not_allow_is_named(account: Account, overrides: dict[str, Any], denied: str) -> None:
    finding = account.look(**overrides)["permissions"]
    assert finding.state == "missing"
    assert denied in finding.text


def test_an_account_without_a_stack_lacks_role_and_bucket(account: Account) -> None:
    account.has_stack = False
    found = account.look()
    assert states(found, "missing") == ["role", "bucket"]
    assert f"{REGION} has no stack launcher" in found["bucket"].text
    assert "launcher bootstrap" in found["role"].fix


def test_a_prefix_that_the_stack_does_not_open_is_the_reason_given(account: Account) -> None:
    found = account.look(**{"output.prefix": "team2"})
    assert states(found, "missing") == ["role", "bucket"]
    for name in ("role", "bucket"):
        assert "may only use launcher/ in its bucket, and output.prefix is team2" in found[name].text
        assert 'output.prefix = "launcher"' in found[name].fix


def test_a_stack_that_nobody_may_look_at_is_unknown(account: Account) -> None:
    account.own = [statement for statement in account.own if statement["Sid"] != "FindSite"]
    found = account.look()
    assert states(found, "missing") == []
    assert states(found, "unknown") == ["role", "bucket"]
    assert "AccessDenied" in found["role"].text
    assert "Or set compute.role and output.bucket." in found["role"].fix


def test_a_stack_that_does_not_answer_is_unknown(account: Account) -> None:
    account.silent = {"cloudformation"}
    found = account.look()
    assert states(found, "missing") == []
    assert {"role", "bucket"} <= set(states(found, "unknown"))
    assert f"looking for the stack launcher in {REGION}: no answer within" in found["role"].text


@pytest.mark.parametrize("key", ["output.kms_key", "secrets.hf_token"])
def test_a_key_or_secret_of_another_region_is_a_line_of_its_own(account: Account, key: str) -> None:
    service, what = ("secretsmanager", "secret:hub-AbCdEf") if key == "secrets.hf_token" else ("kms", "key/1")
    found = account.look(**{key: f"arn:aws:{service}:us-east-1:{ACCOUNT}:{what}"})
    assert f"{key} is arn:aws:{service}:us-east-1" in found["places"].text
    assert found["places"].state == "missing"
    assert found["role"].state == found["bucket"].state == "ok"


def test_a_bucket_of_another_region_hides_no_role(account: Account) -> None:
    account.bucket_region = "us-east-1"
    found = account.look()
    assert states(found, "missing") == ["bucket"]
    assert found["role"].state == "ok"


def test_a_network_that_swallows_everything_takes_one_limit(account: Account) -> None:
    account.silent = {"sts", "cloudformation"}
    started = time.monotonic()
    found = account.look()
    assert time.monotonic() - started < 4.0  # one limit is 2.2 s; the three of them one after another were 6
    assert states(found, "missing") == ["identity"]
    assert "no answer within" in found["identity"].text
    assert not is_healthy(list(found.values()))


@pytest.mark.parametrize(
    ("quotas", "overrides", "missing"),
    [
        ({"training": 0}, {}, "training job"),
        ({"training": 1}, {"compute.count": 2}, "training job"),
        ({"training": 1, "spot": 0}, {"compute.spot": True}, "spot training job"),
        ({"training": 0, "spot": 1}, {"compute.spot": True}, ""),
        ({"training": 1}, {"compute.keep_alive": "20m"}, "training warm pool"),
        ({"training": 1, "warm_pool": 1}, {"compute.keep_alive": "20m"}, ""),
        ({"training": 0, "spot": 1}, {"compute.spot": True, "compute.on_demand_after_wait": True}, "training job"),
        ({"training": 1, "spot": 1}, {"compute.spot": True, "compute.on_demand_after_wait": True}, ""),
    ],
)
def test_every_way_in_which_the_job_is_bought_needs_a_quota(
    account: Account, quotas: dict[str, float], overrides: dict[str, Any], missing: str
) -> None:
    account.set_quota(**quotas)
    finding = account.look(**overrides)["quota"]
    assert finding.state == ("missing" if missing else "ok"), finding
    assert f'"{G5} for {missing} usage" is ' in finding.text or not missing
    assert "/servicequotas/home/services/sagemaker/quotas/L-" in finding.link or not missing


def test_of_several_types_one_with_a_quota_is_enough_and_the_others_are_said(account: Account) -> None:
    account.set_quota(training=0)
    account.set_quota(G6, training=2)
    found = account.look(**{"compute.instance": f"{G5},{G6}"})
    assert states(found, "ok") == list(found)
    assert found["quota"].text == (
        f'{G6}: 2 training; but not {G5}: "{G5} for training job usage" is 0, and the job needs 1'
    )
    account.set_quota(G6, training=0)
    finding = account.look(**{"compute.instance": f"{G5},{G6}"})["quota"]
    assert finding.state == "missing"
    assert G5 in finding.text and G6 in finding.text


def test_a_quota_that_aws_does_not_list_is_unknown_unless_another_is_known_to_lack(account: Account) -> None:
    account.quotas = {}
    assert account.look()["quota"].state == "unknown"
    account.set_quota(spot=0)
    assert account.look(**{"compute.spot": True, "compute.on_demand_after_wait": True})["quota"].state == "missing"


def test_the_price_of_every_type_is_shown(account: Account) -> None:
    text = account.look(**{"compute.instance": f"{G5},{G6}"})["price"].text
    assert f"{G5}: $1.500 an hour" in text
    assert f"{G6}: $2.500 an hour" in text


def with_secret(account: Account, **about: Any) -> None:
    account.secrets["hub"] = {"ARN": SECRET, "Name": "hub", **about}
    account.deploy(HfSecretArn=SECRET)


def test_a_secret_that_the_job_may_read_passes(account: Account) -> None:
    with_secret(account)
    found = account.look(**{"secrets.hf_token": "hub"})
    assert states(found, "ok") == list(found)
    assert found["token"].text == "the job may read hub"


def test_a_secret_that_is_not_there_is_missing_even_for_an_open_model(account: Account) -> None:
    account.own = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
    found = account.look(**{"secrets.hf_token": "hub"})
    assert states(found, "missing") == ["token"]
    assert "There is no secret hub" in found["token"].text
    account.secrets["hub"] = {"ARN": SECRET, "DeletedDate": "2026-01-01T00:00:00Z"}
    assert "marked for deletion" in account.look(**{"secrets.hf_token": "hub"})["token"].text


@pytest.mark.parametrize("name", ["hub", SECRET])
def test_a_secret_that_the_jobs_role_may_not_read_is_missing(account: Account, name: str) -> None:
    account.secrets[name] = {"ARN": SECRET}
    account.own = [*account.own, {"Effect": "Allow", "Action": "secretsmanager:DescribeSecret", "Resource": "*"}]
    finding = account.look(**{"secrets.hf_token": name})["token"]
    assert finding.state == "missing"
    assert f"{JOB_ROLE} may not read the secret {name}" in finding.text
    assert f"launcher bootstrap --hf-secret {name}" in finding.fix


@pytest.mark.parametrize(("name", "state"), [("hub", "unknown"), (SECRET, "missing")])
def test_a_secret_that_nobody_may_look_at(account: Account, name: str, state: str) -> None:
    """A bootstrap without --hf-secret; an ARN is enough to simulate the job with."""
    finding = account.look(**{"secrets.hf_token": name})["token"]
    assert finding.state == state
    assert "launcher bootstrap --hf-secret" in finding.fix


def test_a_gated_model_says_that_only_the_job_reads_the_token(account: Account) -> None:
    with_secret(account)
    found = account.look(**GATED)
    assert found["token"].state == "ok"
    assert states(found, "unknown") == ["model"]
    assert "only the job reads the secret hub" in found["model"].text


@pytest.mark.parametrize(
    ("uri", "state"),
    [
        (f"s3://{BUCKET}/launcher/models/qwen", "ok"),
        (f"s3://{BUCKET}/models/qwen/", "missing"),
        ("s3://nobody/qwen", "missing"),
    ],
)
def test_a_model_in_s3_must_be_open_to_the_jobs_role(account: Account, uri: str, state: str) -> None:
    finding = account.look(**{"model.s3": uri})["model"]
    assert finding.state == state
    assert f"s3://{BUCKET}/launcher/models/" in finding.fix or state == "ok"
