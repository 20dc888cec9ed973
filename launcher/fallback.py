"""What a spot job that waits in vain goes on as: its plan's request on demand, kept from the submit on."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from launcher.aws import s3
from launcher.aws.session import Session
from launcher.aws.shapes import check_request
from launcher.on_demand import request_key
from launcher.plan import Plan
from launcher.request import Site, checkpoint_uri, full_key, make_request


def make_fallback(plan: Plan, site: Site) -> dict[str, Any]:
    """The plan's request on demand, with the checkpoints of the spot job."""
    compute = dataclasses.replace(plan.recipe.compute, spot=False, max_wait_s=0, on_demand_after_wait=False)
    recipe = dataclasses.replace(plan.recipe, compute=compute)
    on_demand = dataclasses.replace(plan, recipe=recipe, checkpoints=checkpoint_uri(plan, site))
    return make_request(on_demand, site)


def save_fallback(plan: Plan, site: Site, session: Session) -> None:
    if not plan.recipe.compute.on_demand_after_wait:
        return
    request = make_fallback(plan, site)
    check_request(request)
    s3.put_bytes(session, json.dumps(request).encode(), site.bucket, full_key(plan, request_key(plan.job_name)))
