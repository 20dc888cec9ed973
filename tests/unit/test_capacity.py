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


def test_the_dearest_of_the_list_bounds_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(f"ml.g6.xlarge,ml.g6e.xlarge,{G5}")
    found = start_price(plan.recipe)()
    assert found is not None and found.usd_per_hour == 2.61
    assert start_price(plan_for(f"{G5},ml.g5.4xlarge").recipe)() is None  # one of them has no price here


def test_every_type_of_the_list_must_hold_the_job() -> None:
    big = {"model.compute_dtype": "float32", "training.gradient_checkpointing": False}
    plan = make_plan(load_recipe("llama2-lora", {"compute.instance": "ml.p5.4xlarge,ml.g4dn.xlarge", **big}))
    with pytest.raises(RecipeError, match=r"ml\.g4dn\.xlarge has a T4"):
        make_costed(plan, lambda: Price(1.0, "a test"))
