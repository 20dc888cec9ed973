"""Pairs of tables, one row of the first owning many of the second."""

from __future__ import annotations

from typing import NamedTuple


class Schema(NamedTuple):
    """Columns carry the same names in every query pattern: see Schema.context for how they are declared."""

    owners: str
    owner: str
    label: str
    group: str
    groups: tuple[str, str, str]
    items: str
    item: str
    amount: str
    amount_type: str
    amounts: tuple[int, int]
    date: str
    state: str
    states: tuple[str, str, str]

    @property
    def key(self) -> str:
        return f"{self.owner}_id"

    @property
    def measure(self) -> str:
        """The amount's column in plain words."""
        return self.amount.replace("_", " ")

    @property
    def joined(self) -> str:
        return f"{self.owners} o JOIN {self.items} i ON i.{self.key} = o.{self.key}"

    @property
    def context(self) -> str:
        owners = f"{self.key} INT PRIMARY KEY, {self.label} VARCHAR(80), {self.group} VARCHAR(40)"
        items = (
            f"{self.item}_id INT PRIMARY KEY, {self.key} INT REFERENCES {self.owners} ({self.key}), "
            f"{self.amount} {self.amount_type}, {self.date} DATE, {self.state} VARCHAR(20)"
        )
        return f"CREATE TABLE {self.owners} ({owners}); CREATE TABLE {self.items} ({items});"


MONEY, WHOLE, REAL = "DECIMAL(10, 2)", "INT", "FLOAT"

SCHEMAS = (
    Schema(
        "customers", "customer", "name", "city", ("Lyon", "Porto", "Graz"),
        "orders", "purchase", "total", MONEY, (40, 900), "ordered_on", "status",
        ("paid", "open", "refunded"),
    ),
    Schema(
        "authors", "author", "full_name", "country", ("Kenya", "Chile", "Norway"),
        "books", "book", "pages", WHOLE, (90, 700), "published_on", "genre",
        ("crime", "poetry", "travel"),
    ),
    Schema(
        "clinics", "clinic", "clinic_name", "region", ("north", "coast", "valley"),
        "visits", "visit", "minutes", WHOLE, (10, 90), "visited_on", "kind",
        ("checkup", "vaccine", "urgent"),
    ),
    Schema(
        "farms", "farm", "farm_name", "soil", ("clay", "sand", "loam"),
        "harvests", "harvest", "tonnes", REAL, (2, 60), "picked_on", "crop",
        ("barley", "apples", "flax"),
    ),
    Schema(
        "employees", "employee", "name", "department", ("sales", "support", "design"),
        "shifts", "shift", "hours", REAL, (2, 12), "worked_on", "shift_type",
        ("day", "night", "standby"),
    ),
    Schema(
        "teams", "team", "team_name", "league", ("east", "west", "youth"),
        "matches", "match", "points", WHOLE, (0, 30), "played_on", "venue",
        ("home", "away", "neutral"),
    ),
    Schema(
        "ships", "ship", "ship_name", "flag", ("Malta", "Panama", "Japan"),
        "voyages", "voyage", "cargo_tons", WHOLE, (200, 9000), "departed_on", "route",
        ("baltic", "pacific", "cape"),
    ),
    Schema(
        "teachers", "teacher", "surname", "subject", ("music", "physics", "history"),
        "lessons", "lesson", "attendees", WHOLE, (3, 40), "held_on", "level",
        ("basic", "middle", "advanced"),
    ),
    Schema(
        "stations", "station", "station_name", "biome", ("tundra", "forest", "reef"),
        "readings", "reading", "rain_mm", REAL, (1, 80), "measured_on", "quality",
        ("good", "doubtful", "missing"),
    ),
    Schema(
        "suppliers", "supplier", "company", "country", ("Peru", "Italy", "Vietnam"),
        "deliveries", "delivery", "weight_kg", REAL, (5, 800), "arrived_on", "state",
        ("complete", "partial", "late"),
    ),
    Schema(
        "museums", "museum", "museum_name", "city", ("Turin", "Ghent", "Krakow"),
        "exhibits", "exhibit", "visitors", WHOLE, (100, 9000), "opened_on", "theme",
        ("glass", "maps", "robots"),
    ),
    Schema(
        "drivers", "driver", "driver_name", "depot", ("harbour", "airport", "centre"),
        "trips", "trip", "fare", MONEY, (6, 120), "driven_on", "payment",
        ("cash", "card", "voucher"),
    ),
    Schema(
        "projects", "project", "title", "sponsor", ("city council", "university", "trust"),
        "invoices", "invoice", "net_amount", MONEY, (100, 5000), "issued_on", "stage",
        ("draft", "sent", "settled"),
    ),
    Schema(
        "gardens", "garden", "garden_name", "district", ("Old Town", "Riverside", "Hillside"),
        "plantings", "planting", "seedlings", WHOLE, (5, 300), "planted_on", "species",
        ("oak", "tulip", "sage"),
    ),
    Schema(
        "servers", "server", "hostname", "datacenter", ("oslo", "dublin", "quito"),
        "incidents", "incident", "downtime_min", WHOLE, (1, 240), "started_on", "severity",
        ("low", "high", "critical"),
    ),
    Schema(
        "bakeries", "bakery", "shop_name", "quarter", ("Mill Lane", "Dockside", "Market"),
        "batches", "batch", "loaves", WHOLE, (12, 260), "baked_on", "flour",
        ("rye", "spelt", "wheat"),
    ),
)  # fmt: skip
