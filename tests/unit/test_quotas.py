"""Quotas by their names, and where an image lies by its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.stub import Stubber

from launcher.aws.places import split_image
from launcher.aws.quotas import fetch_quotas, quota_name
from launcher.home import state_home

LIST = {"ServiceCode": "sagemaker", "MaxResults": 100}
NAMES = [quota_name("ml.g5.xlarge", use) for use in ("training", "spot")]


@pytest.fixture(scope="module")
def client() -> Any:
    session = botocore.session.get_session()
    session.set_credentials("a", "b")
    return session.create_client("service-quotas", region_name="us-east-1")


@pytest.fixture
def stub(client: Any) -> Iterator[Stubber]:
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def page(*values: float) -> dict[str, Any]:
    quotas = zip(NAMES, values, strict=True)
    listed = [{"QuotaName": name, "QuotaCode": f"L-{name}", "Value": value} for name, value in quotas]
    return {"Quotas": [{"QuotaName": "something else", "QuotaCode": "L-9", "Value": 1.0}, *listed]}


def answer_by_code(stub: Stubber, name: str, value: float, found: str = "") -> None:
    quota = {"QuotaName": found or name, "QuotaCode": f"L-{name}", "Value": value}
    stub.add_response("get_service_quota", {"Quota": quota}, {"ServiceCode": "sagemaker", "QuotaCode": f"L-{name}"})


def test_quotas_seen_once_are_asked_for_by_code(client: Any, stub: Stubber) -> None:
    stub.add_response("list_service_quotas", page(2, 4), LIST)
    assert [quota.value for quota in fetch_quotas(client, NAMES).values()] == [2, 4]
    for name in NAMES:
        answer_by_code(stub, name, 7)
    assert [quota.value for quota in fetch_quotas(client, NAMES).values()] == [7, 7]


def test_codes_that_mean_something_else_by_now_are_listed_again(client: Any, stub: Stubber) -> None:
    stub.add_response("list_service_quotas", page(2, 4), LIST)
    fetch_quotas(client, NAMES)
    answer_by_code(stub, NAMES[0], 7, "ml.g5.xlarge for endpoint usage")
    answer_by_code(stub, NAMES[1], 7)
    stub.add_response("list_service_quotas", page(3, 3), LIST)
    assert fetch_quotas(client, NAMES)[NAMES[0]].value == 3


def test_a_code_that_aws_no_longer_knows_is_listed_again(client: Any, stub: Stubber) -> None:
    stub.add_response("list_service_quotas", page(2, 4), LIST)
    fetch_quotas(client, NAMES)
    answer_by_code(stub, NAMES[0], 7)
    stub.add_client_error("get_service_quota", "NoSuchResourceException", "no such quota")
    stub.add_response("list_service_quotas", page(3, 5), LIST)
    assert [quota.value for quota in fetch_quotas(client, NAMES).values()] == [3, 5]


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_a_broken_file_of_codes_is_passed_over(client: Any, stub: Stubber, content: str) -> None:
    (state_home() / "quota-codes.json").write_text(content)
    stub.add_response("list_service_quotas", page(1, 1), LIST)
    assert fetch_quotas(client, NAMES)[NAMES[0]].value == 1


def test_quotas_on_a_later_page_are_found(client: Any, stub: Stubber) -> None:
    stub.add_response("list_service_quotas", {"Quotas": [], "NextToken": "t"}, LIST)
    stub.add_response("list_service_quotas", page(3, 0), {**LIST, "NextToken": "t"})
    assert fetch_quotas(client, NAMES)[NAMES[0]].value == 3


def test_an_image_by_digest_and_one_from_elsewhere() -> None:
    found = split_image("111122223333.dkr.ecr.us-east-1.amazonaws.com/mine/image@sha256:abc")
    assert found and (found.repository, found.digest, found.tag) == ("mine/image", "sha256:abc", "")
    assert split_image("docker.io/library/python:3.12") is None
