"""What a plan costs, and the limits on it: the prices of AWS brought to the pure estimate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from launcher.aws.prices import start_pricing
from launcher.errors import InputError
from launcher.estimates.estimate import Estimate, check_fits, limit_cost, make_estimate
from launcher.plan import Plan
from launcher.price_table import Price
from launcher.recipe import Recipe

FindPrice = Callable[[str], Price | None]  # of an instance type


@dataclass(frozen=True)
class Costed:
    """A plan within its budget, with its estimate on `each` type that it may run on.

    A price is None on this machine, which costs nothing.
    """

    plan: Plan
    each: tuple[Estimate, ...]

    @property
    def found(self) -> Estimate:
        return self.each[0]

    def rows(self) -> list[tuple[str, str]]:
        if self.plan.recipe.compute.place == "local":
            return [row for row in self.found.rows() if row[0] == "memory"]
        if len(self.each) == 1:
            return self.found.rows()
        return [(name, f"{one.instance}: {words}") for one in self.each for name, words in one.rows()]

    def lines(self) -> list[str]:
        """What a submit says: one line for each type."""
        return [one.line() for one in self.each]

    def worth_asking(self) -> bool:
        """Whether the job may cost more than its owner wants to be asked about; one of unknown price may."""
        if self.plan.recipe.compute.place == "local":
            return False
        dollars = [one.cost[1] if one.cost else one.at_most for one in self.each]
        return any(most is None or most > self.plan.recipe.compute.confirm_above for most in dollars)


def start_price(recipe: Recipe) -> FindPrice:
    """Begin to look the price of each type up; a job on this machine has none."""
    if recipe.compute.place == "local":
        return _no_price
    asked = {instance: start_pricing(instance, recipe.compute.region) for instance in recipe.compute.instances}
    return lambda instance: asked[instance]()


def _no_price(instance: str) -> Price | None:
    return None


def make_costed(plan: Plan, find_price: FindPrice) -> Costed:
    """The plan within its cost limit; refuses one that cannot fit the GPU or the money. Local plans are only warned."""
    if plan.recipe.compute.place == "local":
        found = make_estimate(plan)
        return Costed(_with_warning(plan, found), (found,))
    typed = [*_iter_types(plan)]
    each = [make_estimate(one) for one in typed]
    for found, one in zip(each, typed, strict=True):
        check_fits(found, one)
    each = [dataclasses.replace(found, price=find_price(found.instance)) for found in each]
    limited = plan
    for found in each:  # whichever of them AWS takes
        limited = limit_cost(limited, found)
    limit_s = limited.recipe.compute.max_runtime_s
    return Costed(limited, tuple(dataclasses.replace(found, max_runtime_s=limit_s) for found in each))


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
