"""Verbs about jobs: status, logs, wait, stop, fetch, compare, list."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.following import INTERRUPTED, follow, wait
from launcher.cli.verbs import add_json, add_verb

if TYPE_CHECKING:
    from launcher.job import Job, JobState
    from launcher.price_table import Price

TIMED_OUT = 124  # as timeout(1) has it


def add_verbs(verbs: Any) -> None:
    status = add_verb(verbs, "status", run_status, "show what a job is doing", "status my-run")
    logs = add_verb(verbs, "logs", run_logs, "print a job's log", "logs -f my-run")
    logs.add_argument(
        "-f", "--follow", action="store_true", help="go on until the job is over; Ctrl-C leaves it running"
    )
    waiting = add_verb(verbs, "wait", run_wait, "wait until a job is over; the exit code is the job's", "wait my-run")
    waiting.add_argument("--timeout", type=float, help="give up waiting after this many seconds")
    stop = add_verb(verbs, "stop", run_stop, "stop a job; it saves its adapter so far", "stop my-run")
    fetch = add_verb(verbs, "fetch", run_fetch, "download a job's adapter", "fetch my-run --out adapter/")
    fetch.add_argument("--out", default="", help="folder for the adapter (default: runs/<job>)")
    for parser in (status, logs, waiting, stop, fetch):
        parser.add_argument("name", help="a job's name, or its beginning")
        parser.add_argument(
            "--place",
            "--at",
            dest="at",
            choices=("aws", "local"),
            help="where to look (default: wherever it was submitted to)",
        )
        add_json(parser)
    comparing = add_verb(
        verbs, "compare", run_compare, "show what jobs measured beside their base model", "compare first second third"
    )
    comparing.add_argument("names", nargs="+", metavar="JOB", help="a job's name, its beginning, or a fetched folder")
    comparing.add_argument("--at", choices=("aws", "local"), help="where to look (default: wherever each was sent)")
    add_json(comparing)
    listing = add_verb(verbs, "list", run_list, "list jobs, the newest first", "list")
    listing.add_argument("--place", "--at", dest="at", choices=("aws", "local"), help="only this place")
    listing.add_argument("--limit", type=positive, default=50, metavar="N")
    add_json(listing)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return int(text)


def _attach(args: argparse.Namespace) -> Job:
    from launcher.job import attach

    return attach(args.name, args.at)


def run_status(args: argparse.Namespace) -> int:
    from launcher import console

    job = _attach(args)
    state = job.state()
    if args.json:
        console.data_json(state.describe())
    else:
        console.print_pairs(state.rows(_find_price(job, state)))
    return 0


def _find_price(job: Job, state: JobState) -> Price | None:
    """None on this machine, which costs nothing, and for a type whose price nobody knows offline."""
    if state.place == "local":
        return None
    from launcher.aws.prices import find_known_price

    return find_known_price(state.instance, job.session.region)


def run_logs(args: argparse.Namespace) -> int:
    from launcher import console

    job = _attach(args)
    emit = console.data_line_json if args.json else console.data
    if not args.follow:
        for line in job.logs():
            emit(line)
        return 0
    code = follow(job, emit)
    if code == 0:
        job.check(job.state())
    return code


def run_wait(args: argparse.Namespace) -> int:
    from launcher import console

    job = _attach(args)
    try:
        state = wait(job, args.timeout)
    except KeyboardInterrupt:
        console.say(f"{job.name} goes on without you; `launcher wait {job.name}` waits again.")
        return INTERRUPTED
    except TimeoutError as error:
        console.say(str(error))
        return TIMED_OUT
    if args.json:
        console.data_json(state.describe())
    job.check(state)
    if not args.json:
        console.print_pairs(state.rows())
    return 0


def run_stop(args: argparse.Namespace) -> int:
    from launcher import console

    job = _attach(args)
    job.stop()
    if args.json:
        console.data_json(job.state().describe())
    else:
        console.say(f"{job.name} is stopping and saves what it has; `launcher wait {job.name}` waits for its end.")
    return 0


def run_fetch(args: argparse.Namespace) -> int:
    from launcher import console

    job = _attach(args)
    adapter = job.fetch(args.out, console.track)
    if args.json:
        console.data_json({"adapter": str(adapter.folder), "base_model": adapter.base_model})
    else:
        console.print_adapter(job.name, adapter)
    return 0


def run_compare(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.job import attach
    from launcher.results.comparison import HEAD, compare, is_artifact, load_results

    found = compare(
        [
            load_results(Path(name)) if is_artifact(Path(name)) else attach(name, args.at).results(track=console.track)
            for name in args.names
        ]
    )
    if args.json:
        console.data_json(found.describe())
        return 0
    console.print_table(HEAD, found.rows())
    for note in found.notes():
        console.say(f"note: {note}")
    return 0


def run_list(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.job import list_jobs

    found = list_jobs(args.at, limit=args.limit)
    if args.json:
        console.data_json([job.describe() for job in found])
    else:
        console.print_jobs(found)
    return 0
