"""doctor: every check on a good account, and each way in which an account can be wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore.session
import pytest

from launcher.account.doctor import Finding, examine, is_healthy
from launcher.aws.identity import Identity, find_principal
from launcher.cli import make_parser
from launcher.cli.health import find_exit_code
from launcher.cli.recipes import load_recipe_from
from launcher.recipe import Recipe, load_recipe


def load_account() -> ModuleType:
    path = Path(__file__).parent / "doctor" / "account.py"
    spec = importlib.util.spec_from_file_location("doctor_account", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


world = load_account()
ACCOUNT, REGION, BUCKET, USER, ROLE = world.ACCOUNT, world.REGION, world.BUCKET, world.USER, world.ROLE
role, page = world.role, world.page
Account: Any = world.Account


@pytest.fixture(scope="module")
def clients() -> dict[str, Any]:
    session = botocore.session.get_session()
    session.set_credentials("a", "b")
    return {name: session.create_client(name, region_name=REGION) for name in world.SERVICES}


@pytest.fixture
def account(clients: dict[str, Any], patient_doctor: None) -> Iterator[Account]:
    account = Account(clients)
    account.open()
    yield account
    account.close()


@pytest.fixture
def recipe_for(hub: str) -> Callable[..., Recipe]:
    def load(**overrides: Any) -> Recipe:
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        base = {
            "compute.instance": "ml.g5.xlarge",
            "compute.region": REGION,
            "compute.role": ROLE,
            "output.bucket": BUCKET,
        }
        return load_recipe("qwen2.5-1.5b-medical", {**base, **keys})

    return load


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Hub with one open and one gated model, which the token "good" may read."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = "gated" in self.path or "Qwen" in self.path
            allowed = "/resolve/" not in self.path or self.headers["Authorization"] == "Bearer good"
            self.send_response(200 if known and allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"gated": "manual" if "/api/models/me/gated" in self.path else False}).encode())

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server.server_name
        server.shutdown()


def look(account: Account, recipe: Recipe) -> dict[str, Finding]:
    found = {finding.name: finding for finding in examine(recipe, make_client=account.make)}
    assert list(found) == [
        "identity", "region", "role", "job", "permissions", "bucket", "places", "quota", "image", "model", "token",
        "price",
    ]  # fmt: skip
    return found


def only_missing(found: dict[str, Finding], name: str) -> Finding:
    """This and nothing else: the other checks ran and were good."""
    assert [finding.name for finding in found.values() if finding.state != "ok"] == [name], found
    assert found[name].state == "missing"
    assert found[name].fix
    return found[name]


def test_a_good_account_passes_every_check(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    found = look(account.good(), recipe_for())
    assert {finding.state for finding in found.values()} == {"ok"}, found
    assert is_healthy(list(found.values()))
    assert found["identity"].text == f"{USER} in account {ACCOUNT}"
    assert "encryption: aws:kms" in found["bucket"].text
    assert found["quota"].text == "ml.g5.xlarge: 2 training, 4 spot, 0 warm pool"
    assert "$1.408 an hour (AWS's price list for us-east-1, today)" in found["price"].text
    for stub in account.stubs.values():
        stub.assert_no_pending_responses()


def test_permissions_are_simulated_for_each_thing_with_its_conditions(
    account: Account, recipe_for: Callable[..., Recipe]
) -> None:
    look(account.good(), recipe_for())
    asked = [call for call in account.asked if call["PolicySourceArn"] == USER]
    assert {call["ResourceArns"][0]: call["ActionNames"] for call in asked} == world.RESOURCES
    assert all(call["ContextEntries"] == world.CONTEXT for call in asked)
    assert {call["PolicySourceArn"] for call in account.asked} == {USER, ROLE}  # the job's role has a check of its own


def test_a_denied_action_is_named(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.denied = {"iam:PassRole": "implicitDeny", "s3:PutObject": "explicitDeny"}
    found = look(account.good(), recipe_for())
    assert [name for name, finding in found.items() if finding.state == "missing"] == ["job", "permissions"]
    finding = found["permissions"]
    assert "iam:PassRole, s3:PutObject (by an explicit deny) on my-bucket/launcher/source/" in finding.text


def test_a_role_that_may_not_promote_is_named_before_anything_is_trained(
    account: Account, recipe_for: Callable[..., Recipe]
) -> None:
    account.denied = {"s3:PutObject": "implicitDeny"}
    finding = look(account.good(), recipe_for(schedule__promote="if-better"))["role"]
    assert finding.state == "missing"
    assert f"s3:PutObject on arn:aws:s3:::{BUCKET}/launcher/champions/*" in finding.text
    assert "bootstrap --promotion" in finding.fix


def test_a_topic_that_the_role_may_not_tell_is_named(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.denied = {"sns:Publish": "implicitDeny"}
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:mine"
    finding = only_missing(look(account.good(), recipe_for(schedule__notify_topic=topic)), "role")
    assert topic in finding.text
    publishing = [call for call in account.asked if "sns:Publish" in call["ActionNames"]]
    assert [call["PolicySourceArn"] for call in publishing] == [ROLE]


@pytest.mark.parametrize("status", [301, 400])
def test_a_bucket_of_another_region(account: Account, recipe_for: Callable[..., Recipe], status: int) -> None:
    account.good("head_bucket", "get_bucket_encryption")
    account.refuses("s3", "head_bucket", "301", status, **{"x-amz-bucket-region": "eu-west-1"})
    finding = only_missing(look(account, recipe_for()), "bucket")
    assert finding.text == "my-bucket lies in eu-west-1, and the job runs in us-east-1"


@pytest.mark.parametrize(("code", "status"), [("404", 404), ("403", 403)])
def test_a_bucket_that_is_not_there_or_somebody_else_s(
    account: Account, recipe_for: Callable[..., Recipe], code: str, status: int
) -> None:
    account.good("head_bucket", "get_bucket_encryption")
    account.refuses("s3", "head_bucket", code, status, **{"x-amz-bucket-region": "us-east-1"})
    assert only_missing(look(account, recipe_for()), "bucket").fix


def test_a_bucket_whose_encryption_nobody_may_see_is_still_good(
    account: Account, recipe_for: Callable[..., Recipe]
) -> None:
    account.good("get_bucket_encryption").refuses("s3", "get_bucket_encryption", "AccessDenied", 403)
    assert look(account, recipe_for())["bucket"].text.endswith("encryption: unknown")


def test_a_role_of_another_account(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    other = "arn:aws:iam::999999999999:role/trainer"
    finding = only_missing(look(account.good("get_role"), recipe_for(compute__role=other)), "role")
    assert "belongs to account 999999999999" in finding.text


def test_a_role_that_is_not_there(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.good("get_role").refuses("iam", "get_role", "NoSuchEntity", 404)
    assert "there is no role" in only_missing(look(account, recipe_for()), "role").text


@pytest.mark.parametrize(
    "statement",
    [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
        {"Effect": "Deny", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"},
        {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]},
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:TagSession"},
    ],
)
def test_a_role_that_does_not_trust_sagemaker(
    account: Account, recipe_for: Callable[..., Recipe], statement: dict[str, Any]
) -> None:
    account.good("get_role").answers("iam", "get_role", role({"Statement": statement}))
    assert "does not trust" in only_missing(look(account, recipe_for()), "role").text


def test_a_role_that_may_not_be_looked_at_is_unknown(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.good("get_role").refuses("iam", "get_role", "AccessDenied", 403)
    found = look(account, recipe_for())
    assert found["role"].state == "unknown"
    assert is_healthy(list(found.values()))


def test_an_image_of_another_region(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    uri = "763104351884.dkr.ecr.eu-west-1.amazonaws.com/huggingface-pytorch-training:x"
    finding = only_missing(look(account.good("batch_get_image"), recipe_for(image__uri=uri)), "image")
    assert "lies in eu-west-1" in finding.text


def test_an_image_that_is_not_there(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    absent = {"images": [], "failures": [{"failureCode": "ImageNotFound"}]}
    account.good("batch_get_image").answers("ecr", "batch_get_image", absent)
    assert "ECR has no" in only_missing(look(account, recipe_for()), "image").text


def test_an_image_that_nobody_may_ask_for_is_unknown(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.good("batch_get_image").refuses("ecr", "batch_get_image", "AccessDeniedException")
    assert look(account, recipe_for())["image"].state == "unknown"


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalErrorException"])
def test_a_price_list_that_is_down_is_no_failure(
    account: Account, recipe_for: Callable[..., Recipe], code: str
) -> None:
    account.good("get_products").refuses("pricing", "get_products", code)
    found = look(account, recipe_for())
    assert {finding.state for finding in found.values()} == {"ok"}
    assert "August 2026" in found["price"].text


@pytest.mark.parametrize("text", ["good", '{"token": "good"}'])
def test_a_gated_model_with_a_token_that_reads_it(
    account: Account, recipe_for: Callable[..., Recipe], text: str
) -> None:
    account.token = text
    found = look(account.good(), recipe_for(model__id="me/gated", secrets__hf_token="hub-token"))
    assert found["model"].text == "me/gated can be read with the token of hub-token"


def test_a_gated_model_with_a_token_that_does_not_read_it(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.token = "hidden"
    finding = only_missing(
        look(account.good(), recipe_for(model__id="me/gated", secrets__hf_token="hub-token")), "model"
    )
    assert "https://huggingface.co/me/gated" in finding.fix
    assert "hidden" not in str(finding)


def test_a_secret_of_bytes_holds_no_token(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.is_binary = True
    named = recipe_for(model__id="me/gated", secrets__hf_token="hub-token")
    finding = only_missing(look(account.good(), named), "model")
    assert "hub-token holds bytes and no text" in finding.text
    assert "--secret-string" in finding.fix
    assert "hidden" not in str(finding)


def test_a_check_that_breaks_is_said_with_its_place_and_takes_no_other_along(
    account: Account, recipe_for: Callable[..., Recipe]
) -> None:
    account.good("get_role").roles.append((200, {"Role": {"RoleName": "trainer"}}))
    found = look(account, recipe_for())
    assert [name for name, finding in found.items() if finding.state != "ok"] == ["role"]
    assert found["role"].state == "broken"
    assert "KeyError: 'AssumeRolePolicyDocument' (identity.py:" in found["role"].text
    assert find_exit_code(list(found.values())) == 1
    assert find_exit_code([*found.values(), Finding("bucket", "missing", "gone")]) == 3


def test_so_is_one_that_all_others_hang_on(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.stubs["sts"].add_response("get_caller_identity", {})
    found = look(account.good("get_caller_identity"), recipe_for())
    assert found["identity"].state == "broken"
    assert found["region"].state == "ok"


def test_a_region_that_is_none_is_not_asked_in(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    found = look(account.good(), recipe_for(compute__region="us-eastt-1"))
    assert found["identity"].state == "ok"
    assert found["region"].state == "missing"
    assert found["region"].text == "us-eastt-1 is not a region of AWS."
    assert found["region"].fix == "Did you mean us-east-1?"
    assert [name for name, finding in found.items() if finding.state == "unknown"] == [
        "permissions", "bucket", "places", "quota", "image",
    ]  # fmt: skip
    assert not account.asked or {call["PolicySourceArn"] for call in account.asked} == {ROLE}


def test_doctor_takes_the_flags_that_change_what_it_asks() -> None:
    words = ["--spot", "--max-runtime", "2h", "--max-wait", "3h", "--keep-alive", "20m"]
    args = make_parser().parse_args(["doctor", *words])
    assert (args.max_runtime, args.max_wait, args.keep_alive, args.spot) == ("2h", "3h", "20m", True)
    spot = load_recipe_from(make_parser().parse_args(["doctor", *words[:5]])).compute
    assert (spot.max_runtime_s, spot.max_wait_s) == (7200, 10800)
    assert load_recipe_from(make_parser().parse_args(["doctor", *words[5:]])).compute.keep_alive_s == 1200


def test_a_gated_model_without_a_token(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    assert "is gated" in only_missing(look(account.good(), recipe_for(model__id="me/gated")), "model").text


def test_a_model_that_is_not_on_the_hub(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    assert "cannot be seen" in only_missing(look(account.good(), recipe_for(model__id="me/none")), "model").text


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId"])
def test_expired_credentials_are_one_finding_and_the_rest_is_shown(
    account: Account, recipe_for: Callable[..., Recipe], code: str
) -> None:
    found = look(account.refuses("sts", "get_caller_identity", code, 403), recipe_for())
    assert found["identity"].state == "missing"
    assert "aws sso login" in found["identity"].fix
    assert [name for name, finding in found.items() if finding.state == "unknown"] == [
        "role", "job", "permissions", "bucket", "quota", "image",
    ]  # fmt: skip
    assert found["model"].state == found["price"].state == "ok"


def test_several_mistakes_are_all_shown_at_once(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    account.good("get_role", "list_service_quotas", "head_bucket", "get_bucket_encryption")
    account.answers("service-quotas", "list_service_quotas", page(0, 0, 0)).refuses("s3", "head_bucket", "404", 404)
    account.denied = {"sagemaker:CreateTrainingJob": "implicitDeny"}
    found = look(account, recipe_for(compute__role="arn:aws:iam::999999999999:role/x", model__id="me/gated"))
    missing = [name for name, finding in found.items() if finding.state == "missing"]
    assert missing == ["role", "permissions", "bucket", "quota", "model"]
    assert not is_healthy(list(found.values()))


def test_a_role_session_is_simulated_as_its_role(account: Account) -> None:
    account.answers("iam", "get_role", role(world.TRUST))
    session = Identity(ACCOUNT, f"arn:aws:sts::{ACCOUNT}:assumed-role/trainer/me@example.com")
    assert find_principal(account.clients["iam"], session) == ROLE
    assert find_principal(account.clients["iam"], Identity(ACCOUNT, USER)) == USER


def test_root_is_not_simulated(account: Account, recipe_for: Callable[..., Recipe]) -> None:
    root = {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:root", "UserId": "x"}
    found = look(account.answers("sts", "get_caller_identity", root).good("get_caller_identity"), recipe_for())
    assert "root user" in found["permissions"].text
    assert {call["PolicySourceArn"] for call in account.asked} == {ROLE}  # the job is not root
