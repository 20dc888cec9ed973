"""Memory, time and money for a plan. Pure: prices are an argument."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import RecipeError
from launcher.estimates.fast_model import WITHOUT_BFLOAT16
from launcher.estimates.memory_model import Memory, UnknownShape, find_model_config, make_shape, usable_gib, whole_gib
from launcher.estimates.step_model import estimate_steps
from launcher.estimates.time_model import REACHABLE_TFLOPS, Duration, Rows, estimate_duration
from launcher.instances import INSTANCES, Instance, find_instance
from launcher.plan import Plan
from launcher.price_table import Price

# Bytes of a row's JSON for one token: English in a vocabulary of 32,000 to 150,000 words has 3.5 to 5 bytes of text a
# token, other scripts less; the keys and escapes around it add some. Tokens are not counted in a plan.
BYTES_PER_TOKEN = (2.5, 6.0)
# Where a job's time is not known: what its start takes at least.
SHORTEST_S = 300
# SageMaker waits so long between SIGTERM and SIGKILL at the limit, and bills it.
STOPPING_S = 120


@dataclass(frozen=True)
class Estimate:
    """What a plan takes; `unknown` says why memory or time are missing."""

    instance: str
    count: int
    max_runtime_s: int
    spot: bool
    keep_alive_s: int = 0
    jobs: int = 1
    memory: Memory | None = None
    duration: Duration | None = None
    price: Price | None = None
    way: str = ""
    basis: str = ""
    evaluating: str = ""
    unknown: str = ""

    @property
    def at_most(self) -> float | None:
        """Dollars, when the job and one that follows it run to their limits and stop slowly; then a warm pool."""
        return self._dollars(self.jobs * (self.max_runtime_s + STOPPING_S) + self.keep_alive_s)

    @property
    def cost(self) -> tuple[float, float] | None:
        """Dollars, low and high; the limit ends whatever takes longer. The next job may take a warm pool at once."""
        shortest, longest = self._billed()
        low, high = self._dollars(shortest), self._dollars(longest + self.keep_alive_s)
        return None if low is None or high is None or not self.duration else (low, high)

    def _billed(self) -> tuple[float, float]:
        found = self.duration or Duration(0, self.max_runtime_s)
        return min(found.low, self.max_runtime_s), min(found.high, self.max_runtime_s)

    def _dollars(self, seconds: float) -> float | None:
        return None if self.price is None else self.price.usd_per_hour * self.count * seconds / 3600

    def rows(self) -> list[tuple[str, str]]:
        """As a plan shows it."""
        rows = [("memory", self._memory_words()), ("time", self._time_words()), ("cost", self._cost_words())]
        if self.way:
            rows.insert(0, ("step", self.way))
        if self.spot and self.price:
            rows.append(("spot", "no list price; never above the price on demand, AWS speaks of up to 90% less"))
        return rows

    def line(self) -> str:
        """What a submit says in one line."""
        return f"{self.instance}: {self._time_words()}; {self._cost_words()}"

    def _memory_words(self) -> str:
        if self.memory is None:
            return f"not estimated: {self.unknown}"
        verdict = self._verdict(self.memory)
        return f"{verdict}; {self.evaluating}" if self.evaluating else verdict

    def _verdict(self, memory: Memory) -> str:
        known = find_instance(self.instance)
        low, high = memory.low, memory.high
        words = f"{low:.1f} to {high:.1f} GiB at the peak, {memory.peak:.1f} when every row is as long as max_length"
        if known is None:
            return words
        gpu = f"the {known.gpu}'s {known.gpu_memory_gb} GB"
        if high <= usable_gib(known):
            return f"{words}: fits {gpu}"
        if memory.enough <= usable_gib(known):
            return f"{words}: fits {gpu} by fewer rows at once, or activations recomputed"
        larger = _smallest_that_fits(memory, known)
        verdict = "may not fit" if memory.least <= whole_gib(known) else "does not fit"
        return f"{words}: {verdict} {gpu}" + (f"; {larger}'s would do" if larger else "")

    def _time_words(self) -> str:
        if self.duration is None:
            return f"not estimated: {self.unknown}"
        words = f"{self.duration.minutes()} for {self.duration.steps:,} steps, the start included ({self.basis})"
        if self.duration.low > self.max_runtime_s:
            words += f"; the limit of {self.max_runtime_s:,} s ends it before its last step"
        return words

    def _cost_words(self) -> str:
        if self.price is None or self.at_most is None:
            return f"not known: there is no price for {self.instance} here"
        rate = f"${self.price.usd_per_hour:,.3f} an hour" + (f" x {self.count}" if self.count > 1 else "")
        most = f"at most ${self.at_most:,.2f} ({rate}, {self.price.source}{self._what_is_in_it()})"
        return f"${self.cost[0]:,.2f} to ${self.cost[1]:,.2f}, {most}" if self.cost else most

    def _what_is_in_it(self) -> str:
        words = "; the spot job and the one on demand after it, each up to the limit" if self.jobs > 1 else ""
        return words + (f"; {self.keep_alive_s:,} s of its warm pool included" if self.keep_alive_s else "")


def make_estimate(plan: Plan, price: Price | None = None) -> Estimate:
    compute = plan.recipe.compute
    found = Estimate(
        compute.instance,
        compute.count,
        compute.max_runtime_s,
        compute.spot,
        compute.keep_alive_s,
        jobs=2 if compute.on_demand_after_wait else 1,
        price=price,
    )
    config, known = plan.config, find_instance(compute.instance)
    try:
        if config.smoke:
            raise UnknownShape("a stand-in takes a fraction of any GPU, and a few minutes")
        if plan.recipe.model.s3 and "model.id" not in plan.recipe.origins:
            raise UnknownShape("the model lies in S3, and model.id does not say which it is")
        model = find_model_config(config, _model_folder(plan))
        shape = make_shape(model)
    except UnknownShape as reason:
        return dataclasses.replace(found, unknown=str(reason))
    train, evaluation = _find_rows(plan, "train"), _find_rows(plan, "eval", "test")
    full = train or Rows(0, config.max_length, config.max_length)
    processes = plan.gpus * compute.count
    steps = estimate_steps(config, model, full, evaluation, known, processes)
    found = dataclasses.replace(
        found, memory=steps.memory, way=steps.way, basis=steps.basis, evaluating=steps.evaluating
    )
    if not known or not steps.duration or not train:
        what = f"speed of the {known.gpu}" if known and not steps.duration else f"GPU of {compute.instance}"
        return dataclasses.replace(found, unknown=f"the {what} is not known here")
    duration = estimate_duration(shape, config, steps.duration, train, steps.scoring, processes, steps.again)
    return dataclasses.replace(found, duration=duration)


def _model_folder(plan: Plan) -> Path | None:
    folder = plan.recipe.resolve(plan.config.model_name_or_path)
    return folder if folder.is_dir() else None


def _find_rows(plan: Plan, *names: str) -> Rows | None:
    """Of the first of these channels that there is. Tokens by bytes; no row has more than max_length."""
    channel = next((channel for name in names for channel in plan.channels if channel.name == name), None)
    if channel is None or not channel.rows:
        return None
    average = channel.bytes / channel.rows
    few, many = (min(average / ratio, plan.config.max_length) for ratio in reversed(BYTES_PER_TOKEN))
    return Rows(channel.rows, max(few, 1.0), max(many, 1.0))


def check_fits(found: Estimate, plan: Plan) -> None:
    """Refuse what surely does not fit, however far the job steps down: even its least is above all of the memory."""
    known = find_instance(found.instance)
    if found.memory is None or known is None or found.memory.least <= whole_gib(known):
        return
    raise RecipeError(
        f"The job needs at least {found.memory.least:.1f} GiB of GPU memory, and {found.instance} has a {known.gpu} of "
        f"{known.gpu_memory_gb} GB.",
        hint=_what_would_fit(found.memory, known, plan),
    )


def _what_would_fit(memory: Memory, known: Instance, plan: Plan) -> str:
    advice, config = [], plan.config
    if plan.is_distributed and not config.gradient_checkpointing:  # one process steps down by itself
        advice.append("training.gradient_checkpointing = true")
    if plan.is_distributed and config.per_device_train_batch_size > 1:
        advice.append("a smaller per_device_train_batch_size with more gradient_accumulation_steps")
    wide = plan.is_distributed and config.per_device_eval_batch_size > 1
    if wide and memory.scored > whole_gib(known) > memory.base:
        advice.append("a smaller per_device_eval_batch_size")
    if not config.load_in_4bit:
        advice.append("model.load_in_4bit = true")
    if larger := _smallest_that_fits(memory, known):
        advice.append(f"--instance {larger}")
    return f"What would help: {'; '.join(advice or ['a smaller model or data.max_length'])}."


def _smallest_that_fits(memory: Memory, known: Instance) -> str:
    """The first instance with as many GPUs whose GPU surely holds it, of those whose speed is known and no older."""
    older = () if known.gpu in WITHOUT_BFLOAT16 else WITHOUT_BFLOAT16
    for name, other in sorted(INSTANCES.items(), key=lambda item: (item[1].gpu_memory_gb, item[1].memory_gb)):
        if other.gpu not in REACHABLE_TFLOPS or other.gpu in older:
            continue
        if other.gpus == known.gpus and usable_gib(other) >= memory.enough:
            return name
    return ""


def limit_cost(plan: Plan, found: Estimate) -> Plan:
    """The plan with a time limit under which it cannot cost more than max_cost; refuses what cannot end in it."""
    most = plan.recipe.compute.max_cost
    if not most:
        return plan
    if found.price is None:
        raise RecipeError(
            f"compute.max_cost is ${most:,.2f}, but there is no price for {found.instance} here.",
            hint="Use an instance with a known price, sign in to have it looked up, or set max_runtime instead.",
        )
    if found.price.is_elsewhere:
        raise RecipeError(
            f"compute.max_cost is ${most:,.2f}, but of {found.instance} only another region's price is known here: "
            f"${found.price.usd_per_hour:,.3f} an hour ({found.price.source}).",
            hint="Sign in with the right to pricing:GetProducts to have it looked up, or set max_runtime instead.",
        )
    rate = found.price.usd_per_hour * found.count / 3600
    seconds = int((most / rate - found.keep_alive_s) / found.jobs) - STOPPING_S
    needed = found.duration.low if found.duration else SHORTEST_S
    if seconds < needed:
        pool = f" beside {found.keep_alive_s / 60:,.0f} of its warm pool" if found.keep_alive_s else ""
        twice = " for each of two jobs, on spot and then on demand" if found.jobs > 1 else ""
        dollars = ((needed + STOPPING_S) * found.jobs + found.keep_alive_s) * rate
        raise RecipeError(
            f"${most:,.2f} buys {max(seconds, 0) / 60:,.0f} minutes of {found.instance}{twice}{pool} at "
            f"${found.price.usd_per_hour:,.3f} an hour ({found.price.source}); this job takes at least "
            f"{needed / 60:,.0f}, which is ${dollars:,.2f}.",
            hint=_what_would_be_cheaper(found),
        )
    return limit_runtime(plan, seconds) if seconds < plan.recipe.compute.max_runtime_s else plan


def _what_would_be_cheaper(found: Estimate) -> str:
    advice = ["Raise --max-cost", "train fewer steps"]
    if found.keep_alive_s:
        advice.append("keep the instance alive for less time")
    if found.jobs > 1:
        advice.append("leave on_demand_after_wait out")
    return f"{', '.join(advice)}, or use a cheaper instance."


def limit_runtime(plan: Plan, seconds: int) -> Plan:
    compute = dataclasses.replace(plan.recipe.compute, max_runtime_s=seconds)
    recipe = dataclasses.replace(plan.recipe, compute=compute)
    return dataclasses.replace(plan, recipe=recipe, config=dataclasses.replace(plan.config, max_runtime_s=seconds))
