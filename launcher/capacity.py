"""A list of instance types, less those that the account can never have."""

from __future__ import annotations

import dataclasses

from launcher.aws.quotas import fetch_quotas, quota_name, request_link
from launcher.aws.session import Session
from launcher.compute import drop_without_quota
from launcher.errors import CloudError, SiteError
from launcher.plan import Plan
from launcher.progress import Say, silent


def drop_unavailable(plan: Plan, session: Session, say: Say = silent) -> Plan:
    """The plan without the listed types of too small a quota; a plan with one type, or on this machine, as it is."""
    compute = plan.recipe.compute
    if len(compute.instances) < 2 or session.place == "local":
        return plan
    names = {quota_name(instance, "training"): instance for instance in compute.instances}
    try:
        found = fetch_quotas(session.client("service-quotas"), list(names))
    except CloudError as error:
        say(f"note: the quotas of {', '.join(compute.instances)} could not be looked up ({error.message})")
        return plan
    quotas = {instance: found[name].value for name, instance in names.items() if name in found}
    kept, dropped = drop_without_quota(compute, quotas)
    short = "0" if not any(quotas[name] for name in dropped) else f"below the {compute.count} that the job takes"
    if not kept:
        raise SiteError(
            f"The account's quota is {short} for all of {', '.join(dropped)}.",
            hint=f"Ask for more at {request_link(session.region)}, or list other types.",
        )
    if not dropped:
        return plan
    say(f"note: left out {', '.join(dropped)}, for which the account's quota is {short}")
    recipe = dataclasses.replace(plan.recipe, compute=dataclasses.replace(compute, instances=kept))
    return dataclasses.replace(plan, recipe=recipe)
