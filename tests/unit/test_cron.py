"""Schedule expressions: a table of firings, an independent library, a brute-force scan, and what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.cron import check_expression, find_zone, iter_firings, parse_expression
from launcher.errors import InputError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


# The table


@dataclass(frozen=True)
class Row:
    text: str
    zone: str
    after: datetime
    source: str
    firings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.text} {self.zone} {self.after:%F}"


def read_table() -> list[Row]:
    lines = Path(__file__).with_name("cron_table.txt").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    rows = []
    for head, firings in zip(lines[::2], lines[1::2], strict=True):
        text, zone, after, source = head.split(" | ")
        moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
        rows.append(Row(text, zone, moment, source, tuple(firings.split())))
    return rows


TABLE = read_table()


def show(firing: datetime, zone: str) -> str:
    local = firing.astimezone(ZoneInfo(zone))
    return local.isoformat(timespec="seconds" if local.second else "minutes")


def list_firings(text: str, zone: str, after: datetime, count: int = 5) -> list[str]:
    expression = check_expression(text, zone, now=after)
    return [show(firing, zone) for firing in islice(iter_firings(expression, find_zone(zone), after), count)]


def test_the_table_is_large_enough() -> None:
    assert len(TABLE) >= 40
    assert {len(row.firings) for row in TABLE} <= {1, 3, 5}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_next_five_firings(row: Row) -> None:
    assert list_firings(row.text, row.zone, row.after) == list(row.firings)


@pytest.mark.parametrize("row", [row for row in TABLE if row.source == "library"], ids=str)
def test_an_independent_library_says_the_same(row: Row) -> None:
    """On the wall clock: none of these rows comes near a change of the clocks."""
    minutes, hours, day, month, weekday, year = row.text.removeprefix("cron(").removesuffix(")").split()
    start = row.after.astimezone(ZoneInfo(row.zone)).replace(tzinfo=None)
    line = f"{minutes} {hours} {day.replace('?', '*')} {month} {translate_weekday(weekday)}"
    years = list_years(year)
    found = [time for time in islice(CronSim(line, start), 40) if time.year in years][:5]
    assert [f"{time:%Y-%m-%dT%H:%M}" for time in found] == [firing[:16] for firing in row.firings]


def translate_weekday(text: str) -> str:
    """From AWS's 1 for Sunday to cron's 0; a lone L is Saturday."""
    if text in ("?", "*"):
        return "*"
    text = re.sub("[A-Z]{3}", lambda match: str(WEEKDAYS.index(match[0]) + 1), "7" if text == "L" else text)
    days, mark, number = re.fullmatch(r"([0-9,-]+)([L#]?)([0-9]?)", text).groups()
    return re.sub("[0-9]", lambda match: str(int(match[0]) - 1), days) + mark + number


def list_years(text: str) -> set[int]:
    if text == "*":
        return set(range(1970, 2200))
    ends = [part.split("-") for part in text.split(",")]
    return {year for first, *last in ends for year in range(int(first), int(last[0] if last else first) + 1)}


# A brute-force scan


@dataclass(frozen=True)
class Made:
    """A field's text, and whether a number fits it by another reasoning than the parser's."""

    text: str
    fits: Callable[[int], bool]


@st.composite
def numbers(draw: st.DrawFn, low: int, high: int) -> Made:
    kind = draw(st.sampled_from(["any", "list", "range", "step"]))
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, high))
    if kind == "any":
        return Made("*", lambda number: True)
    if kind == "list":
        return Made(f"{last},{first}", lambda number: number in (first, last))
    if kind == "range":
        return Made(f"{first}-{last}", lambda number: first <= number <= last)
    return Made(f"{first}/{step}", lambda number: number >= first and (number - first) % step == 0)


@dataclass(frozen=True)
class Days:
    day: str
    weekday: str
    fits: Callable[[date], bool]


def is_last(day: date) -> bool:
    return (day + timedelta(days=1)).month != day.month


DAYS = [
    Days("*", "?", lambda day: True),
    Days("?", "*", lambda day: True),
    Days("L", "?", is_last),
    Days("?", "SUN", lambda day: day.isoweekday() == 7),
    Days("?", "1,SAT", lambda day: day.isoweekday() >= 6),
    Days("?", "1L", lambda day: day.isoweekday() == 7 and (day + timedelta(days=7)).month != day.month),
    Days("?", "1#2", lambda day: day.isoweekday() == 7 and 8 <= day.day <= 14),
    Days("8-14", "?", lambda day: 8 <= day.day <= 14),
    Days("LW", "?", lambda day: day.isoweekday() < 6 and all_weekend_behind(day)),
]


def all_weekend_behind(day: date) -> bool:
    rest = [day + timedelta(days=count) for count in range(1, 4)]
    return all(other.isoweekday() >= 6 for other in rest if other.month == day.month)


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
# Within a day of a change of the clocks somewhere, or anywhere in the year.
MOMENTS = st.one_of(
    st.sampled_from(["2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"]).map(
        lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC)
    ),
    st.integers(0, 364).map(lambda days: NOW + timedelta(days=days)),
)
WINDOW_MINUTES = 2 * 24 * 60


@settings(max_examples=60, deadline=None)
@given(
    minutes=numbers(0, 59),
    hours=numbers(0, 23),
    days=st.sampled_from(DAYS),
    months=numbers(1, 12),
    zone=st.sampled_from(ZONES),
    midnight=MOMENTS,
    offset_s=st.integers(0, 86_400),
)
@example(
    minutes=Made("*", lambda number: True),
    hours=Made("*", lambda number: True),
    days=DAYS[0],
    months=Made("*", lambda number: True),
    zone="Australia/Lord_Howe",
    midnight=datetime(2026, 4, 4, tzinfo=UTC),
    offset_s=0,
)
def test_the_firings_are_those_of_a_scan_of_every_minute(
    minutes: Made, hours: Made, days: Days, months: Made, zone: str, midnight: datetime, offset_s: int
) -> None:
    after = midnight + timedelta(seconds=offset_s)
    first = after.replace(second=0) + timedelta(minutes=1)
    expected = []
    for count in range(WINDOW_MINUTES):
        moment = first + timedelta(minutes=count)
        local = moment.astimezone(ZoneInfo(zone))
        is_second_time = local.fold == 1
        fits = minutes.fits(local.minute) and hours.fits(local.hour) and months.fits(local.month)
        if fits and days.fits(local.date()) and not is_second_time:
            expected.append(moment)
    text = f"cron({minutes.text} {hours.text} {days.day} {months.text} {days.weekday} *)"
    found = iter_firings(parse_expression(text), ZoneInfo(zone), after, end=after + timedelta(minutes=WINDOW_MINUTES))
    assert list(found) == [moment for moment in expected if moment <= after + timedelta(minutes=WINDOW_MINUTES)]


# From and until


def test_start_and_end_are_part_of_the_time_and_a_one_time_schedule_knows_neither() -> None:
    zone = ZoneInfo("UTC")
    start, end = NOW + timedelta(days=10), NOW + timedelta(days=12)
    found = iter_firings(parse_expression("cron(0 0 * * ? *)"), zone, NOW, start=start, end=end)
    assert [firing.day for firing in found] == [11, 12, 13]
    found = iter_firings(parse_expression("rate(1 day)"), zone, NOW, start=start, end=end)
    assert [firing.day for firing in found] == [11, 12, 13]
    found = iter_firings(parse_expression("at(2026-06-01T00:00:00)"), zone, NOW, start=start, end=end)
    assert [firing.month for firing in found] == [6]


def test_a_rate_goes_on_counting_from_its_start() -> None:
    after = NOW + timedelta(hours=7, minutes=1)
    found = iter_firings(parse_expression("rate(3 hours)"), ZoneInfo("UTC"), after, start=NOW)
    assert [firing.hour for firing in islice(found, 3)] == [9, 12, 15]


def test_firings_are_endless_without_an_end_and_come_at_once() -> None:
    expression = parse_expression("cron(* * * * ? *)")
    began = time.monotonic()
    firings = list(islice(iter_firings(expression, ZoneInfo("UTC"), NOW), 10_000))
    assert firings[-1] - firings[0] == timedelta(minutes=9_999)
    assert time.monotonic() - began < 60  # a few tenths


# What is refused: the text, a word of the message, a word of what to do

REFUSED = {
    "cron(0 3 * * MON)": ("five fields", "cron(0 3 ? * MON *)"),
    "cron(30 4 1 * *)": ("five fields", "cron(30 4 1 * ? *)"),
    "cron(0 3 * * 1-5)": ("five fields", "cron(0 3 ? * MON-FRI *)"),
    "cron(0 3 * * 0,7)": ("five fields", "cron(0 3 ? * SUN,SUN *)"),
    "cron(0 3 ? * 2)": ("five fields", "cron(0 3 ? * 2 *)"),
    "cron(0 3 1 * MON)": ("five fields", "two schedules"),
    "0 3 * * 1": ("without its frame", "cron(0 3 ? * MON *)"),
    "0 3 ? * MON *": ("without its frame", "cron(0 3 ? * MON *)"),
    "every monday": ("none of cron(...)", "cron("),
    "cron(0 3 * MON)": ("4 fields", "cron("),
    "cron(0 3 * * MON *)": ("both are set", "cron("),
    "cron(0 3 ? * ? *)": ("both are ?", "cron("),
    "cron(0 25 * * ? *)": ("hours: 25 is not between 0 and 23", "cron("),
    "cron(60 3 * * ? *)": ("minutes: 60", "cron("),
    "cron(0 3 32 * ? *)": ("day-of-month: 32", "cron("),
    "cron(0 3 0W * ? *)": ("day-of-month: 0", "cron("),
    "cron(0 3 1 13 ? *)": ("month: 13", "cron("),
    "cron(0 3 ? * 8 *)": ("day-of-week: 8", "cron("),
    "cron(0 3 ? * 0 *)": ("day-of-week: 0", "cron("),
    "cron(0 3 ? * 8L *)": ("day-of-week: 8", "cron("),
    "cron(0 3 ? * 2#6 *)": ("# goes from 1 to 5", "cron("),
    "cron(0 3 ? * 2#1,3#1 *)": ("# stands alone", "cron("),
    "cron(0 3 ? * 2/2 *)": ("has a step", "cron("),
    "cron(0 3 1 * ? 2200)": ("year: 2200", "cron("),
    "cron(0 3 1 MAY-FEB ? *)": ("write MAY-DEC,JAN-FEB", "cron("),
    "cron(0/0 3 1 * ? *)": ("step of 0/0", "cron("),
    "cron(0/61 3 1 * ? *)": ("step of 0/61", "cron("),
    "cron(x 3 1 * ? *)": ("minutes: 'X' is not 0-59", "cron("),
    "cron(0 3 ? * MONDAY *)": ("not 1-7 or SUN-SAT", "cron("),
    "cron(,0 3 1 * ? *)": ("minutes: 'nothing'", "cron("),
    "cron(? 3 1 * ? *)": ("minutes: '?'", "cron("),
    "cron(٣ 3 1 * ? *)": ("minutes: '٣'", "cron("),
    "cron(0 0 30 2 ? *)": ("no year has such a day", "Mend its day"),
    "cron(0 0 31 4,6 ? *)": ("no year has such a day", "Mend its day"),
    "cron(0 0 29 2 ? 2026-2027)": ("no year has such a day", "Mend its day"),
    "cron(0 0 1 1 ? 2020)": ("its last time has passed", "Mend its year"),
    "rate(5 minute)": ("more than one minute", "rate(5 minutes)"),
    "rate(0 days)": ("from 1 on", "Write rate(1 day), or --rate 1d: m, h and d are"),
    "rate(-1 days)": ("from 1 on", "Write rate(12 hours), or --rate 12h: m, h and d are"),
    "rate(1.5 hours)": ("from 1 on", "Write rate(90 minutes), or --rate 90m"),
    "rate(1 week)": ("minutes, hours or days", "Write rate(7 days), or --rate 7d"),
    "rate(1w)": ("minutes, hours or days", "Write rate(7 days), or --rate 7d"),
    "rate(90s)": ("minutes, hours or days", "Write rate(2 minutes), or --rate 2m"),
    "rate(48 H)": ("minutes, hours or days", "Write rate(2 days), or --rate 2d"),
    "rate(fortnight)": ("minutes, hours or days", "m, h and d are"),
    "rate(999999999 days)": ("nobody will see", "shorter"),
    "at(2025-12-31T23:59:59)": ("in the past", "still to come"),
    "at(2026-02-30T00:00:00)": ("no date", "at("),
    "at(2026-05-01)": ("no date", "at("),
    "at(2026-05-01T00:00:00Z)": ("no date", "at("),
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_bad_expression_is_refused_with_a_fix(text: str) -> None:
    what, fix = REFUSED[text]
    with pytest.raises(InputError) as caught:
        check_expression(text, now=NOW)
    assert what in caught.value.message
    assert fix in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_schedule_that_never_fires_is_found_out_at_once() -> None:
    began = time.monotonic()
    for text in ("cron(* * 30 2 ? *)", "cron(0 0 31 2,4,6,9,11 ? *)"):
        with pytest.raises(InputError, match="never fires"):
            check_expression(text, "Europe/Berlin", now=NOW)
    assert time.monotonic() - began < 60  # milliseconds; a scan of every minute for ever otherwise


def test_what_falls_into_the_gap_of_every_year_never_fires() -> None:
    with pytest.raises(InputError, match="never fires"):
        check_expression("cron(30 2 ? 3 1#2 2027-2030)", "America/New_York", now=NOW)
    with pytest.raises(InputError, match="does not exist on that day"):
        check_expression("at(2026-03-08T02:30:00)", "America/New_York", now=NOW)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Berlin", "Did you mean Europe/Berlin?"),
        ("europe/berlin", "Did you mean Europe/Berlin?"),
        ("Europe/Berln", "Europe/Berlin"),
        ("New York", "America/New_York"),
        ("../../etc/passwd", "Names are as in"),
        ("", "Names are as in"),
        ("Europe", "Europe"),
        ("\x00", "Names are as in"),
        ("x" * 5000, "Names are as in"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest_names(name: str, hint: str) -> None:
    with pytest.raises(InputError, match="no time zone") as caught:
        check_expression("rate(1 day)", name, now=NOW)
    assert hint in caught.value.hint
