"""Memory and money of a plan: what is refused, what is limited, what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.budget import Costed, keep_budget, make_costed
from launcher.errors import RecipeError
from launcher.plan import Plan, make_plan
from launcher.price_table import Price
from launcher.recipe import load_recipe
from launcher.request import Site, make_request

G5 = Price(1.408, "a test")
FARAWAY = Price(1.408, "list price in us-east-1; sa-east-1 may differ", is_elsewhere=True)
SITE = Site("000000000000", "us-east-1", "bucket", "arn:aws:iam::000000000000:role/x")
MakePlan = Callable[..., Plan]


@pytest.fixture
def plan_for(write_rows: Callable[..., Path]) -> MakePlan:
    train = write_rows("train.jsonl", [{"text": f"row {number} " + "word " * 200} for number in range(64)])
    held_out = write_rows("eval.jsonl", [{"text": f"eval {number} " + "word " * 200} for number in range(64)])

    files = {"data.train": str(train), "data.eval": str(held_out)}

    def make(name: str = "qwen2.5-1.5b-medical", **overrides: Any) -> Plan:
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        return make_plan(load_recipe(name, {**files, "compute.instance": "ml.g5.xlarge", **keys}))

    return make


def cost(plan: Plan, price: Price | None = G5) -> Costed:
    return make_costed(plan, lambda _: price)


def rows(costed: Costed) -> dict[str, str]:
    return dict(costed.rows())


def test_a_plan_shows_its_memory_its_time_and_its_money(plan_for: MakePlan) -> None:
    shown = rows(cost(plan_for()))
    assert "fits the A10G's 24 GB" in shown["memory"]
    assert "minutes for 200 steps" in shown["time"]
    assert "at most $5.68 ($1.408 an hour, a test)" in shown["cost"]  # 4 h, and 2 minutes to stop
    low, high = cost(plan_for()).found.cost or (0, 0)
    assert 0 < low < high < 5.68


def test_several_instances_cost_several_times_as_much(plan_for: MakePlan) -> None:
    two = plan_for(compute__count=2)
    assert cost(two).found.at_most == pytest.approx(2 * (4 + 120 / 3600) * 1.408)


def test_a_warm_pool_is_billed_after_the_job_and_stands_in_the_sum_and_under_the_limit(plan_for: MakePlan) -> None:
    plain, warm = (cost(plan_for(compute__keep_alive=seconds)).found for seconds in (0, 3600))
    assert warm.at_most == pytest.approx((plain.at_most or 0) + 1.408)
    assert plain.cost and warm.cost
    assert warm.cost == pytest.approx((plain.cost[0], plain.cost[1] + 1.408))  # the next job may take it over at once
    assert "at most $7.09 ($1.408 an hour, a test; 3,600 s of its warm pool included)" in dict(warm.rows())["cost"]
    limited = cost(plan_for(compute__keep_alive=3600, compute__max_cost=2)).plan
    seconds = limited.recipe.compute.max_runtime_s
    assert 1.99 < (seconds + 120 + 3600) / 3600 * 1.408 <= 2
    with pytest.raises(
        RecipeError, match=r"\$1.50 buys 2 minutes of ml.g5.xlarge beside 60 of its warm pool"
    ) as refused:
        cost(plan_for(compute__keep_alive=3600, compute__max_cost=1.5))
    assert "keep the instance alive for less time" in refused.value.hint


def test_a_spot_job_and_the_one_on_demand_after_it_may_each_run_to_the_limit(plan_for: MakePlan) -> None:
    both = cost(plan_for(compute__spot=True, compute__on_demand_after_wait=True))
    assert both.found.at_most == pytest.approx(2 * (4 + 120 / 3600) * 1.408)
    assert "each up to the limit" in rows(both)["cost"]
    limited = cost(plan_for(compute__spot=True, compute__on_demand_after_wait=True, compute__max_cost=3)).plan
    assert 2.99 < 2 * (limited.recipe.compute.max_runtime_s + 120) / 3600 * 1.408 <= 3
    with pytest.raises(RecipeError, match="for each of two jobs") as refused:
        cost(plan_for(compute__spot=True, compute__on_demand_after_wait=True, compute__max_cost=0.1))
    assert "leave on_demand_after_wait out" in refused.value.hint


def test_spot_is_said_to_have_no_list_price(plan_for: MakePlan) -> None:
    assert "never above" in rows(cost(plan_for(compute__spot=True)))["spot"]
    assert "spot" not in rows(cost(plan_for()))


def test_an_unknown_model_or_price_is_said_and_refuses_nothing(plan_for: MakePlan) -> None:
    unknown = rows(cost(plan_for(model__id="nobody/nothing"), None))
    assert "nobody/nothing is not known" in unknown["memory"]
    assert "not estimated" in unknown["time"]
    assert "no price for ml.g5.xlarge" in unknown["cost"]


def test_an_unknown_instance_still_has_its_memory(plan_for: MakePlan) -> None:
    shown = rows(cost(plan_for(compute__instance="ml.g99.xlarge")))
    assert "GiB" in shown["memory"]
    assert "the GPU of ml.g99.xlarge is not known" in shown["time"]


def test_a_job_whose_price_nobody_knows_is_asked_about(plan_for: MakePlan) -> None:
    plan = plan_for(compute__instance="ml.p4de.24xlarge")
    assert cost(plan, None).worth_asking()
    assert not cost(plan_for(), G5).worth_asking()
    assert not cost(plan_for(compute__instance="local"), None).worth_asking()


def test_a_gpu_whose_speed_is_not_known_still_has_its_memory_and_is_recommended_to_nobody(plan_for: MakePlan) -> None:
    shown = rows(cost(plan_for(compute__instance="ml.p6-b200.48xlarge")))
    assert "fits the B200's 179 GB" in shown["memory"]
    assert "the speed of the B200 is not known here" in shown["time"]
    long = {"data__max_length": 4096, "data__padding": "max_length"}
    # the next larger ones are the older V100 of p3dn, and g7's GPU, whose speed is not known either
    on_eight = rows(cost(plan_for(compute__instance="ml.g5.48xlarge", **long)))
    assert "; ml.p4d.24xlarge's would do" in on_eight["memory"]


def test_a_model_in_s3_that_has_no_name_is_unknown(plan_for: MakePlan, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[model]\ns3 = "s3://b/m/"\n[data]\ntrain = "train.jsonl"\n')
    shown = rows(cost(plan_for(str(recipe))))
    assert "model.id does not say" in shown["memory"]


def test_what_cannot_fit_is_refused_with_what_would(plan_for: MakePlan) -> None:
    huge = plan_for(
        "llama2-lora", model__compute_dtype="float32", training__gradient_checkpointing=False,
        compute__instance="ml.g4dn.xlarge",
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"at least \d\d\.\d GiB .* ml.g4dn.xlarge has a T4 of 16 GB") as refused:
        cost(huge)
    assert refused.value.exit_code == 2
    assert refused.value.hint == "What would help: model.load_in_4bit = true; --instance ml.g6e.xlarge."
    with pytest.raises(RecipeError, match="GiB"):
        keep_budget(huge)  # a notebook's submit


def test_several_gpus_cannot_step_down_and_are_told_what_to_set(plan_for: MakePlan) -> None:
    wide = {"training__per_device_train_batch_size": 6, "data__padding": "max_length"}
    with pytest.raises(RecipeError, match="GiB") as refused:
        cost(plan_for(compute__instance="ml.g5.12xlarge", **wide))
    for advice in ("gradient_checkpointing = true", "per_device_train_batch_size", "--instance ml."):
        assert advice in refused.value.hint
    alone = rows(cost(plan_for(**wide)))
    assert "fits the A10G's 24 GB" in alone["memory"] and alone["step"].startswith("fast: ")


def test_an_evaluation_that_cannot_fit_is_refused_before_the_first_one_fails(plan_for: MakePlan) -> None:
    """Of several GPUs: one alone takes fewer rows at once by itself."""
    wide = {"training__per_device_eval_batch_size": 64, "data__padding": "max_length"}
    several = {**wide, "compute__count": 2}
    with pytest.raises(RecipeError, match="GiB") as refused:
        cost(plan_for(**several))
    assert "a smaller per_device_eval_batch_size" in refused.value.hint
    assert "fits" in rows(cost(plan_for(**several, data__eval="", training__eval_strategy="no")))["memory"]
    alone, packed = (rows(cost(plan_for(**wide, training__fast_step=way)))["memory"] for way in ("off", "auto"))
    assert "fits the A10G's 24 GB by fewer rows at once" in alone
    assert packed.endswith("fits the A10G's 24 GB")


def test_few_rows_are_evaluated_in_smaller_batches(plan_for: MakePlan, write_rows: Callable[..., Path]) -> None:
    few = write_rows("few.jsonl", [{"text": f"few {number}"} for number in range(4)])
    plan = plan_for(training__per_device_eval_batch_size=64, data__padding="max_length", data__eval=str(few))
    assert "fits" in rows(cost(plan))["memory"]


def test_what_may_fit_is_not_refused(plan_for: MakePlan) -> None:
    doubtful = plan_for("llama2-lora", compute__instance="ml.g4dn.xlarge", data__max_length=2048)
    assert "may not fit the T4's 16 GB; ml.g5.xlarge's would do" in rows(cost(doubtful))["memory"]


def test_on_this_machine_it_is_only_a_note_and_nothing_costs_money(plan_for: MakePlan) -> None:
    local = plan_for(
        "llama2-lora", compute__instance="local", model__compute_dtype="float32",
        training__per_device_train_batch_size=16, training__gradient_accumulation_steps=1, model__smoke=False,
        training__gradient_checkpointing=False,
    )  # fmt: skip
    costed = cost(local)
    assert [name for name, _ in costed.rows()] == ["memory"]
    assert any("would be refused" in note for note in costed.plan.notes)
    assert not costed.worth_asking()


def test_a_cost_limit_becomes_a_time_limit_in_the_request_and_in_the_job(plan_for: MakePlan) -> None:
    limited = cost(plan_for(compute__max_cost=2)).plan
    seconds = limited.recipe.compute.max_runtime_s
    assert (seconds + 120) / 3600 * 1.408 <= 2
    assert seconds > 4900
    request = make_request(limited, SITE)
    assert request["StoppingCondition"]["MaxRuntimeInSeconds"] == seconds
    assert request["HyperParameters"]["max_runtime_s"] == str(seconds)
    assert cost(limited).plan == limited
    assert limited.config.recipe_digest == plan_for().config.recipe_digest  # the run goes on under another limit


def test_another_region_s_price_is_shown_where_nothing_is_promised(plan_for: MakePlan) -> None:
    assert "sa-east-1 may differ" in rows(cost(plan_for(), FARAWAY))["cost"]


def test_a_cost_limit_above_the_time_limit_changes_nothing(plan_for: MakePlan) -> None:
    plan = plan_for(compute__max_cost=100)
    assert cost(plan).plan is plan


def test_a_cost_limit_holds_for_all_instances_together(plan_for: MakePlan) -> None:
    limited = cost(plan_for(compute__max_cost=2, compute__count=2)).plan
    assert (limited.recipe.compute.max_runtime_s + 120) / 3600 * 2 * 1.408 <= 2


@pytest.mark.parametrize(
    ("price", "max_cost", "words"),
    [
        (G5, 0.01, r"\$0.01 buys 0 minutes .* takes at least 3"),
        (None, 5, "no price for ml.g5.xlarge"),
        (FARAWAY, 5, r"only another region's price is known here: \$1.408 an hour \(list price in us-east-1"),
    ],
)
def test_a_cost_limit_that_cannot_be_kept_is_refused(
    plan_for: MakePlan, price: Price | None, max_cost: float, words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        cost(plan_for(compute__max_cost=max_cost), price)


@pytest.mark.parametrize("value", ["five", "-1", "nan", -1, float("nan"), float("inf"), True])
def test_a_cost_limit_that_is_no_sum_of_money_is_refused(plan_for: MakePlan, value: object) -> None:
    with pytest.raises(RecipeError, match=r"compute\.max_cost"):
        plan_for(compute__max_cost=value)


@pytest.mark.parametrize("value", [5, 5.0, "5", "$5", "5.00"])
def test_a_cost_limit_is_written_in_any_of_these_ways(plan_for: MakePlan, value: object) -> None:
    assert plan_for(compute__max_cost=value).recipe.compute.max_cost == 5.0


def test_asking_goes_by_what_the_job_may_cost(plan_for: MakePlan) -> None:
    assert not cost(plan_for()).worth_asking()  # its limit is 5.68, but it takes minutes
    assert cost(plan_for(compute__confirm_above=0.05)).worth_asking()
    assert cost(plan_for(model__id="nobody/nothing", compute__confirm_above=5)).worth_asking()


def test_keeping_the_best_adapter_without_eval_rows_is_refused_in_a_sentence(plan_for: MakePlan) -> None:
    with pytest.raises(RecipeError, match="go by the eval loss, and there are no eval rows"):
        plan_for("llama2-lora", data__eval="")
