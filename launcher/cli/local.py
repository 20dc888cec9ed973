"""Verbs about the endpoint on this machine: up, status, firings, down, reset, interrupt."""

from __future__ import annotations

import argparse
from typing import Any

from launcher.cli.verbs import add_json, add_verb

MEGABYTE = 1_000_000


def add_verbs(verbs: Any) -> None:
    noun = verbs.add_parser("local", help="the SageMaker-compatible endpoint on this machine")
    local = noun.add_subparsers(metavar="VERB", required=True)
    add_json(add_verb(local, "up", run_up, "start the endpoint, unless it runs", "local up"))
    add_json(add_verb(local, "status", run_status, "show what runs and what is kept", "local status"))
    add_json(add_verb(local, "firings", run_firings, "list what schedules did, missed and failed", "local firings"))
    add_verb(local, "down", run_down, "stop the endpoint; jobs, schedules, logs and objects are kept", "local down")
    reset = add_verb(local, "reset", run_reset, "delete everything the endpoint holds", "local reset")
    reset.add_argument("--force", action="store_true", help="also end the jobs that run")
    interrupt = add_verb(local, "interrupt", run_interrupt, "play a spot interruption", "local interrupt my-run")
    interrupt.add_argument("name", help="a spot job on the local endpoint, or its beginning")


def run_up(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.local.lifecycle import ensure_endpoint

    endpoint = ensure_endpoint()
    if args.json:
        console.data_json({"url": endpoint.url, "pid": endpoint.pid, "root": str(endpoint.root)})
    else:
        console.data(endpoint.url)
        console.say(f"  -> AWS_ENDPOINT_URL={endpoint.url} points any AWS tool at it")
    return 0


def run_status(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.local.lifecycle import find_status

    status = find_status()
    if status is None:
        if args.json:
            console.data_json({"running": False})
        else:
            console.data("not running; `launcher local up` starts it, and so does the first command that needs it")
        return 0
    endpoint = status.endpoint
    rows = {
        "url": endpoint.url,
        "pid": endpoint.pid,
        "root": str(endpoint.root),
        "uptime_s": round(status.uptime_s, 1),
        "jobs": status.jobs,
        "jobs_at_once": endpoint.settings.jobs_at_once,
        "schedules": status.schedules,
        "next_firing": status.next_firing,
        "disk_mb": round(status.disk_bytes / MEGABYTE, 1),
        "memory_mb": round(status.memory_bytes / MEGABYTE, 1),
        "kept": "jobs, schedules, logs and objects, through `down` and a kill",
        "missed_firings": "the last of each schedule is made up for at the next start, unless it is older than the "
        "schedule's MaximumEventAgeInSeconds (a day)",
        "lost_with_the_process": "what moto holds (IAM, STS, CloudFormation, Secrets Manager, ...): "
        + ("loaded" if status.is_moto_loaded else "not used yet"),
    }
    if args.json:
        console.data_json({"running": True, **rows})
    else:
        rows["next_firing"] = status.next_firing or "none"
        rows["jobs"] = ", ".join(f"{count} {state}" for state, count in status.jobs.items()) or "none"
        console.print_pairs((name.replace("_", " "), str(value)) for name, value in rows.items())
    return 0


def run_firings(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.local.lifecycle import list_executions

    executions = list_executions()
    if args.json:
        console.data_json(executions)
    elif not executions:
        console.say("no schedule has fired yet")
    else:
        rows = [
            (found["scheduled_time"], found["schedule_arn"].partition("/")[2], found["outcome"], _describe(found))
            for found in executions
        ]
        console.print_table(("TIME", "SCHEDULE", "OUTCOME", "JOB OR REASON"), rows)
    return 0


def _describe(found: dict[str, Any]) -> str:
    letter = f" (dead letter: {found['dead_letter']})" if found["dead_letter"] else ""
    return f"{found['result'] or found['error'] or ''}{letter}"


def run_down(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.local.lifecycle import stop_endpoint

    stopped = stop_endpoint()
    console.say("stopped; jobs, schedules, logs and objects are kept" if stopped else "the endpoint was not running")
    return 0


def run_reset(args: argparse.Namespace) -> int:
    from launcher import console, ledger
    from launcher.local.lifecycle import reset

    reset(force=args.force)
    ledger.forget("local")
    console.say("the local endpoint is empty")
    return 0


def run_interrupt(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.job import attach
    from launcher.local.lifecycle import interrupt_job

    job = attach(args.name, "local")
    interrupt_job(job.name)
    console.say(f"{job.name} is interrupted; it goes on from its last checkpoint, if it has one")
    return 0
