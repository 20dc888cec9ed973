"""submit(plan) -> Job: decide what the run needs, upload what is missing, start."""

from __future__ import annotations

import threading

from container_src.sft.architectures import find_architecture
from launcher import hub, ledger, runs
from launcher.aws import estimator, jobs, s3
from launcher.aws.session import Session, open_session
from launcher.aws.shapes import check_request
from launcher.aws.site import find_site
from launcher.budget import keep_budget
from launcher.capacity import drop_unavailable
from launcher.data.channels import Channel, Upload, confirm_unchanged
from launcher.errors import DataError, RecipeError, RunError
from launcher.fallback import save_fallback
from launcher.job import Job
from launcher.plan import Plan
from launcher.progress import Say, Track, silent, untracked
from launcher.request import Site, full_key, make_request


def submit(plan: Plan, *, fresh: bool = False, say: Say = silent, track: Track = untracked) -> Job:
    """Start the plan's job, or go on with its run. Returns the finished job of a run that has nothing left to do."""
    plan = keep_budget(plan)
    check_base_model(plan, say)
    session = open_session(plan.recipe.compute.place, plan.recipe.compute.region)
    preloading = threading.Thread(target=estimator.preload, daemon=True)
    preloading.start()  # the SDK's import takes longer than everything before the start
    site = find_site(session, plan.recipe)
    ledger.record_place(
        session.place, session.region
    )  # whatever becomes of this, jobs of this run are looked for there
    plan = drop_unavailable(plan, session, say)
    check_request(make_request(plan, site))

    previous = runs.find_previous(session, plan.run)
    decision = runs.decide(plan, previous, fresh=fresh, has_checkpoint=runs.has_checkpoint(session, previous))
    if decision.why:
        say(decision.why)
    if decision.action == "finished" and decision.previous:
        return Job(decision.previous.name, session)
    if previous and previous.name >= plan.job_name:
        plan = plan.restamped()  # submitted before, as when a notebook's cell is run again
    if decision.action == "resume" and decision.previous:
        plan = plan.resuming(decision.previous.checkpoints)

    with runs.claimed(session, site, plan, previous):
        upload(plan, site, session, say, track)
        save_fallback(plan, site, session)
        preloading.join()
        start(plan, site, session)
    ledger.record(ledger.Entry(plan.job_name, session.place, session.region))
    return Job(plan.job_name, session)


def start(plan: Plan, site: Site, session: Session) -> None:
    """Start the job; one that runs already, since only the answer to an earlier attempt was lost, is as good."""
    request = make_request(plan, site)
    try:
        estimator.start_job(plan, site, request, session)
    except RunError:
        # of this name, which holds the time, and of these settings, which hold the digests of recipe and data
        found = jobs.describe_job(session, plan.job_name)
        if found.get("HyperParameters") != request["HyperParameters"]:
            raise


def upload(plan: Plan, site: Site, session: Session, say: Say = silent, track: Track = untracked) -> int:
    """Put what is absent; returns the bytes sent. Keys hold digests, so what is there is what is meant."""
    sent = 0
    key = full_key(plan, plan.source_key)
    if s3.find_object(session, site.bucket, key) is None:
        s3.put_bytes(session, plan.bundle.content, site.bucket, key)
        sent += len(plan.bundle.content)
    sent += sum(upload_channel(channel, plan, site, session, track) for channel in plan.channels)
    say(f"uploaded {sent:,} bytes" if sent else "uploaded 0 bytes: the data and the code are there already")
    return sent


def upload_channel(channel: Channel, plan: Plan, site: Site, session: Session, track: Track = untracked) -> int:
    return sum(_upload_item(plan, site, session, channel, item, track) for item in channel.uploads)


def _upload_item(plan: Plan, site: Site, session: Session, channel: Channel, item: Upload, track: Track) -> int:
    key = full_key(plan, channel.key + item.name)
    size = item.fingerprint.size
    found = s3.find_object(session, site.bucket, key)
    if found and found.size == size:
        return 0
    before = confirm_unchanged(item)
    with track(f"{channel.name}/{item.name}", size) as progress:
        s3.upload_file(session, item.path, site.bucket, key, progress)
    try:
        confirm_unchanged(item, before)
    except DataError:
        s3.delete_object(session, site.bucket, key)  # what lies there now is not what the key's digest says
        raise
    return size


def check_base_model(plan: Plan, say: Say = silent) -> None:
    """Refuse a base model that the job could not load; on this machine that includes having no network."""
    config, recipe = plan.config, plan.recipe
    model = config.model_name_or_path
    if any(channel.name == "model" for channel in plan.channels):
        return
    if config.smoke and find_architecture(config.model_family or model):
        return
    local = recipe.compute.place == "local"
    if local and hub.is_cached(model):
        return
    if recipe.compute.network_isolation:
        raise RecipeError(
            f"compute.network_isolation cuts the job off from the Hub, and {model} is no family known offline.",
            hint="Put a model into S3 and name it as model.s3, or turn compute.network_isolation off.",
        )
    found = hub.look_up(model, config.model_revision)
    if config.hf_token_secret and found is not hub.Found.YES:
        say(
            f"the job reads {model} with the token in the secret {config.hf_token_secret}; nobody has checked here "
            "that it may (`launcher doctor` does)"
        )
        return
    if found in (hub.Found.NO, hub.Found.GATED):
        what = "is gated" if found is hub.Found.GATED else "cannot be seen"
        raise RecipeError(
            f"{model} {what} on the Hub without a token, and this job has none.",
            hint="Store a token in AWS Secrets Manager and name the secret as secrets.hf_token; or download the model "
            "once, and give the folder as --model or put it into S3 as model.s3.",
        )
    if found is hub.Found.UNREACHABLE and local:
        raise RecipeError(
            f"{model} is neither known offline nor in this machine's cache, and the Hub cannot be reached from here.",
            hint="Use a local folder as --model, one of the shipped recipes' models with --smoke, or a network.",
        )
    if found is hub.Found.UNREACHABLE:
        say(f"the Hub cannot be reached from here, so nobody has checked that it has {model}")
