"""What an instance costs, by AWS's Price List where it can be asked, else by the dated table; it always says which."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from launcher.aws.errors import explained
from launcher.aws.quick import Task, make_quick_client
from launcher.aws.session import Session, find_region
from launcher.errors import CloudError, LauncherError
from launcher.home import state_home
from launcher.price_table import REGION, USD_PER_HOUR, Price

PRICE_LIST_REGION = "us-east-1"  # the Price List API has few homes, and this one knows every region of the partition
DEADLINE_S = 2.0
CACHE_LIFE = timedelta(days=1)
OTHER_PARTITIONS = ("cn-", "us-iso", "us-gov-")  # their price lists lie elsewhere, or in another currency


def fetch_price(client: Any, instance: str, region: str) -> float:
    """Dollars an hour on demand; raises CloudError unless the list holds exactly one price."""
    filters = {"regionCode": region, "component": "Training", "instanceName": instance}
    with explained(f"asking for the price of {instance}"):
        answer = client.get_products(
            ServiceCode="AmazonSageMaker",
            Filters=[{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in filters.items()],
            FormatVersion="aws_v1",
            MaxResults=100,
        )
    prices = {price for product in answer["PriceList"] for price in _hourly_prices(product)}
    if len(prices) != 1:
        found = "no price" if not prices else f"{len(prices)} prices ({', '.join(map(str, sorted(prices)))})"
        raise CloudError(f"The Price List has {found} for {instance} in {region}.")
    return prices.pop()


def _hourly_prices(product: str) -> list[float]:
    """The dollars that are not zero among a product's terms on demand."""
    try:
        terms = json.loads(product)["terms"]["OnDemand"].values()
        dimensions = [dimension for term in terms for dimension in term["priceDimensions"].values()]
        dollars = [float(dimension["pricePerUnit"]["USD"]) for dimension in dimensions]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [price for price in dollars if price > 0]


def find_known_price(instance: str, region: str) -> Price | None:
    """Without a question: what was looked up lately, else the dated table."""
    return load_cached(instance, region) or table_price(instance, region)


def start_pricing(instance: str, region: str = "") -> Callable[[], Price | None]:
    """Look a price up beside other work; the call returned waits for it, within a hard limit. None: nobody knows it."""
    wanted = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    if cached := load_cached(instance, wanted):
        return lambda: cached
    task = Task(lambda: _look_up(instance, region))

    def wait() -> Price | None:
        try:
            found: Price | None = task.result(DEADLINE_S)
        except LauncherError as error:
            return table_price(instance, wanted or _configured_region(), _why(error))
        except TimeoutError:
            why = ", since AWS's price list did not answer in time"
            return table_price(instance, wanted or _configured_region(), why)
        return found

    return wait


def _configured_region() -> str:
    """Empty too where a profile that nobody has stands in the way of looking."""
    with suppress(LauncherError):
        return find_region()
    return ""


def _look_up(instance: str, region: str) -> Price | None:
    """From the table at once where nobody is signed in, so that nobody waits for a refusal."""
    with explained("looking for credentials"):
        region = region or find_region() or REGION
        session = Session("aws", PRICE_LIST_REGION, os.environ.get("AWS_ENDPOINT_URL", ""))
        if region.startswith(OTHER_PARTITIONS):
            return table_price(instance, region)
        if cached := load_cached(instance, region):
            return cached
        if session.botocore.get_credentials() is None:
            return table_price(instance, region)
        client = make_quick_client(session, "pricing")
    return find_price(client, instance, region)


def find_price(client: Any, instance: str, region: str) -> Price | None:
    """Live, and kept for a day; else from the table."""
    try:
        dollars = fetch_price(client, instance, region)
    except CloudError as error:
        return table_price(instance, region, _why(error))
    _keep(instance, region, dollars)
    return _live(dollars, region, "today")


def _why(error: LauncherError) -> str:
    """An error's message in half a sentence."""
    words = re.sub(r"^While [^,:]*[,:] ", "", error.message)
    words = re.split(r" \(|[\n<]", words)[0].rstrip(" .:")  # without a library's words, or a page's
    return f", since {words[:100]}"


def _live(dollars: float, region: str, when: str) -> Price:
    return Price(dollars, f"AWS's price list for {region}, {when}")


def table_price(instance: str, region: str, why: str = "") -> Price | None:
    if instance not in USD_PER_HOUR:
        return None
    dollars, seen = USD_PER_HOUR[instance]
    is_elsewhere = region not in ("", REGION)
    warning = f"; {region} may differ" if is_elsewhere else ""
    return Price(dollars, f"list price in {REGION} from {seen}{warning}{why}", is_elsewhere)


def load_cached(instance: str, region: str) -> Price | None:
    try:
        entry = json.loads(_cache().read_text(encoding="utf-8"))[f"{region}/{instance}"]
        dollars, fetched = float(entry["usd_per_hour"]), datetime.fromisoformat(entry["fetched"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    age = datetime.now(UTC) - fetched
    return _live(dollars, region, f"{fetched:%Y-%m-%d}") if timedelta(0) <= age < CACHE_LIFE else None


def _keep(instance: str, region: str, dollars: float) -> None:
    try:
        entries = json.loads(_cache().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = {}
    entries = entries if isinstance(entries, dict) else {}
    entries[f"{region}/{instance}"] = {"usd_per_hour": dollars, "fetched": datetime.now(UTC).isoformat()}
    with suppress(OSError):  # where nothing can be kept, it is asked for again
        _cache().parent.mkdir(parents=True, exist_ok=True)
        draft = _cache().with_suffix(f".{os.getpid()}.new")
        draft.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        draft.replace(_cache())


def _cache() -> Path:
    return state_home() / "prices.json"
