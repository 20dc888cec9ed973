"""A secret in a recipe, a request or a bundle is refused before anything is sent, and never repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.aws.shapes import check_request
from launcher.aws.site import LOCAL_SITE
from launcher.errors import InputError
from launcher.plan import make_plan
from launcher.recipe import load_recipe
from launcher.request import make_request

# put together here, so that no scanner takes this file for a leak
HUB = "hf_" + "aB3" * 12
ACCESS = "AKIA" + "ABCDEFGH12345678"
SECRETS = {
    "hub": HUB,
    "access key": ACCESS,
    "session key": "ASIA" + "ABCDEFGH12345678",
    "secret key": "AWS_SECRET_ACCESS_KEY=" + "abcd/EFGH+" * 4,
    "api key": "sk-" + "a1B2" * 8,
    "project key": "sk-proj-" + "a1B2" * 8,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}


@pytest.fixture
def request_of_a_plan() -> dict[str, Any]:
    return make_request(make_plan(load_recipe("qwen2.5-1.5b-medical"), "mine"), LOCAL_SITE)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize("where", ["HyperParameters", "Environment", "Tags"])
def test_a_secret_in_a_request_is_refused(request_of_a_plan: dict[str, Any], where: str, secret: str) -> None:
    part = [{"Key": "note", "Value": secret}] if where == "Tags" else {"note": secret}
    with pytest.raises(InputError) as caught:
        check_request(request_of_a_plan | {where: part})
    assert where in caught.value.message
    assert secret not in str(caught.value)
    assert "secrets.hf_token" in caught.value.hint


@pytest.mark.parametrize("key", ["model.id", "secrets.hf_token", "training.report_to", "name", "output.prefix"])
def test_a_secret_in_a_recipe_is_refused_with_its_key(key: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("qwen2.5-1.5b-medical", {key: HUB}, origins={key: "--set"})
    assert f"--set: {key} holds a Hugging Face token" in caught.value.message
    assert HUB not in str(caught.value)


def test_a_secret_in_a_file_of_the_bundle_is_refused_with_its_line(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "rewards.py").write_text(f"import os\n\nKEY = '{ACCESS}'\n")
    with pytest.raises(InputError) as caught:
        make_plan(load_recipe("qwen2.5-1.5b-medical", {"code.files": [str(own)]}))
    assert f"{own / 'rewards.py'}:3 holds an AWS access key" in caught.value.message
    assert ACCESS not in str(caught.value)


@pytest.mark.parametrize(
    "innocent",
    [
        "hf_token",
        "hf_hub_download",
        "task-force-one-two-three-four",
        "sk-learn-contrib-something-long",
        "AKIA",
        "a" * 64,
    ],
)
def test_ordinary_words_pass(request_of_a_plan: dict[str, Any], innocent: str) -> None:
    check_request(request_of_a_plan | {"Environment": {"NOTE": innocent}})


def test_too_many_and_too_long_hyperparameters_are_refused_with_their_place(request_of_a_plan: dict[str, Any]) -> None:
    many = request_of_a_plan | {"HyperParameters": {f"key{number}": "1" for number in range(101)}}
    with pytest.raises(InputError, match="hyperParameters.*less than or equal to 100"):
        check_request(many)
    long = request_of_a_plan | {"HyperParameters": {"note": "x" * 3000}}
    with pytest.raises(InputError, match="less than or equal to 2500") as caught:
        check_request(long)
    assert len(caught.value.message) < 700
