"""What a plan costs, and the limits on it: the prices of AWS brought to the pure estimate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from launcher.aws.prices import start_pricing
from launcher.errors import InputError
from launcher.estimate import Estimate, check_fits, limit_cost, make_estimate
from launcher.plan import Plan
from launcher.price_table import Price
from launcher.recipe import Recipe

FindPrice = Callable[[], Price | None]


@dataclass(frozen=True)
class Costed:
    """A plan within its budget, with its estimate. `found.price` is None on this machine, which costs nothing."""

    plan: Plan
    found: Estimate

    def rows(self) -> list[tuple[str, str]]:
        if self.plan.recipe.compute.place == "local":
            return [row for row in self.found.rows() if row[0] == "memory"]
        return self.found.rows()

    def worth_asking(self) -> bool:
        """Whether the job may cost more than its owner wants to be asked about."""
        dollars = self.found.cost[1] if self.found.cost else self.found.at_most
        local = self.plan.recipe.compute.place == "local"
        return not local and dollars is not None and dollars > self.plan.recipe.compute.confirm_above


def start_price(recipe: Recipe) -> FindPrice:
    """Begin to look the price up; a job on this machine has none, and of several types the dearest counts."""
    if recipe.compute.place == "local":
        return _no_price
    asked = [start_pricing(instance, recipe.compute.region) for instance in recipe.compute.instances]
    return lambda: _dearest([find() for find in asked])


def _dearest(prices: list[Price | None]) -> Price | None:
    """None where one of them is not known: no limit could be kept."""
    known = [price for price in prices if price is not None]
    return max(known, key=lambda price: price.usd_per_hour) if len(known) == len(prices) else None


def _no_price() -> Price | None:
    return None


def make_costed(plan: Plan, find_price: FindPrice) -> Costed:
    """The plan within its cost limit; refuses one that cannot fit the GPU or the money. Local plans are only warned."""
    if plan.recipe.compute.place == "local":
        found = make_estimate(plan)
        return Costed(_with_warning(plan, found), found)
    for one in _iter_types(plan):
        check_fits(make_estimate(one), plan)
    found = make_estimate(plan, find_price())
    limited = limit_cost(plan, found)
    return Costed(limited, dataclasses.replace(found, max_runtime_s=limited.recipe.compute.max_runtime_s))


def _iter_types(plan: Plan) -> Iterator[Plan]:
    """The plan on each of the types it may run on."""
    for instance in plan.recipe.compute.instances:
        compute = dataclasses.replace(plan.recipe.compute, instances=(instance,))
        yield dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, compute=compute))


def _with_warning(plan: Plan, found: Estimate) -> Plan:
    try:
        check_fits(found, plan)
    except InputError as error:
        note = f"as a job on {found.instance} this would be refused: {error.message} {error.hint}"
        return dataclasses.replace(plan, notes=(*plan.notes, note))
    return plan


def keep_budget(plan: Plan) -> Plan:
    """For whoever submits without the command line: the same limits. A price is looked up only where one is needed."""
    needs_price = plan.recipe.compute.max_cost > 0
    return make_costed(plan, start_price(plan.recipe) if needs_price else _no_price).plan
