"""Prices: from the Price List where it gives exactly one, else from the dated table, and always said which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from launcher.account.doctor import check_price
from launcher.account.doctor_scene import Scene
from launcher.aws import prices
from launcher.aws.prices import fetch_price, find_price, load_cached, start_pricing, table_price
from launcher.errors import CloudError, CredentialsError
from launcher.home import state_home
from launcher.recipe import load_recipe

EXPECTED = {
    "ServiceCode": "AmazonSageMaker",
    "Filters": [
        {"Type": "TERM_MATCH", "Field": "regionCode", "Value": "us-east-1"},
        {"Type": "TERM_MATCH", "Field": "component", "Value": "Training"},
        {"Type": "TERM_MATCH", "Field": "instanceName", "Value": "ml.g5.xlarge"},
    ],
    "FormatVersion": "aws_v1",
    "MaxResults": 100,
}


@pytest.fixture(scope="module")
def client() -> Any:
    session = botocore.session.get_session()
    session.set_credentials("a", "b")
    return session.create_client("pricing", region_name="us-east-1")


@pytest.fixture
def stub(client: Any) -> Iterator[Stubber]:
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def product(*dollars: str) -> str:
    dimensions = {f"d{number}": {"unit": "Hrs", "pricePerUnit": {"USD": value}} for number, value in enumerate(dollars)}
    return json.dumps({"product": {}, "terms": {"OnDemand": {"t": {"priceDimensions": dimensions}}}})


def answer(stub: Stubber, *products: str) -> None:
    stub.add_response("get_products", {"FormatVersion": "aws_v1", "PriceList": list(products)}, EXPECTED)


def test_the_one_price_that_is_not_zero_is_taken(client: Any, stub: Stubber) -> None:
    answer(stub, product("0.0000000000", "1.4084000000"), product("0.0"))
    assert fetch_price(client, "ml.g5.xlarge", "us-east-1") == 1.4084


def test_the_same_price_twice_is_one_price(client: Any, stub: Stubber) -> None:
    answer(stub, product("1.4"), product("1.40"))
    assert fetch_price(client, "ml.g5.xlarge", "us-east-1") == 1.4


@pytest.mark.parametrize(
    ("products", "words"),
    [
        ([], "no price for ml.g5.xlarge in us-east-1"),
        ([product("0.0")], "no price"),
        ([product("1.4", "1.5")], r"2 prices \(1.4, 1.5\)"),
        (["{", "[]", '{"terms": {}}', '{"terms": {"OnDemand": {"t": {"priceDimensions": {"d": {}}}}}}'], "no price"),
    ],
)
def test_none_or_two_prices_are_no_price(client: Any, stub: Stubber, products: list[str], words: str) -> None:
    answer(stub, *products)
    with pytest.raises(CloudError, match=words):
        fetch_price(client, "ml.g5.xlarge", "us-east-1")


def test_a_price_is_kept_for_a_day(client: Any, stub: Stubber) -> None:
    answer(stub, product("1.5"))
    found = find_price(client, "ml.g5.xlarge", "us-east-1")
    assert found and found.usd_per_hour == 1.5
    assert found.source == "AWS's price list for us-east-1, today"
    cached = load_cached("ml.g5.xlarge", "us-east-1")
    assert cached and cached.usd_per_hour == 1.5
    assert start_pricing("ml.g5.xlarge", "us-east-1")() == cached
    assert load_cached("ml.g5.xlarge", "us-west-2") is None
    assert load_cached("ml.g6.xlarge", "us-east-1") is None


@pytest.mark.parametrize("age", [timedelta(days=1, minutes=1), timedelta(days=-1)])
def test_an_old_price_is_asked_for_again(age: timedelta) -> None:
    entry = {"usd_per_hour": 1.5, "fetched": (datetime.now(UTC) - age).isoformat()}
    (state_home() / "prices.json").write_text(json.dumps({"us-east-1/ml.g5.xlarge": entry}))
    assert load_cached("ml.g5.xlarge", "us-east-1") is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"us-east-1/ml.g5.xlarge": 5}', "\x00"])
def test_a_broken_cache_is_passed_over_and_mended(client: Any, stub: Stubber, content: str) -> None:
    (state_home() / "prices.json").write_text(content)
    assert load_cached("ml.g5.xlarge", "us-east-1") is None
    answer(stub, product("1.5"))
    find_price(client, "ml.g5.xlarge", "us-east-1")
    assert load_cached("ml.g5.xlarge", "us-east-1")


def test_a_home_that_cannot_be_written_to_is_no_reason_to_fail(
    client: Any, stub: Stubber, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path / "file"))
    answer(stub, product("1.5"))
    found = find_price(client, "ml.g5.xlarge", "us-east-1")
    assert found and found.usd_per_hour == 1.5


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException", "ExpiredTokenException"])
def test_a_refused_look_up_falls_back_to_the_table_and_says_why(client: Any, stub: Stubber, code: str) -> None:
    stub.add_client_error("get_products", code, "not now", expected_params=EXPECTED)
    found = find_price(client, "ml.g5.xlarge", "us-east-1")
    assert found and found.usd_per_hour == 1.408
    assert found.source == f"list price in us-east-1 from August 2026, since AWS answered {code}: not now"


def test_the_table_says_its_date_its_region_and_when_there_is_none() -> None:
    assert table_price("ml.zz9.xlarge", "us-east-1") is None
    undated, elsewhere = table_price("ml.p5.48xlarge", "us-east-1"), table_price("ml.g5.xlarge", "eu-west-1")
    assert undated and undated.source.endswith("from an undated table")
    assert elsewhere and elsewhere.source.endswith("; eu-west-1 may differ")
    assert elsewhere.is_elsewhere and not undated.is_elsewhere


def test_without_credentials_nobody_is_asked() -> None:
    found = start_pricing("ml.g5.xlarge", "us-east-1")()
    assert found and "August 2026" in found.source
    assert "since" not in found.source


def test_another_partition_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    found = start_pricing("ml.g5.xlarge", "cn-north-1")()
    assert found and "cn-north-1 may differ" in found.source


def test_a_missing_profile_falls_back_to_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    found = start_pricing("ml.g5.xlarge", "us-east-1")()
    assert found and "since the sign-in cannot be used" in found.source


def test_a_list_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        start = time.monotonic()
        found = start_pricing("ml.g5.xlarge", "us-east-1")()
        assert time.monotonic() - start < prices.DEADLINE_S + 20  # a read of its own would wait for a minute
    assert found and found.source.endswith("since AWS's price list did not answer in time")


@pytest.mark.parametrize(
    ("region", "max_cost", "state"), [("eu-west-1", 5, "missing"), ("eu-west-1", 0, "ok"), ("us-east-1", 5, "ok")]
)
def test_doctor_misses_the_price_that_a_cost_limit_needs(region: str, max_cost: float, state: str) -> None:
    recipe = load_recipe(None, {"compute.instance": "ml.g5.xlarge", "compute.max_cost": max_cost})
    scene = Scene(recipe, region, problem=CredentialsError("nobody is signed in"))
    scene.start()
    assert check_price(scene).state == state


def test_a_region_of_the_profile_is_not_lost_when_the_list_is_silent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = sa-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setattr(prices, "DEADLINE_S", 0.0)
    found = start_pricing("ml.g5.xlarge")()
    assert found and found.is_elsewhere
    assert found.source.endswith("; sa-east-1 may differ, since AWS's price list did not answer in time")


def test_botocore_s_words_for_a_dead_network_are_explained(client: Any) -> None:
    def refuse(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://api.pricing.us-east-1.amazonaws.com")

    client.meta.events.register("before-call.pricing.GetProducts", refuse, "refuse")
    found = find_price(client, "ml.g5.xlarge", "us-east-1")
    client.meta.events.unregister("before-call.pricing.GetProducts", unique_id="refuse")
    assert found and found.source.endswith(", since the connection failed")
