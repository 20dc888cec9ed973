"""Of a list of instance types, those with a quota of 0 are left out before anything is sent, and it is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
from botocore.stub import Stubber

from launcher.aws.session import Session
from launcher.budget import make_costed, start_price
from launcher.capacity import drop_unavailable
from launcher.errors import RecipeError, SiteError
from launcher.plan import Plan, make_plan
from launcher.price_table import Price
from launcher.recipe import load_recipe

G5, G6 = "ml.g5.xlarge", "ml.g6.xlarge"


@pytest.fixture
def quotas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Session, Stubber]]:
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path))
    client = botocore.session.get_session().create_client(
        "service-quotas", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    session = Session("aws", "us-east-1")
    session._clients["service-quotas"] = client
    with Stubber(client) as stub:
        yield session, stub


def plan_for(instances: str, **overrides: object) -> Plan:
    return make_plan(load_recipe("tinyllama-chatdoctor", {"compute.instance": instances, **overrides}))


def answer(stub: Stubber, **values: float) -> None:
    quotas = [
        {"QuotaName": f"ml.{name}.xlarge for training job usage", "QuotaCode": f"L-{name}", "Value": value}
        for name, value in values.items()
    ]
    stub.add_response("list_service_quotas", {"Quotas": quotas}, {"ServiceCode": "sagemaker", "MaxResults": 100})


def test_a_type_without_a_quota_is_left_out_and_said(quotas: tuple[Session, Stubber]) -> None:
    session, stub = quotas
    answer(stub, g5=0, g6=2)
    said: list[str] = []
    plan = drop_unavailable(plan_for(f"{G5},{G6}"), session, said.append)
    assert plan.recipe.compute.instances == (G6,)
    assert said == [f"note: left out {G5}, for which the account's quota is 0"]


def test_no_type_left_is_refused_with_the_page_to_ask_on(quotas: tuple[Session, Stubber]) -> None:
    session, stub = quotas
    answer(stub, g5=0, g6=0)
    with pytest.raises(SiteError, match="quota is 0 for all") as refused:
        drop_unavailable(plan_for(f"{G5},{G6}"), session)
    assert "servicequotas" in refused.value.hint and refused.value.exit_code == 3


def test_a_quota_below_the_count_is_as_good_as_none(quotas: tuple[Session, Stubber]) -> None:
    session, stub = quotas
    two = {"compute.count": 2}
    said: list[str] = []
    answer(stub, g5=1, g6=2)
    assert drop_unavailable(plan_for(f"{G5},{G6}", **two), session, said.append).recipe.compute.instances == (G6,)
    assert said == [f"note: left out {G5}, for which the account's quota is below the 2 that the job takes"]


def test_quotas_all_below_the_count_are_refused(quotas: tuple[Session, Stubber]) -> None:
    session, stub = quotas
    answer(stub, g5=1, g6=1)
    with pytest.raises(SiteError, match="quota is below the 2 that the job takes for all of"):
        drop_unavailable(plan_for(f"{G5},{G6}", **{"compute.count": 2}), session)


def test_quotas_that_cannot_be_read_drop_nothing(quotas: tuple[Session, Stubber]) -> None:
    session, stub = quotas
    stub.add_client_error("list_service_quotas", "AccessDeniedException", "no servicequotas:ListServiceQuotas")
    said: list[str] = []
    assert drop_unavailable(plan_for(f"{G5},{G6}"), session, said.append).recipe.compute.instances == (G5, G6)
    assert "could not be looked up" in said[0]


def test_a_single_type_asks_nobody(quotas: tuple[Session, Stubber]) -> None:
    session, stub = quotas
    plan = plan_for(G5)
    assert drop_unavailable(plan, session) is plan
    stub.assert_no_pending_responses()


PRICES = {G5: Price(1.408, "a test"), G6: Price(1.127, "a test"), "ml.g6e.xlarge": Price(2.61, "a test")}


def test_the_dearest_of_the_list_bounds_the_cost_whatever_its_place() -> None:
    plan = plan_for(f"{G6},ml.g6e.xlarge,{G5}", **{"compute.max_cost": 2})
    limited = make_costed(plan, PRICES.get)
    assert (limited.plan.recipe.compute.max_runtime_s + 120) / 3600 * 2.61 == pytest.approx(2, abs=0.001)
    assert {one.max_runtime_s for one in limited.each} == {limited.plan.recipe.compute.max_runtime_s}
    with pytest.raises(RecipeError, match=r"buys 0 minutes of ml\.g6\.xlarge"):
        make_costed(plan_for(f"{G6},{G5}", **{"compute.max_cost": 0.01}), PRICES.get)


def test_each_type_of_the_list_is_shown_with_its_own_time_and_money() -> None:
    types = (G6, "ml.g6e.xlarge", G5)
    costed = make_costed(plan_for(",".join(types)), PRICES.get)
    for name, line in zip(types, costed.lines(), strict=True):
        alone = make_costed(plan_for(name), PRICES.get)
        assert line == alone.found.line()
        assert {(row, f"{name}: {words}") for row, words in alone.rows()} <= set(costed.rows())
    asks = plan_for(f"{G6},{G5}", **{"compute.confirm_above": max(one.cost[1] for one in costed.each if one.cost) / 2})
    assert make_costed(asks, PRICES.get).worth_asking()


def test_the_type_without_a_price_is_the_one_that_is_named() -> None:
    types = f"{G5},ml.p3.2xlarge"
    find_price = start_price(plan_for(types).recipe)
    assert [found.usd_per_hour if (found := find_price(name)) else None for name in types.split(",")] == [1.408, None]
    rows = make_costed(plan_for(types), PRICES.get).rows()
    (unknown,) = [words for name, words in rows if name == "cost" and "no price" in words]
    assert unknown == "ml.p3.2xlarge: not known: there is no price for ml.p3.2xlarge here"
    with pytest.raises(RecipeError, match=r"there is no price for ml\.p3\.2xlarge here"):
        make_costed(plan_for(types, **{"compute.max_cost": 5}), PRICES.get)


def test_every_type_of_the_list_must_hold_the_job() -> None:
    big = {"model.compute_dtype": "float32", "training.gradient_checkpointing": False}
    plan = make_plan(load_recipe("llama2-lora", {"compute.instance": "ml.p5.4xlarge,ml.g4dn.xlarge", **big}))
    with pytest.raises(RecipeError, match=r"ml\.g4dn\.xlarge has a T4"):
        make_costed(plan, lambda _: Price(1.0, "a test"))
