"""Verbs about recipes: submit, plan, recipe show, recipe list."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.following import INTERRUPTED, finish, follow
from launcher.cli.verbs import add_json, add_verb
from launcher.cli.without_torch import without_torch
from launcher.errors import RecipeError

if TYPE_CHECKING:
    from launcher.budget import Costed
    from launcher.recipe import Recipe

# A flag people change daily -> the recipe key it sets.
RECIPE_FLAGS = {
    "instance": "compute.instance",
    "model": "model.id",
    "train": "data.train",
    "eval": "data.eval",
    "test": "data.test",
    "max_runtime": "compute.max_runtime",
    "max_wait": "compute.max_wait",
    "spot": "compute.spot",
    "keep_alive": "compute.keep_alive",
    "max_cost": "compute.max_cost",
}


def add_verbs(verbs: Any) -> None:
    submit = add_verb(
        verbs, "submit", run_submit, "check, upload, start a job and follow it", "submit --instance local"
    )
    add_recipe_flags(submit)
    submit.add_argument(
        "--fresh", action="store_true", help="start again, though the run has a checkpoint or is finished"
    )
    submit.add_argument("--yes", action="store_true", help="do not ask, whatever it costs (see compute.confirm_above)")
    submit.add_argument("--detach", action="store_true", help="return as soon as the job is started")
    submit.add_argument("--out", default="", help="folder for the adapter (default: runs/<job>)")
    submit.add_argument("--json", action="store_true", help="print the job's state as JSON at the end")

    plan = add_verb(
        verbs, "plan", run_plan, "show what a submit would do; nothing is sent", "plan my.toml --instance ml.g5.xlarge"
    )
    add_recipe_flags(plan)
    plan.add_argument("--json", action="store_true", help="print the exact CreateTrainingJob request")

    recipe = verbs.add_parser("recipe", help="show or list recipes").add_subparsers(metavar="VERB", required=True)
    show = add_verb(
        recipe,
        "show",
        run_recipe_show,
        "print the merged recipe and where each value came from",
        "recipe show > recipe.toml",
    )
    add_recipe_flags(show)
    add_json(show)
    listing = add_verb(recipe, "list", run_recipe_list, "list the shipped recipes", "recipe list")
    add_json(listing)


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", nargs="?", help="a TOML file or a shipped recipe (default: recipe.toml here, else the shipped one)"
    )
    parser.add_argument("--name", help="name of the run (default: the recipe's)")
    parser.add_argument(
        "--instance", help="local, or a type such as ml.g5.xlarge; several with commas, in the order to try them in"
    )
    parser.add_argument("--model", help="Hub id, or a folder")
    parser.add_argument("--train", metavar="JSONL", help="training rows")
    parser.add_argument("--eval", metavar="JSONL", help="evaluation rows")
    parser.add_argument("--test", metavar="JSONL", help="rows for the final evaluation")
    parser.add_argument("--spot", action="store_true", default=None, help="on spot capacity")
    parser.add_argument("--max-runtime", metavar="TIME", help="end the job after this, such as 90m or 4h")
    parser.add_argument("--max-wait", metavar="TIME", help="for spot: end it after this, waiting included")
    parser.add_argument("--max-cost", metavar="DOLLARS", help="lower the time limit so that the job cannot cost more")
    parser.add_argument(
        "--keep-alive", metavar="TIME", help="keep the instances for the next job, such as 20m; they are billed"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key, such as lora.r=8"
    )
    parser.add_argument(
        "--smoke", action=argparse.BooleanOptionalAction, default=None, help="train a small stand-in of the model"
    )


def load_recipe_from(args: argparse.Namespace) -> Recipe:
    from launcher.recipe import load_recipe

    overrides: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for text in args.set:
        key, value = parse_setting(text)
        overrides[key], origins[key] = _start_here(key, value), "--set"
    for flag, key in RECIPE_FLAGS.items():
        value = getattr(args, flag, None)
        if value is not None:
            overrides[key], origins[key] = _start_here(key, value), f"--{flag.replace('_', '-')}"
    return load_recipe(args.recipe, overrides, smoke=getattr(args, "smoke", None), origins=origins)


def _start_here(key: str, value: Any) -> Any:
    """Paths on the command line start here, not at the recipe's folder."""
    from launcher.home import expand_home
    from launcher.recipe import PATH_KEYS, PATH_STARTS

    if key == "code.files" and isinstance(value, list):
        return [_start_here(key, part) for part in value]
    if key not in {*PATH_KEYS, "code.files"} or not isinstance(value, str) or not value or value.startswith("s3://"):
        return value
    if key == "model.id" and not Path(value).is_dir() and not value.startswith(PATH_STARTS):
        return value  # a Hub id
    return str(expand_home(value).absolute())


def parse_setting(text: str) -> tuple[str, Any]:
    """`lora.r=8` -> ("lora.r", 8): the value as TOML where it is, else as text."""
    import tomllib

    from launcher.recipe_values import is_text

    key, mark, value = text.partition("=")
    if not mark or not key.strip():
        raise RecipeError(f"--set {text} has no value.", hint="Write it as --set lora.r=8.")
    if is_text(key.strip()) and not value.strip().startswith(('"', "'", "[")):
        return key.strip(), value.strip()  # image.version=2.8 is a text, though TOML would read a number
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _make_costed(args: argparse.Namespace) -> Costed:
    """The plan with its money; the price is looked up while the rows are checked."""
    from launcher import console
    from launcher.budget import make_costed, start_price
    from launcher.plan import make_plan

    recipe = load_recipe_from(args)
    find_price = start_price(recipe)
    with without_torch():
        plan = make_plan(recipe, args.name, track=console.track)
    return make_costed(plan, find_price)


def run_plan(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.aws.shapes import check_request
    from launcher.aws.site import offline_site
    from launcher.request import make_request

    costed = _make_costed(args)
    plan = costed.plan
    site = offline_site(plan.recipe)
    request = make_request(plan, site)
    check_request(request)
    if args.json:
        console.data_json(request)
    else:
        console.print_pairs([*plan.rows(), *costed.rows(), ("bucket", site.bucket), ("role", site.role)])
    return 0


def run_submit(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.submission import submit

    costed = _make_costed(args)
    plan = costed.plan
    for note in plan.notes:
        console.note(note)
    _confirm_cost(costed, args.yes)
    job = submit(plan, fresh=args.fresh, say=console.say, track=console.track)
    started = job.name == plan.job_name
    if started:
        console.say(f"started {job.name}")
    if args.detach:
        if args.json:
            console.data_json(job.state().describe())
        else:
            console.data(job.name)
            console.say(f"  -> `launcher logs -f {job.name}` follows it")
        if plan.recipe.compute.on_demand_after_wait:
            console.say(f"note: without a follower it stays on spot; `launcher wait {job.name}` takes care of the rest")
        return 0
    # a finished run has nothing to follow; what it left is fetched
    code = follow(job, console.say) if started else 0
    return code if code == INTERRUPTED else finish(job, args.out or Path(plan.recipe.output.dir) / job.name, args.json)


def _confirm_cost(costed: Costed, agreed: bool) -> None:
    """Say what the job costs; ask only where somebody can answer, and only above the recipe's sum."""
    from launcher import console
    from launcher.errors import RunError

    if costed.plan.recipe.compute.place == "local":
        return
    for line in costed.lines():
        console.say(line)
    if costed.worth_asking() and not agreed and console.can_ask() and not console.confirm("Submit it?"):
        raise RunError("Not submitted; nothing was sent.", hint="--yes answers; --max-cost sets a limit.")


def run_recipe_show(args: argparse.Namespace) -> int:
    from launcher import console

    recipe = load_recipe_from(args)
    if args.json:
        values = {key: (_plain(recipe.value(key)), origin) for key, _, origin in recipe.rows()}
        console.data_json({key: {"value": value, "from": origin} for key, (value, origin) in values.items()})
    else:
        console.print_recipe(recipe)
    return 0


def _plain(value: Any) -> Any:
    """Tables as a recipe writes them."""
    from launcher.data.settings import Filter, Source, given_fields

    if isinstance(value, tuple):
        return [given_fields(part) if isinstance(part, Source | Filter) else part for part in value]
    return value


def run_recipe_list(args: argparse.Namespace) -> int:
    from launcher import console
    from launcher.recipe import shipped_recipes

    found = shipped_recipes()
    if args.json:
        console.data_json({name: str(path) for name, path in found.items()})
    else:
        console.print_pairs((name, str(path)) for name, path in found.items())
    return 0
