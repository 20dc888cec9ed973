"""How many instances of a type an account may run for training, by the quotas' names."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.aws.errors import explained
from launcher.home import state_home

Use = Literal["training", "spot", "warm pool"]
NAMES: dict[Use, str] = {
    "training": "{} for training job usage",
    "spot": "{} for spot training job usage",
    "warm pool": "{} for training warm pool usage",
}


@dataclass(frozen=True)
class Quota:
    """`code` is AWS's, by which it is asked for again."""

    name: str
    code: str
    value: float


def quota_name(instance: str, use: Use) -> str:
    return NAMES[use].format(instance)


def fetch_quotas(client: Any, names: list[str]) -> dict[str, Quota]:
    """The quotas of these names; one that AWS does not list is missing.

    AWS has some thousand quotas for SageMaker and finds them by code alone, so codes that were seen once are kept.
    """
    codes = _load_codes()
    if all(name in codes for name in names):
        found = [_fetch_one(client, codes[name]) for name in names]
        if [quota and quota.name for quota in found] == names:
            return {quota.name: quota for quota in found if quota}
    return _list(client, names)


def _fetch_one(client: Any, code: str) -> Quota | None:
    """None for a code that AWS does not know, or no longer."""
    from botocore.exceptions import ClientError

    with explained("asking for a quota"):
        try:
            return _make(client.get_service_quota(ServiceCode="sagemaker", QuotaCode=code)["Quota"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchResourceException":
                raise
            return None


def _list(client: Any, names: list[str]) -> dict[str, Quota]:
    found: dict[str, Quota] = {}
    with explained("asking for the quotas of SageMaker"):
        for page in client.get_paginator("list_service_quotas").paginate(
            ServiceCode="sagemaker", PaginationConfig={"PageSize": 100}
        ):
            found |= {quota.name: quota for quota in map(_make, page["Quotas"]) if quota.name in names}
            if len(found) == len(set(names)):
                break
    _keep_codes({name: quota.code for name, quota in found.items()})
    return found


def _make(answer: dict[str, Any]) -> Quota:
    return Quota(answer["QuotaName"], answer["QuotaCode"], float(answer["Value"]))


def request_link(region: str, code: str = "") -> str:
    """The page on which a higher quota is asked for."""
    return f"https://{region}.console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas/{code}".rstrip("/")


def _load_codes() -> dict[str, str]:
    try:
        found = json.loads(_cache().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(code) for name, code in found.items()} if isinstance(found, dict) else {}


def _keep_codes(codes: dict[str, str]) -> None:
    if not codes:
        return
    with suppress(OSError):  # where nothing can be kept, they are listed again
        _cache().parent.mkdir(parents=True, exist_ok=True)
        draft = _cache().with_suffix(f".{os.getpid()}.new")
        draft.write_text(json.dumps(_load_codes() | codes, indent=1), encoding="utf-8")
        draft.replace(_cache())


def _cache() -> Path:
    return state_home() / "quota-codes.json"
