"""Query patterns: a question in plain words and the SQL that answers it, for any schema."""

from __future__ import annotations

from samples.dice import Dice
from samples.sql_schemas import Schema

Query = tuple[str, str]
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def words(name: str) -> str:
    return name.replace("_", " ")


def pick_amount(dice: Dice, s: Schema) -> int:
    low, high = s.amounts
    return dice.between(low + (high - low) // 4, high - (high - low) // 4)


def pick_date(dice: Dice) -> str:
    return f"{dice.between(2021, 2024)}-{dice.between(1, 12):02d}-{dice.between(1, 28):02d}"


def list_in_state(dice: Dice, s: Schema) -> Query:
    limit, state = pick_amount(dice, s), dice.pick(s.states)
    ask = dice.pick(
        (
            f"List {s.items} with {words(s.state)} '{state}' and {s.measure} above {limit}, newest first.",
            f"Which {s.items} marked '{state}' have {s.measure} over {limit}? Start with the latest.",
        )
    )
    return ask, (
        f"SELECT {s.item}_id, {s.amount}, {s.date} FROM {s.items} "
        f"WHERE {s.state} = '{state}' AND {s.amount} > {limit} ORDER BY {s.date} DESC;"
    )


def join_group(dice: Dice, s: Schema) -> Query:
    group = dice.pick(s.groups)
    ask = dice.pick(
        (
            f"Show {words(s.label)}, {s.measure} and date of all {s.items} where {s.group} is '{group}'.",
            f"All {s.items} for {s.group} {group}, please: {words(s.label)}, {s.measure} and date.",
        )
    )
    return ask, (
        f"SELECT o.{s.label}, i.{s.amount}, i.{s.date} FROM {s.owners} AS o "
        f"JOIN {s.items} AS i ON i.{s.key} = o.{s.key} WHERE o.{s.group} = '{group}';"
    )


def count_by_state(dice: Dice, s: Schema) -> Query:
    since = pick_date(dice)
    ask = dice.pick(
        (f"How many {s.items} are there per {words(s.state)} since {since}?",
         f"Count the {s.items} from {since} onwards for each {words(s.state)}, the most frequent first.")
    )  # fmt: skip
    return ask, (
        f"SELECT {s.state}, COUNT(*) AS how_many FROM {s.items} WHERE {s.date} >= '{since}' "
        f"GROUP BY {s.state} ORDER BY how_many DESC;"
    )


def sum_by_group(dice: Dice, s: Schema) -> Query:
    function, word = dice.pick((("SUM", "total"), ("AVG", "average"), ("MAX", "highest"), ("MIN", "lowest")))
    ask = dice.pick(
        (f"What is the {word} {s.measure} for each {s.group}?",
         f"Give the {word} {s.measure} of {s.items} by {s.group}, in alphabetical order.")
    )  # fmt: skip
    return ask, (
        f"SELECT o.{s.group}, {function}(i.{s.amount}) AS {word}_{s.amount} FROM {s.owners} AS o "
        f"INNER JOIN {s.items} AS i ON o.{s.key} = i.{s.key} GROUP BY o.{s.group} ORDER BY o.{s.group};"
    )


def having_count(dice: Dice, s: Schema) -> Query:
    least, state = dice.between(3, 12), dice.pick(s.states)
    ask = dice.pick(
        (f"Which {s.owners} have at least {least} {s.items} with {words(s.state)} '{state}'?",
         f"Find every {s.owner} that reached {least} or more '{state}' {s.items}, with the number of them.")
    )  # fmt: skip
    return ask, (
        f"SELECT o.{s.label}, COUNT(i.{s.item}_id) AS n FROM {s.joined} WHERE i.{s.state} = '{state}' "
        f"GROUP BY o.{s.key}, o.{s.label} HAVING COUNT(i.{s.item}_id) >= {least};"
    )


def top_owners(dice: Dice, s: Schema) -> Query:
    top = dice.between(3, 10)
    ask = dice.pick(
        (f"Name the top {top} {s.owners} by summed {s.measure}.",
         f"Who leads once {s.measure} is summed over all {s.items}? Return {top} {s.owners}.")
    )  # fmt: skip
    return ask, (
        f"SELECT o.{s.label}, SUM(i.{s.amount}) AS summed FROM {s.owners} AS o JOIN {s.items} AS i "
        f"ON i.{s.key} = o.{s.key} GROUP BY o.{s.key}, o.{s.label} ORDER BY summed DESC LIMIT {top};"
    )


def above_average(dice: Dice, s: Schema) -> Query:
    state = dice.pick(s.states)
    ask = dice.pick(
        (f"Return the {s.items} with {s.measure} above the average of all '{state}' {s.items}.",
         f"Which {s.items} beat the mean {s.measure} of those with {words(s.state)} '{state}'?")
    )  # fmt: skip
    return ask, (
        f"SELECT {s.item}_id, {s.amount} FROM {s.items} WHERE {s.amount} > "
        f"(SELECT AVG({s.amount}) FROM {s.items} WHERE {s.state} = '{state}');"
    )


def owners_without(dice: Dice, s: Schema) -> Query:
    since = pick_date(dice)
    ask = dice.pick(
        (f"List {s.owners} without any {words(s.item)} since {since}.",
         f"Which {s.owners} have had nothing in {s.items} from {since} on?")
    )  # fmt: skip
    inner = f"SELECT 1 FROM {s.items} i WHERE i.{s.key} = o.{s.key} AND i.{s.date} >= '{since}'"
    return ask, f"SELECT o.{s.label} FROM {s.owners} o WHERE NOT EXISTS ({inner});"


def owners_never(dice: Dice, s: Schema) -> Query:
    state = dice.pick(s.states)
    ask = dice.pick(
        (f"Give {words(s.label)} and {s.group} of {s.owners} that never had {words(s.state)} '{state}'.",
         f"Find {s.owners} with no {words(s.item)} of {words(s.state)} '{state}', using an outer join.")
    )  # fmt: skip
    return ask, (
        f"SELECT o.{s.label}, o.{s.group} FROM {s.owners} AS o LEFT JOIN {s.items} AS i "
        f"ON i.{s.key} = o.{s.key} AND i.{s.state} = '{state}' WHERE i.{s.item}_id IS NULL;"
    )


def rank_in_group(dice: Dice, s: Schema) -> Query:
    function, word = dice.pick((("RANK", "Rank"), ("DENSE_RANK", "Rank without gaps"), ("ROW_NUMBER", "Number")))
    ask = f"{word} the {s.items} inside each {s.group} by {s.measure}, the largest first."
    window = f"PARTITION BY o.{s.group} ORDER BY i.{s.amount} DESC"
    return ask, (
        f"SELECT o.{s.group}, i.{s.item}_id, i.{s.amount}, {function}() OVER ({window}) AS place "
        f"FROM {s.items} AS i JOIN {s.owners} AS o ON o.{s.key} = i.{s.key};"
    )


def running_total(dice: Dice, s: Schema) -> Query:
    year = dice.between(2020, 2024)
    ask = dice.pick(
        (f"Compute a running total of {s.measure} per {s.owner} for {year}, by date.",
         f"Show by date how {s.measure} builds up for each {s.owner} over the course of {year}.")
    )  # fmt: skip
    window = f"PARTITION BY {s.key} ORDER BY {s.date}"
    return ask, (
        f"SELECT {s.key}, {s.date}, SUM({s.amount}) OVER ({window}) AS running_total FROM {s.items} "
        f"WHERE {s.date} >= '{year}-01-01' AND {s.date} < '{year + 1}-01-01';"
    )


def between_dates(dice: Dice, s: Schema) -> Query:
    year, first = dice.between(2019, 2024), dice.between(1, 9)
    last = first + dice.between(1, 3)
    span = f"1 {MONTHS[first - 1]} to 28 {MONTHS[last - 1]} {year}"
    ask = dice.pick(
        (
            f"Count the {s.items} from {span} and add their average {s.measure}.",
            f"How many {s.items} fall into {span}, and what is their mean {s.measure}?",
        )
    )
    return ask, (
        f"SELECT COUNT(*) AS n, AVG({s.amount}) AS mean_{s.amount} FROM {s.items} "
        f"WHERE {s.date} BETWEEN '{year}-{first:02d}-01' AND '{year}-{last:02d}-28';"
    )


def months_of_year(dice: Dice, s: Schema) -> Query:
    year, state = dice.between(2019, 2024), dice.pick(s.states)
    ask = f"Show the monthly sum of {s.measure} for '{state}' {s.items} in {year}."
    return ask, (
        f"SELECT STRFTIME('%m', {s.date}) AS month, SUM({s.amount}) AS summed FROM {s.items} "
        f"WHERE STRFTIME('%Y', {s.date}) = '{year}' AND {s.state} = '{state}' GROUP BY month ORDER BY month;"
    )


def size_classes(dice: Dice, s: Schema) -> Query:
    limit = pick_amount(dice, s)
    ask = dice.pick(
        (
            f"Call {s.items} 'large' where {s.measure} is {limit} or more, else 'small'; count both.",
            f"How many {s.items} are large ({s.measure} at least {limit}) and how many small?",
        )
    )
    case = f"CASE WHEN {s.amount} >= {limit} THEN 'large' ELSE 'small' END"
    return ask, f"SELECT {case} AS size, COUNT(*) AS n FROM {s.items} GROUP BY {case};"


def share_of_all(dice: Dice, s: Schema) -> Query:
    group = dice.pick(s.groups)
    ask = f"What percentage of the overall {s.measure} comes from {s.group} '{group}'?"
    part = f"SUM(CASE WHEN o.{s.group} = '{group}' THEN i.{s.amount} ELSE 0 END)"
    return ask, (
        f"SELECT 100.0 * {part} / SUM(i.{s.amount}) AS percentage "
        f"FROM {s.items} i JOIN {s.owners} o ON o.{s.key} = i.{s.key};"
    )


def latest_of_each(dice: Dice, s: Schema) -> Query:
    group = dice.pick(s.groups)
    ask = f"For each {s.owner} with {s.group} '{group}', return the latest {words(s.item)} and its {s.measure}."
    newest = f"SELECT MAX(x.{s.date}) FROM {s.items} x WHERE x.{s.key} = o.{s.key}"
    return ask, (
        f"SELECT o.{s.label}, i.{s.date}, i.{s.amount} FROM {s.joined} "
        f"WHERE o.{s.group} = '{group}' AND i.{s.date} = ({newest});"
    )


def totals_over(dice: Dice, s: Schema) -> Query:
    limit = pick_amount(dice, s) * dice.between(3, 9)
    ask = f"Using a common table expression, find {s.owners} where the sum of {s.measure} is more than {limit}."
    return ask, (
        f"WITH sums AS (SELECT {s.key}, SUM({s.amount}) AS summed FROM {s.items} GROUP BY {s.key}) "
        f"SELECT o.{s.label}, sums.summed FROM sums JOIN {s.owners} o ON o.{s.key} = sums.{s.key} "
        f"WHERE sums.summed > {limit} ORDER BY sums.summed DESC;"
    )


def groups_reached(dice: Dice, s: Schema) -> Query:
    states = dice.draw(s.states, 2)
    ask = f"How many different {s.owners} per {s.group} have {s.items} that are '{states[0]}' or '{states[1]}'?"
    return ask, (
        f"SELECT o.{s.group}, COUNT(DISTINCT o.{s.key}) AS {s.owners}_count FROM {s.joined} "
        f"WHERE i.{s.state} IN ('{states[0]}', '{states[1]}') GROUP BY o.{s.group};"
    )


def change_state(dice: Dice, s: Schema) -> Query:
    (old, new), until = dice.draw(s.states, 2), pick_date(dice)
    ask = f"Set {words(s.state)} to '{new}' for all {s.items} before {until} that are still '{old}'."
    return (
        ask,
        f"UPDATE {s.items} SET {s.state} = '{new}' WHERE {s.state} = '{old}' AND {s.date} < '{until}';",
    )


def step_between(dice: Dice, s: Schema) -> Query:
    owner = dice.between(1, 400)
    ask = f"For {s.owner} {owner}, show each {s.measure} and how much it differs from the one before."
    return ask, (
        f"SELECT {s.date}, {s.amount}, {s.amount} - LAG({s.amount}) OVER (ORDER BY {s.date}) AS difference "
        f"FROM {s.items} WHERE {s.key} = {owner} ORDER BY {s.date};"
    )


PATTERNS = (
    list_in_state,
    join_group,
    count_by_state,
    sum_by_group,
    having_count,
    top_owners,
    above_average,
    owners_without,
    owners_never,
    rank_in_group,
    running_total,
    between_dates,
    months_of_year,
    size_classes,
    share_of_all,
    latest_of_each,
    totals_over,
    groups_reached,
    change_state,
    step_between,
)
