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
from typing import Any

import botocore.session
import pytest
from botocore.config import Config

from launcher.account import doctor_scene
from launcher.account.doctor import Finding, examine, is_healthy
from launcher.recipe import load_recipe

GATED = {"model.id": "me/gated", "secrets.hf_token": "hub"}


def load_account() -> ModuleType:
    path = Path(__file__).parent / "iam" / "account.py"
    spec = importlib.util.spec_from_file_location("iam_account", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


world = load_account()
ACCOUNT, REGION, BUCKET, IAM = world.ACCOUNT, world.REGION, world.BUCKET, world.IAM
JOB_ROLE, SSO, SECRET, G5, G6 = world.JOB_ROLE, world.SSO, world.SECRET, world.G5, world.G6


class Asked(world.Account):  # type: ignore[name-defined,misc]
    """An account that doctor is asked about."""

    def look(self, **overrides: Any) -> dict[str, Finding]:
        keys = {"compute.instance": G5, "compute.region": REGION, **overrides}
        recipe = load_recipe("qwen2.5-1.5b-medical", keys)
        return {finding.name: finding for finding in examine(recipe, make_client=self.make)}


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
    made = {name: session.create_client(name, region_name=REGION) for name in world.SERVICES}
    for name in ("sts", "cloudformation"):
        made[f"silent {name}"] = session.create_client(name, region_name=REGION, endpoint_url=silence, config=config)
    return made


@pytest.fixture
def account(clients: dict[str, Any], hub: None, patient_doctor: None) -> Iterator[Asked]:
    account = Asked(clients)
    events = [clients[service].meta.events for service in world.SERVICES]
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


def test_whoever_holds_the_policy_misses_nothing(account: Asked) -> None:
    found = account.look()
    assert states(found, "ok") == list(found), found
    assert found["role"].text == f"{JOB_ROLE}, which SageMaker may assume"
    assert found["bucket"].text.startswith(f"{BUCKET} in {REGION}")


def test_neither_does_a_role_of_iam_identity_center(account: Asked) -> None:
    account.arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{SSO}/ann@example.com"
    assert account.look()["permissions"].state == "ok"


def test_another_role_is_told_what_it_needs_to_look_at_itself(account: Asked) -> None:
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
        (
            {"output.bucket": "other", "compute.role": JOB_ROLE},
            "s3:PutObject on other/launcher/source/, s3:PutObject on other/launcher/data/",
        ),
        ({"compute.role": "arn:aws:iam::111122223333:role/trainers"}, "iam:PassRole"),
    ],
)
def test_what_the_policy_does_not_allow_is_named(account: Asked, overrides: dict[str, Any], denied: str) -> None:
    finding = account.look(**overrides)["permissions"]
    assert finding.state == "missing"
    assert denied in finding.text


@pytest.mark.parametrize(
    "overrides", [{"compute.instance": "ml.p5.48xlarge"}, {"compute.max_runtime": "30h"}], ids=["type", "time"]
)
def test_the_limits_of_bootstraps_policy_are_named_where_they_bite(account: Asked, overrides: dict[str, Any]) -> None:
    assert "bootstrap --instances TYPES --max-runtime TIME" in account.look(**overrides)["permissions"].fix


OWN_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"
OWN_IMAGES = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/mine"
NAMED: dict[str, dict[str, Any]] = {
    "--kms-key": {"output.kms_key": OWN_KEY},
    "--vpc existing": {
        "compute.subnets": ["subnet-0123456789abcdef0"],
        "compute.security_groups": ["sg-0123456789abcdef0"],
    },
    "--image-repository": {"image.uri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mine:1"},
}
DEPLOYED = {
    "--kms-key": {"KmsKeyArn": OWN_KEY},
    "--vpc existing": {"Network": "existing"},
    "--image-repository": {"ImageRepositoryArn": OWN_IMAGES},
}
LACKS = {
    "--kms-key": "kms:GenerateDataKey",
    "--vpc existing": "ec2:CreateNetworkInterface",
    "--image-repository": "ecr:BatchGetImage",
}


def be_administrator(account: Asked) -> None:
    account.own = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]


@pytest.mark.parametrize("flag", NAMED)
def test_what_the_recipe_names_must_be_open_to_the_job_too(account: Asked, flag: str) -> None:
    be_administrator(account)
    finding = account.look(**NAMED[flag])["job"]
    assert finding.state == "missing"
    assert f"the policies of {JOB_ROLE} do not let the job" in finding.text
    assert LACKS[flag] in finding.text
    assert f"launcher bootstrap {flag}" in finding.fix

    account.deploy(**DEPLOYED[flag])
    be_administrator(account)
    assert account.look(**NAMED[flag])["job"].state == "ok"


def test_a_volumes_key_needs_a_grant_by_the_job(account: Asked) -> None:
    be_administrator(account)
    named = {"compute.instance": "ml.p3.2xlarge", "compute.volume_kms_key": OWN_KEY}
    assert "encrypt its volume (kms:CreateGrant on" in account.look(**named)["job"].text
    account.deploy(KmsKeyArn=OWN_KEY)
    be_administrator(account)
    assert account.look(**named)["job"].state == "ok"


def test_whether_a_job_may_use_an_alias_is_not_known(account: Asked) -> None:
    assert account.look(**{"output.kms_key": "alias/mine"})["job"].state == "unknown"


def test_the_stacks_role_is_not_taken_for_another_bucket(account: Asked) -> None:
    """Neither by doctor nor by submit, which looks for its site in the same way."""
    be_administrator(account)
    finding = account.look(**{"output.bucket": "team-bucket"})["role"]
    assert finding.state == "missing"
    assert f"may only use the stack's bucket {BUCKET}, and output.bucket is team-bucket" in finding.text
    found = account.look(**{"output.bucket": "team-bucket", "compute.role": JOB_ROLE})
    assert states(found, "missing") == ["job"]
    for action in ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert action in found["job"].text


def test_the_key_of_the_bucket_takes_the_second_policy(account: Asked) -> None:
    account.deploy(KmsKeyArn=OWN_KEY)
    finding = account.look()["permissions"]
    assert finding.state == "missing"
    assert f"kms:Decrypt on {OWN_KEY}, kms:GenerateDataKey on {OWN_KEY}" in finding.text
    assert "LauncherKeyPolicyArn" in finding.fix
    account.own = [*account.own, *account.site.statements("LauncherKeyPolicy")]
    found = account.look()
    assert states(found, "ok") == list(found), found


def test_fetching_what_another_key_encrypts_takes_that_key(account: Asked) -> None:
    account.deploy(KmsKeyArn=OWN_KEY)
    account.own = [*account.own, *account.site.statements("LauncherKeyPolicy")]
    other = OWN_KEY.replace("key/1", "key/2")
    assert f"kms:Decrypt on {other}" in account.look(**{"output.kms_key": other})["permissions"].text


def test_an_account_without_a_stack_lacks_role_and_bucket(account: Asked) -> None:
    account.has_stack = False
    found = account.look()
    assert states(found, "missing") == ["role", "bucket"]
    assert f"{REGION} has no stack launcher" in found["bucket"].text
    assert "launcher bootstrap" in found["role"].fix


@pytest.mark.parametrize("prefix", ["team2", "launcher/team"])
def test_a_prefix_that_the_stack_does_not_open_is_the_reason_given(account: Asked, prefix: str) -> None:
    found = account.look(**{"output.prefix": prefix})
    assert states(found, "missing") == ["role", "bucket"]
    for name in ("role", "bucket"):
        assert f"may only use launcher/ in its bucket, and output.prefix is {prefix}" in found[name].text
        assert 'output.prefix = "launcher"' in found[name].fix


def test_a_stack_that_nobody_may_look_at_is_unknown(account: Asked) -> None:
    account.own = [statement for statement in account.own if statement["Sid"] != "FindSite"]
    found = account.look()
    assert states(found, "missing") == []
    assert states(found, "unknown") == ["role", "job", "bucket"]
    assert "AccessDenied" in found["role"].text
    assert "Or set compute.role and output.bucket." in found["role"].fix


def test_a_stack_that_does_not_answer_is_unknown(account: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    account.silent = {"cloudformation"}
    monkeypatch.setattr(doctor_scene, "FIRST_S", 3.0)
    found = account.look()
    assert states(found, "missing") == []
    assert {"role", "bucket"} <= set(states(found, "unknown"))
    assert f"looking for the stack launcher in {REGION}: no answer within" in found["role"].text


@pytest.mark.parametrize("key", ["output.kms_key", "secrets.hf_token"])
def test_a_key_or_secret_of_another_region_is_a_line_of_its_own(account: Asked, key: str) -> None:
    service, what = ("secretsmanager", "secret:hub-AbCdEf") if key == "secrets.hf_token" else ("kms", "key/1")
    found = account.look(**{key: f"arn:aws:{service}:us-east-1:{ACCOUNT}:{what}"})
    assert f"{key} is arn:aws:{service}:us-east-1" in found["places"].text
    assert found["places"].state == "missing"
    assert found["role"].state == found["bucket"].state == "ok"


def test_a_bucket_of_another_region_hides_no_role(account: Asked) -> None:
    account.bucket_region = "us-east-1"
    found = account.look()
    assert states(found, "missing") == ["bucket"]
    assert found["role"].state == "ok"


def test_a_network_that_swallows_everything_takes_one_limit(account: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    account.silent = {"sts", "cloudformation"}
    monkeypatch.setattr(doctor_scene, "FIRST_S", 3.0)
    monkeypatch.setattr(doctor_scene, "GRACE_S", 0.4)
    started = time.monotonic()
    found = account.look()
    assert time.monotonic() - started < 8.0  # one limit is 3.4 s; three of them one after another are 9
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
    account: Asked, quotas: dict[str, float], overrides: dict[str, Any], missing: str
) -> None:
    account.set_quota(**quotas)
    finding = account.look(**overrides)["quota"]
    assert finding.state == ("missing" if missing else "ok"), finding
    assert f'"{G5} for {missing} usage" is ' in finding.text or not missing
    assert "/servicequotas/home/services/sagemaker/quotas/L-" in finding.link or not missing


def test_of_several_types_one_with_a_quota_is_enough_and_the_others_are_said(account: Asked) -> None:
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


def test_a_quota_that_aws_does_not_list_is_unknown_unless_another_is_known_to_lack(account: Asked) -> None:
    account.quotas = {}
    assert account.look()["quota"].state == "unknown"
    account.set_quota(spot=0)
    assert account.look(**{"compute.spot": True, "compute.on_demand_after_wait": True})["quota"].state == "missing"


def test_the_price_of_every_type_is_shown(account: Asked) -> None:
    text = account.look(**{"compute.instance": f"{G5},{G6}"})["price"].text
    assert f"{G5}: $1.500 an hour" in text
    assert f"{G6}: $2.500 an hour" in text


def with_secret(account: Asked, **about: Any) -> None:
    account.secrets["hub"] = {"ARN": SECRET, "Name": "hub", **about}
    account.deploy(HfSecretArn=SECRET)


def test_a_secret_that_the_job_may_read_passes(account: Asked) -> None:
    with_secret(account)
    found = account.look(**{"secrets.hf_token": "hub"})
    assert states(found, "ok") == list(found)
    assert found["token"].text == "the job may read hub"


def test_a_secret_that_is_not_there_is_missing_even_for_an_open_model(account: Asked) -> None:
    account.own = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
    found = account.look(**{"secrets.hf_token": "hub"})
    assert states(found, "missing") == ["token"]
    assert "There is no secret hub" in found["token"].text
    account.secrets["hub"] = {"ARN": SECRET, "DeletedDate": "2026-01-01T00:00:00Z"}
    assert "marked for deletion" in account.look(**{"secrets.hf_token": "hub"})["token"].text


@pytest.mark.parametrize("name", ["hub", SECRET])
def test_a_secret_that_the_jobs_role_may_not_read_is_missing(account: Asked, name: str) -> None:
    account.secrets[name] = {"ARN": SECRET}
    account.own = [*account.own, {"Effect": "Allow", "Action": "secretsmanager:DescribeSecret", "Resource": "*"}]
    finding = account.look(**{"secrets.hf_token": name})["token"]
    assert finding.state == "missing"
    assert f"{JOB_ROLE} may not read the secret {name}" in finding.text
    assert f"launcher bootstrap --hf-secret {name}" in finding.fix


@pytest.mark.parametrize(("name", "state"), [("hub", "unknown"), (SECRET, "missing")])
def test_a_secret_that_nobody_may_look_at(account: Asked, name: str, state: str) -> None:
    """A bootstrap without --hf-secret; an ARN is enough to simulate the job with."""
    finding = account.look(**{"secrets.hf_token": name})["token"]
    assert finding.state == state
    assert "launcher bootstrap --hf-secret" in finding.fix


def test_a_gated_model_says_that_only_the_job_reads_the_token(account: Asked) -> None:
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
def test_a_model_in_s3_must_be_open_to_the_jobs_role(account: Asked, uri: str, state: str) -> None:
    finding = account.look(**{"model.s3": uri})["model"]
    assert finding.state == state
    assert f"s3://{BUCKET}/launcher/models/" in finding.fix or state == "ok"
