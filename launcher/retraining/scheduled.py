"""A plan's request as a schedule sends it: the one that submit sends, but for name, checkpoints and channels.

EventBridge Scheduler replaces the execution id in the text and calls CreateTrainingJob with it. The rows are lists at
fixed places (publication.py), and two channels come with them: which publication it is, and the champion to beat.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from container_src.sft.comparison import LEAST_ROWS
from container_src.sft.publication import FILE
from launcher.aws.schedules import Home
from launcher.aws.shapes import check_request
from launcher.data.channels import Channel
from launcher.data.settings import CHANNELS
from launcher.errors import RecipeError, RunError
from launcher.plan import JOB_NAME_LIMIT, Plan
from launcher.progress import Say, silent
from launcher.recipe import Recipe
from launcher.recipe_sections import KEYS
from launcher.request import Site, make_request
from launcher.retraining.champion import Line, check_base, read_champion
from launcher.retraining.publication import Shelf, find_lack

EXECUTION_ID = "<aws.scheduler.execution-id>"
SAMPLE_ID = "0a1b2c3d-0a1b-2c3d-4e5f-0a1b2c3d4e5f"  # as long as one may be
NAME_LIMIT = JOB_NAME_LIMIT - len(SAMPLE_ID) - 1
INPUT_LIMIT = 256 * 1024
NAME = re.compile(r"[a-z0-9](-*[a-z0-9])*")


def make_scheduled_plan(plan: Plan, name: str, shelf: Shelf, line: Line, home: Home) -> Plan:
    """The plan with an execution's name, and channels at places that stay while what lies there changes."""
    config = plan.config
    if home.topic and not config.notify_topic and not has_network_isolation(plan.recipe):
        config = dataclasses.replace(config, notify_topic=home.topic)
    channels = (
        *(_fixed(channel, shelf) for channel in plan.channels),
        Channel("publication", "", s3_uri=shelf.uri(FILE)),
        Channel("champion", "", s3_uri=line.pointer, is_manifest=True),
    )
    return dataclasses.replace(plan, config=config).scheduled(name, EXECUTION_ID, channels)


def _fixed(channel: Channel, shelf: Shelf) -> Channel:
    if channel.name not in CHANNELS:
        return channel  # a model or an adapter: named by its digest, and changed by an update of the schedule
    return dataclasses.replace(channel, uploads=(), s3_uri=shelf.manifest_uri(channel.name), is_manifest=True)


def render(plan: Plan, site: Site) -> dict[str, Any]:
    """The Input of the schedule, checked as strictly as a request can be."""
    request = make_request(plan, site)
    check_rendered(request)
    return request


def check_rendered(request: dict[str, Any]) -> None:
    check_request(substitute(request, SAMPLE_ID))
    size = len(json.dumps(request).encode())
    if size > INPUT_LIMIT:
        raise RecipeError(
            f"The request has {size:,} bytes; a schedule holds {INPUT_LIMIT:,}.",
            hint="Shorten what the recipe puts into hyperparameters.",
        )


def substitute(request: dict[str, Any], execution_id: str) -> dict[str, Any]:
    """What the scheduler does with its Input."""
    text = json.dumps(request)
    filled: dict[str, Any] = json.loads(text.replace(EXECUTION_ID, execution_id))
    return filled


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise RunError(
            f"The schedule's name {name!r} cannot be part of a job name.",
            hint="Use lower-case letters, digits and single dashes.",
        )
    if len(name) > NAME_LIMIT:
        raise RunError(
            f"The schedule's name {name!r} has {len(name)} characters; {NAME_LIMIT} fit before an execution's id.",
            hint=f"Use --name {name[:NAME_LIMIT].rstrip('-')}.",
        )
    return name


def check_gate(recipe: Recipe, rows: Mapping[str, int], say: Say = silent) -> None:
    """Refuse, or say, what a scheduled job could only find out after its training. `rows` counts each channel's."""
    if has_network_isolation(recipe) and recipe.config.notify_topic:
        raise RecipeError(
            "schedule.notify_topic is set, but a job under network isolation cannot reach SNS.",
            hint="Remove it (`launcher schedule history` shows the verdicts), or end the isolation.",
        )
    if has_network_isolation(recipe) and recipe.config.promote == "if-better":
        raise RecipeError(
            'schedule.promote is "if-better", but a job under network isolation cannot reach the pointer in S3.',
            hint='Set schedule.promote = "by-hand" and use `launcher champion promote JOB`, or end the isolation.',
        )
    problem, fix = _find_no_judgement(recipe, rows)
    if problem and recipe.config.promote == "if-better":
        raise RecipeError(f'schedule.promote is "if-better", but {problem}.', hint=fix)
    if problem:
        say(f"{problem}: the gate finds no job better, and none can be promoted. {fix}")


def _find_no_judgement(recipe: Recipe, rows: Mapping[str, int]) -> tuple[str, str]:
    """Why a job's evaluation cannot be judged, and what to do."""
    if lack := find_lack(rows):
        return lack, f"Give the recipe {LEAST_ROWS} rows or more as data.eval or data.test, and publish them."
    if (bias := recipe.config.lora_bias) != "none":
        problem = f'lora.bias is "{bias}", and with trained biases the base cannot be compared with'
        return problem, 'Set lora.bias = "none".'
    return "", ""


def say_reach(plan: Plan, say: Say) -> None:
    """Say what a job in subnets must reach for its notice, which nobody can check from here."""
    topic, compute = plan.config.notify_topic, plan.recipe.compute
    if topic and compute.subnets and compute.place == "aws":
        say(
            f"each job tells its verdict to {topic}, so its subnets must lead to SNS. A VPC made by "
            "`launcher bootstrap --vpc` does not, until it has an interface endpoint for SNS (about $7 a month in each "
            "zone): till then a job waits half a minute for nothing, and `launcher schedule history` alone tells"
        )


def check_champion(line: Line, plan: Plan) -> None:
    """Refuse a champion that no job of the plan could mount, or be weighed against."""
    champion = read_champion(line)
    if champion.job:  # a placeholder is mended when the request is sent
        check_base(champion.check(), dataclasses.asdict(plan.config))


def has_network_isolation(recipe: Recipe) -> bool:
    key = "compute.network_isolation"
    return key in KEYS and bool(recipe.value(key))
