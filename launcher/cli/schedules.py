"""Verbs about retraining: publish, and schedule create, list, show, trigger, pause, resume, update, delete, history."""

from __future__ import annotations

import argparse
import re
from itertools import islice
from typing import Any

from launcher.cli.jobs import positive
from launcher.cli.recipes import RECIPE_FLAGS, add_recipe_flags, load_recipe_from
from launcher.cli.verbs import add_json, add_verb
from launcher.cli.without_torch import without_torch
from launcher.differences import shorten
from launcher.errors import InputError

UNITS = {"m": "minute", "h": "hour", "d": "day"}


def add_verbs(verbs: Any) -> None:
    publish = add_verb(
        verbs, "publish", run_publish, "check new data and have schedules train on it", "publish my.toml"
    )
    add_recipe_flags(publish)
    publish.add_argument("--rollback", action="store_true", help="go back to the publication before the current one")
    add_json(publish)

    schedule = verbs.add_parser("schedule", help="retrain on a schedule").add_subparsers(metavar="VERB", required=True)
    create = add_verb(
        schedule,
        "create",
        run_create,
        "deploy a recipe as a schedule",
        'schedule create my.toml --cron "0 3 ? * MON *" --timezone Europe/Berlin',
    )
    _add_when(create, required=True)
    _add_target(create)
    add_recipe_flags(create)
    update = add_verb(
        schedule,
        "update",
        run_update,
        "show what differs from the deployed schedule, then change that alone",
        "schedule update my-schedule my.toml --rate 12h",
    )
    update.add_argument("schedule", help="the schedule's name")
    update.add_argument("--check", action="store_true", help="only show what differs")
    _add_when(update, required=False)
    _add_target(update)
    add_recipe_flags(update)
    listing = add_verb(schedule, "list", run_list, "list schedules", "schedule list")
    for parser in (create, update, listing):
        add_json(parser)
    for name, run, help in (
        ("show", run_show, "show a deployed schedule"),
        ("trigger", run_trigger, "start a job of a schedule now"),
        ("pause", run_pause, "keep a schedule from firing"),
        ("resume", run_resume, "let a paused schedule fire again"),
        ("delete", run_delete, "delete a schedule; its jobs and champions stay"),
        ("history", run_history, "show what came of each firing"),
    ):
        parser = add_verb(schedule, name, run, help, f"schedule {name} my-schedule")
        parser.add_argument("schedule", help="the schedule's name")
        add_json(parser)
        _add_at(parser)
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="the newest N (default: 20)")
    _add_at(listing)
    _add_at(update)


def _add_at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--place", choices=("aws", "local"), help="where to look (default: where jobs were sent)")


def _add_when(parser: argparse.ArgumentParser, *, required: bool) -> None:
    when = parser.add_mutually_exclusive_group(required=required)
    when.add_argument("--cron", help='six fields, such as "0 3 ? * MON *"')
    when.add_argument("--rate", help="a period, such as 12h or 1d")
    when.add_argument("--at", metavar="TIME", help="once, such as 2030-01-31T03:00")
    parser.add_argument("--timezone", default="UTC" if required else "", help="such as Europe/Berlin (default: UTC)")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--retries", type=int, metavar="N", help="1 to 3, when a job cannot be created (default: 2)")
    parser.add_argument("--role", default="", help="role that the scheduler assumes (default: the stack's)")
    parser.add_argument("--queue", default="", metavar="ARN", help="dead-letter queue (default: the stack's)")


def make_expression(args: argparse.Namespace) -> str:
    """The flag in AWS's frame, if it has none yet; empty when none was given."""
    given = args.cron or args.rate or args.at or ""
    if re.fullmatch(r"(cron|rate|at)\(.*\)", given.strip()):  # as this launcher's own hints write it
        return str(given.strip())
    if args.cron:
        return f"cron({args.cron})"
    if args.at:
        return f"at({args.at}:00)" if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d", args.at) else f"at({args.at})"
    return f"rate({_period(args.rate)})" if args.rate else ""


def _period(text: str) -> str:
    match = re.fullmatch(r"(\d+)\s*([mhd])", text.strip())
    if not match:
        return text
    count = int(match[1])
    return f"{count} {UNITS[match[2]]}{'' if count == 1 else 's'}"


def _make_plan(recipe: Any) -> Any:
    from launcher import console
    from launcher.plan import make_plan

    with without_torch():
        return make_plan(recipe, track=console.track)


def run_publish(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.retraining.publication import publish, roll_back_publication

    if args.name:
        raise InputError(
            "--name names a run or a schedule, and data is published for a recipe.",
            hint="Leave it out; --set name=... publishes for a recipe of another name.",
        )
    recipe = load_recipe_from(args)
    if args.rollback:
        published = roll_back_publication(recipe, say=console.say)
    else:
        published = publish(_make_plan(recipe), say=console.say, track=console.track)
    if args.json:
        console.data_json(published.describe())
    else:
        console.print_pairs(published.rows())
    return 0


def run_create(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.retraining.deployment import RETRIES, create_schedule

    made = create_schedule(
        _make_plan(load_recipe_from(args)),
        make_expression(args),
        args.timezone,
        name=args.name or "",
        retries=RETRIES if args.retries is None else args.retries,
        role=args.role,
        queue=args.queue,
        say=console.say,
        track=console.track,
    )
    _print(made, args)
    return 0


def run_update(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.retraining.deployment import plan_update

    if args.name:
        raise InputError("A schedule keeps its name.", hint="Create another one, and delete this one.")
    plan = _make_plan(load_recipe_from(args)) if _names_a_recipe(args) else None
    change = plan_update(
        args.schedule,
        plan,
        make_expression(args),
        args.timezone,
        retries=args.retries,
        role=args.role,
        queue=args.queue,
        place=args.place,
        say=console.say,
    )
    differences = [(key, before or "-", after or "-") for key, before, after in change.differences]
    if args.json:
        console.data_json([{"key": key, "deployed": old, "new": new} for key, old, new in differences])
    elif differences:
        console.print_table(("KEY", "DEPLOYED", "NEW"), [(key, *shorten(old, new)) for key, old, new in differences])
    if not args.check:
        change.apply(console.say, console.track)
    if not differences:
        console.say(f"{args.schedule} is deployed like this already.")
    else:
        console.say("nothing was changed; without --check these are" if args.check else f"{args.schedule} is updated")
    return 0


def _names_a_recipe(args: argparse.Namespace) -> bool:
    """Whether anything of the recipe is to change: without one the deployed request stays."""
    flags = [vars(args)[flag] for flag in (*RECIPE_FLAGS, "smoke")]
    if (args.set or any(value is not None for value in flags)) and not args.recipe:
        raise InputError("These flags change a recipe, and none is named.", hint="Name the schedule, then the recipe.")
    return bool(args.recipe)


def _attach(args: argparse.Namespace) -> Any:
    from launcher.retraining.schedule import attach_schedule

    return attach_schedule(args.schedule, args.place)


def _print(schedule: Any, args: argparse.Namespace) -> None:
    from launcher import console

    if args.json:
        console.data_json(schedule.describe())
    else:
        console.print_pairs(schedule.rows())


def run_show(args: argparse.Namespace) -> int:
    _print(_attach(args), args)
    return 0


def run_list(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.retraining.schedule import list_schedules

    found = list_schedules(args.place)
    if args.json:
        console.data_json([schedule.describe() for schedule in found])
    elif not found:
        console.say("No schedules yet. `launcher schedule create` makes one.")
    else:
        rows = []
        for schedule in found:
            firing = next(iter(schedule.next_firings(1)), None)
            next_one = f"{firing:%Y-%m-%d %H:%M %Z}" if firing else "paused" if schedule.is_paused else "never"
            rows.append((schedule.name, f"{schedule.expression} {schedule.timezone}", next_one, schedule.session.place))
        console.print_table(("SCHEDULE", "WHEN", "NEXT", "PLACE"), rows)
    return 0


def run_trigger(args: argparse.Namespace) -> int:
    from launcher import console

    job = _attach(args).trigger(console.say)
    if args.json:
        console.data_json(job.state().describe())
    else:
        console.data(job.name)
        console.say(f"  -> `launcher logs -f {job.name}` follows it")
    return 0


def run_pause(args: argparse.Namespace) -> int:
    _print(_attach(args).pause(), args)
    return 0


def run_resume(args: argparse.Namespace) -> int:
    _print(_attach(args).resume(), args)
    return 0


def run_delete(args: argparse.Namespace) -> int:
    from launcher import console

    schedule = _attach(args)
    schedule.delete()
    if args.json:
        console.data_json({"deleted": schedule.name})
    else:
        console.say(f"{schedule.name} is deleted; its jobs, publications and champions are still there")
    return 0


def run_history(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.retraining.schedule import iter_history

    found = list(islice(iter_history(args.schedule, args.place, say=console.say), args.limit))
    if args.json:
        console.data_json([execution.describe() for execution in found])
    elif not found:
        console.say(f"{args.schedule} has not fired yet. `launcher schedule trigger {args.schedule}` starts a job now.")
    else:
        head = ("TIME", "JOB", "STATUS", "BILLED", "COST", "OUTCOME")
        console.print_table(head, [execution.cells() for execution in found])
    return 0
