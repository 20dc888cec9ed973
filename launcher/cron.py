"""Schedule expressions as EventBridge Scheduler has them: cron(...), rate(...), at(...), and when they fire.

Pure: no network, and the clock is an argument. Two rules of daylight saving are AWS's (User Guide, "Schedule types"):
a cron time that a day skips does not fire on that day, and one that a day has twice fires at the first of both.
"""

from __future__ import annotations

import calendar
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from zoneinfo import ZoneInfo, available_timezones

from launcher.errors import InputError

DayRule = Callable[[int, int], Iterable[int]]  # year, month -> days of that month

MONTHS = {"JAN": 1, "FEB": 2, "MAR": 3, "APR": 4, "MAY": 5, "JUN": 6}
MONTHS |= {"JUL": 7, "AUG": 8, "SEP": 9, "OCT": 10, "NOV": 11, "DEC": 12}
WEEKDAYS = {"SUN": 1, "MON": 2, "TUE": 3, "WED": 4, "THU": 5, "FRI": 6, "SAT": 7}
SATURDAY = 7
# of a unit as people write it, without an s at its end
SECONDS = {"": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}
SECONDS |= {"d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800, "month": 30 * 86_400, "year": 365 * 86_400}
LONGEST_RATE = timedelta(days=365 * 230)  # longer than there are years in a cron
EXAMPLES = "cron(0 3 ? * MON *) is each Monday at 3:00, rate(12 hours) twice a day, at(2030-01-31T03:00:00) once."


@dataclass(frozen=True)
class Field:
    """One of a cron's fields."""

    name: str
    low: int
    high: int
    names: dict[str, int]
    has_steps: bool = True


MINUTES = Field("minutes", 0, 59, {})
HOURS = Field("hours", 0, 23, {})
DAY_OF_MONTH = Field("day-of-month", 1, 31, {})
MONTH = Field("month", 1, 12, MONTHS)
DAY_OF_WEEK = Field("day-of-week", 1, 7, WEEKDAYS, has_steps=False)  # the one field whose table at AWS lacks the slash
YEAR = Field("year", 1970, 2199, {})
FIELDS = (MINUTES, HOURS, DAY_OF_MONTH, MONTH, DAY_OF_WEEK, YEAR)


@dataclass(frozen=True)
class Cron:
    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[DayRule, ...]
    months: tuple[int, ...]
    years: tuple[int, ...]


@dataclass(frozen=True)
class Rate:
    text: str
    interval: timedelta


@dataclass(frozen=True)
class At:
    """Once; `time` is of the wall clock in the schedule's zone."""

    text: str
    time: datetime


Expression = Cron | Rate | At


def check_expression(text: str, timezone: str = "UTC", *, now: datetime | None = None) -> Expression:
    """The expression, if it fires at least once after `now` in that zone; raises InputError that says what to mend."""
    zone = find_zone(timezone)
    expression = parse_expression(text)
    if isinstance(expression, At) and not _exists(expression.time, zone):
        raise InputError(
            f"{text}: {expression.time:%H:%M} does not exist on that day in {timezone}: the clocks jump over it.",
            hint="Take a time an hour later.",
        )
    if next(iter_firings(expression, zone, now or datetime.now(UTC)), None) is None:
        raise _never_fires(expression, zone)
    return expression


def find_zone(name: str) -> ZoneInfo:
    """A zone of the time-zone database by its name; raises InputError with the nearest names."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown, not a name at all, the name of a folder
        raise InputError(f"There is no time zone {name!r}.", hint=_suggest_zones(name)) from error


def parse_expression(text: str) -> Expression:
    """The expression, whether it ever fires or not; raises InputError that names the field."""
    match = re.fullmatch(r"(cron|rate|at)\((.*)\)", text.strip())
    if match is None:
        found = "a cron without its frame" if len(text.split()) in (5, 6) else "none of cron(...), rate(...), at(...)"
        raise InputError(f"{text!r} is {found}.", hint=_suggest_frame(text))
    return PARSERS[match[1]](text.strip(), match[2].strip())


def iter_firings(
    expression: Expression,
    zone: ZoneInfo,
    after: datetime,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Iterator[datetime]:
    """The firings later than `after`, from `start` to `end` (both inclusive), oldest first, in UTC.

    A rate counts from `start`, or from `after` without one; AWS fires it for the first time at `start` itself, or when
    the schedule is created. An at(...) knows neither start nor end.
    """
    after = after.astimezone(UTC)
    if isinstance(expression, At):
        found: Iterator[datetime] = iter([_to_utc(expression.time, zone)])
        return (firing for firing in found if firing > after)
    if isinstance(expression, Rate):
        found = _iter_rate(expression.interval, (start or after).astimezone(UTC), after)
    else:
        since = after if start is None else max(after, start.astimezone(UTC) - timedelta(microseconds=1))
        found = _iter_cron(expression, zone, since)
    return found if end is None else takewhile(lambda firing: firing <= end, found)


# Firing


def _iter_rate(interval: timedelta, start: datetime, after: datetime) -> Iterator[datetime]:
    """Without a look at any wall clock: rate(1 day) is 24 hours later also when the clocks change."""
    count = max(0, (after - start) // interval + 1)
    while True:
        try:
            yield start + count * interval
        except OverflowError:  # the year 9999
            return
        count += 1


def _iter_cron(cron: Cron, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    for time in _iter_wall_times(cron, after.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)):
        if _exists(time, zone) and (firing := _to_utc(time, zone)) > after:
            yield firing


def _iter_wall_times(cron: Cron, since: datetime) -> Iterator[datetime]:
    """By field and never by minute, so that a cron without any firing is found out within the 2,760 months."""
    for day in _iter_days(cron, since):
        for hour in cron.hours:
            for minute in cron.minutes:
                if (time := day.replace(hour=hour, minute=minute)) >= since:
                    yield time


def _iter_days(cron: Cron, since: datetime) -> Iterator[datetime]:
    for year in cron.years:
        for month in cron.months:
            if (year, month) < (since.year, since.month):
                continue
            days = {day for rule in cron.days for day in rule(year, month)}
            yield from (datetime(year, month, day) for day in sorted(days) if (year, month, day) >= _date(since))


def _date(time: datetime) -> tuple[int, int, int]:
    return time.year, time.month, time.day


def _exists(time: datetime, zone: ZoneInfo) -> bool:
    """Whether the wall clocks of the zone ever show this time."""
    return _to_utc(time, zone).astimezone(zone).replace(tzinfo=None) == time


def _to_utc(time: datetime, zone: ZoneInfo) -> datetime:
    return time.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _never_fires(expression: Expression, zone: ZoneInfo) -> InputError:
    text = expression.text
    if isinstance(expression, At):
        return InputError(f"{text} lies in the past in {zone.key}.", hint="Give a time that is still to come.")
    if isinstance(expression, Cron) and not any(True for _ in _iter_wall_times(expression, datetime(1970, 1, 1))):
        return InputError(f"{text} never fires: no year has such a day.", hint="Mend its day or its month.")
    return InputError(f"{text} never fires again: its last time has passed.", hint="Mend its year, or put * there.")


# Parsing


def _parse_rate(text: str, inside: str) -> Rate:
    match = re.fullmatch(r"([0-9]{1,9})\s+(minute|hour|day)(s?)", inside)
    if match is None or int(match[1]) == 0:
        raise InputError(
            f"{text}: a rate is a whole number from 1 on and minutes, hours or days.", hint=_suggest_rate(inside)
        )
    count, unit = int(match[1]), match[2]
    # rate(1 days) passes: the Scheduler's own guide writes it. Rules of EventBridge refuse it.
    if count > 1 and not match[3]:
        raise InputError(f"{text}: more than one {unit} are {unit}s.", hint=f"Write rate({count} {unit}s).")
    interval = timedelta(**{f"{unit}s": count})
    if interval > LONGEST_RATE:
        raise InputError(f"{text}: nobody will see the second of these.", hint="Take a shorter rate.")
    return Rate(text, interval)


def _suggest_rate(inside: str) -> str:
    """The nearest that can be said, in whole minutes at least."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*([a-z]+)", inside.lower())
    unit = match[2].rstrip("s") if match else ""
    if not match or unit not in SECONDS:
        return "Write rate(12 hours), or --rate 12h: m, h and d are minutes, hours and days."
    minutes = math.ceil((float(match[1]) or 1) * SECONDS[unit] / 60)
    size, word = next((size, word) for size, word in ((1440, "day"), (60, "hour"), (1, "minute")) if not minutes % size)
    count = minutes // size
    many = "s" if count > 1 else ""
    return f"Write rate({count} {word}{many}), or --rate {count}{word[0]}: m, h and d are minutes, hours and days."


def _parse_at(text: str, inside: str) -> At:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", inside, re.ASCII):
            raise ValueError("it is yyyy-mm-ddThh:mm:ss, without a zone")
        return At(text, datetime.fromisoformat(inside))
    except ValueError as error:
        raise InputError(f"{text} is no date and time: {error}.", hint="Write at(2030-01-31T03:00:00).") from error


def _parse_cron(text: str, inside: str) -> Cron:
    words = inside.upper().split()
    if len(words) == 5:
        # The guide calls the year optional. What people paste is a crontab line, whose weekdays count from another
        # day and whose days have no ?, so that taking it as it is would fire at another time than was meant.
        raise InputError(f"{text} has five fields, as in a crontab; AWS has six.", hint=_suggest_six(words))
    if len(words) != 6:
        raise InputError(
            f"{text} has {len(words)} fields instead of six: {', '.join(field.name for field in FIELDS)}.",
            hint=EXAMPLES,
        )
    minutes, hours, day, month, weekday, year = words
    try:
        return Cron(
            text,
            _parse_numbers(MINUTES, minutes),
            _parse_numbers(HOURS, hours),
            _parse_days(day, weekday),
            _parse_numbers(MONTH, month),
            _parse_numbers(YEAR, year),
        )
    except ValueError as error:
        raise InputError(f"{text}: {error}.", hint=EXAMPLES) from error


PARSERS: dict[str, Callable[[str, str], Expression]] = {"cron": _parse_cron, "rate": _parse_rate, "at": _parse_at}


def _parse_days(day: str, weekday: str) -> tuple[DayRule, ...]:
    if (day == "?") == (weekday == "?"):
        both = "are ?" if day == "?" else "are set"
        raise ValueError(f"{DAY_OF_MONTH.name} and {DAY_OF_WEEK.name} both {both}; exactly one of them must be ?")
    if weekday == "?":
        return tuple(_parse_day(item) for item in day.split(","))
    if "#" in weekday and "," in weekday:
        raise ValueError(f"{DAY_OF_WEEK.name}: a # stands alone in its field; {weekday} is a list")
    return tuple(_parse_weekday(item) for item in weekday.split(","))


def _parse_day(item: str) -> DayRule:
    if item == "L":
        return _last_day
    if item == "LW":
        return _last_workday
    if match := re.fullmatch(r"([0-9]+)W", item):
        return partial(_nearest_workday, _parse_number(DAY_OF_MONTH, match[1]))
    return partial(_days_in, _parse_item(DAY_OF_MONTH, item))


def _parse_weekday(item: str) -> DayRule:
    if item == "L":
        return partial(_weekdays_in, (SATURDAY,))
    if match := re.fullmatch(r"([0-9A-Z]+)L", item):
        return partial(_last_weekday, _parse_number(DAY_OF_WEEK, match[1]))
    if match := re.fullmatch(r"([0-9A-Z]+)#([0-9]+)", item):
        if not 1 <= int(match[2]) <= 5:
            raise ValueError(f"{DAY_OF_WEEK.name}: a month has no {match[2]}th of a weekday; # goes from 1 to 5")
        return partial(_nth_weekday, _parse_number(DAY_OF_WEEK, match[1]), int(match[2]))
    return partial(_weekdays_in, _parse_item(DAY_OF_WEEK, item))


def _parse_numbers(field: Field, text: str) -> tuple[int, ...]:
    return tuple(sorted({number for item in text.split(",") for number in _parse_item(field, item)}))


def _parse_item(field: Field, item: str) -> tuple[int, ...]:
    """What stands between commas: *, a, a-b, each with a step behind a slash."""
    span, slash, step_text = item.partition("/")
    if slash and not field.has_steps:
        raise ValueError(f"{field.name}: {item} has a step, which AWS does not know there; list the days instead")
    first, dash, last = span.partition("-")
    if span == "*":
        low, high = field.low, field.high
    else:
        low = _parse_number(field, first)
        high = _parse_number(field, last) if dash else field.high if slash else low
    if low > high:
        start, end = _ends(field)
        raise ValueError(f"{field.name}: {span} runs backwards; write {first}-{end},{start}-{last}")
    return tuple(range(low, high + 1, _parse_step(field, item, step_text) if slash else 1))


def _parse_step(field: Field, item: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= field.high:
        raise ValueError(f"{field.name}: the step of {item} is not between 1 and {field.high}")
    return int(text)


def _parse_number(field: Field, text: str) -> int:
    if text in field.names:
        return field.names[text]
    if not re.fullmatch(r"[0-9]{1,4}", text):
        names = f" or {'-'.join(_ends(field))}" if field.names else ""
        raise ValueError(f"{field.name}: {text or 'nothing'!r} is not {field.low}-{field.high}{names}")
    if not field.low <= int(text) <= field.high:
        raise ValueError(f"{field.name}: {int(text)} is not between {field.low} and {field.high}")
    return int(text)


def _ends(field: Field) -> tuple[str, str]:
    names = [*field.names] or [str(field.low), str(field.high)]
    return names[0], names[-1]


# Days of a month. A weekday is AWS's: 1 is Sunday.


def _days_in(days: Iterable[int], year: int, month: int) -> Iterable[int]:
    length = _length(year, month)
    return (day for day in days if day <= length)


def _last_day(year: int, month: int) -> Iterable[int]:
    return (_length(year, month),)


def _last_workday(year: int, month: int) -> Iterable[int]:
    return _nearest_workday(_length(year, month), year, month)


def _nearest_workday(day: int, year: int, month: int) -> Iterable[int]:
    """Monday to Friday, never in another month; a month without that day has none."""
    length = _length(year, month)
    if day > length:
        return ()
    weekday = _weekday(year, month, day)
    if weekday == SATURDAY:
        return (day - 1 if day > 1 else day + 2,)
    if weekday == WEEKDAYS["SUN"]:
        return (day + 1 if day < length else day - 2,)
    return (day,)


def _weekdays_in(weekdays: Iterable[int], year: int, month: int) -> Iterable[int]:
    return (day for day in range(1, _length(year, month) + 1) if _weekday(year, month, day) in weekdays)


def _last_weekday(weekday: int, year: int, month: int) -> Iterable[int]:
    return [*_weekdays_in((weekday,), year, month)][-1:]


def _nth_weekday(weekday: int, number: int, year: int, month: int) -> Iterable[int]:
    return [*_weekdays_in((weekday,), year, month)][number - 1 : number]


def _length(year: int, month: int) -> int:
    return calendar.monthrange(year, month)[1]


def _weekday(year: int, month: int, day: int) -> int:
    return (calendar.weekday(year, month, day) + 1) % 7 + 1


# Advice


def _suggest_six(words: list[str]) -> str:
    """What a crontab's line is at AWS, whose Sunday is 1 and not 0."""
    minutes, hours, day, month, weekday = words
    if "?" not in words:
        weekday = re.sub(r"(?<![#/0-9])[0-7](?![0-9])", lambda match: [*WEEKDAYS][int(match[0]) % 7], weekday)
        if day != "*" and weekday != "*":
            return "AWS takes one day field only: make two schedules, each with ? in the other and a year (*) behind."
        day, weekday = (day, "?") if weekday == "*" else ("?", weekday)
    return f"Add the year: cron({minutes} {hours} {day} {month} {weekday} *)"


def _suggest_frame(text: str) -> str:
    words = text.upper().split()
    if len(words) == 5:
        return _suggest_six(words)
    return f"Write cron({text.strip()})." if len(words) == 6 else EXAMPLES


def _suggest_zones(name: str) -> str:
    known = sorted(available_timezones())
    if not known:
        return "This machine has no time-zone database: pip install tzdata"
    wanted = name.strip().lower().replace(" ", "_")
    near = [zone for zone in known if wanted and wanted in (zone.lower(), zone.lower().rpartition("/")[2])]
    if not near:
        by_key = {key: zone for zone in known for key in (zone.lower().rpartition("/")[2], zone.lower())}
        near = [*dict.fromkeys(by_key[key] for key in difflib.get_close_matches(wanted, by_key, n=3, cutoff=0.6))]
    return f"Did you mean {' or '.join(near[:3])}?" if near else "Names are as in Europe/Berlin; UTC is one too."
