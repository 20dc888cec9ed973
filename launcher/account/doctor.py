"""examine(recipe) -> findings: what a submit of this recipe would miss, asked of the account without changing it.

A check is a small function from a scene to one finding; CHECKS lists them in the order in which they are shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from launcher import hub, images
from launcher.account.doctor_job import check_job
from launcher.account.doctor_rights import check_model_in_s3, check_permissions, check_role, check_token
from launcher.account.doctor_scene import (
    BREAKS,
    DENIED,
    LIMIT_S,
    Finding,
    MakeClient,
    Scene,
    broken,
    code_of,
    find_region_problem,
    missing,
    ok,
    only_on_aws,
    unknown,
)
from launcher.aws import places, prices, quotas
from launcher.aws.errors import explained
from launcher.aws.quick import Task, collect, run_together
from launcher.aws.session import find_region, open_session
from launcher.aws.site import LOCAL_SITE
from launcher.aws.site_checks import find_elsewhere
from launcher.errors import LauncherError, SiteError
from launcher.price_table import Price
from launcher.recipe import Recipe
from launcher.recipe_sections import Compute

ANY_REGION = "us-east-1"  # to ask who is signed in, where no region is set
# Why a job needs a quota beside the one that it starts with.
REASONS: dict[quotas.Use, str] = {"warm pool": " to be kept alive", "training": " to go on on demand"}


def examine(recipe: Recipe, *, make_client: MakeClient | None = None) -> list[Finding]:
    """Run every check, all at once; `make_client` stands in for AWS."""
    scene = _make_scene(recipe, make_client)
    scene.start()
    tasks = [Task(_guarded(name, check, scene)) for name, check in zip(NAMES, CHECKS, strict=True)]

    def late(number: int) -> Finding:
        return Finding(NAMES[number], "unknown", "no answer in time", "Try again, or check the network.")

    return collect(tasks, scene.find_limit(), late)


def is_healthy(findings: list[Finding]) -> bool:
    return all(finding.state not in ("missing", "broken") for finding in findings)


def _make_scene(recipe: Recipe, make_client: MakeClient | None) -> Scene:
    scene = Scene(recipe, make_client=make_client, region_problem=find_region_problem(""))
    try:
        with explained("looking for a region and credentials"):
            scene.region = LOCAL_SITE.region if scene.is_local else recipe.compute.region or find_region()
            scene.region_problem = find_region_problem(scene.region)
            if not make_client:
                scene.session = open_session(recipe.compute.place, ANY_REGION if scene.region_problem else scene.region)
    except LauncherError as error:
        scene.problem = error
    return scene


def _guarded(name: str, check: Callable[[Scene], Finding], scene: Scene) -> Callable[[], Finding]:
    """A check that could not ask is unknown, not missing, and one that breaks is said to; the others go on."""

    def run() -> Finding:
        try:
            return dataclasses.replace(check(scene), name=name)
        except LauncherError as error:
            return Finding(name, "unknown", f"not checked: {error.message}", error.hint)
        except BREAKS as error:
            return dataclasses.replace(broken(error), name=name)

    return run


def check_identity(scene: Scene) -> Finding:
    try:
        who = scene.find_who()
    except LauncherError as error:
        return missing(error.message, error.hint)
    return ok(f"{who.arn} in account {who.account}")


def check_region(scene: Scene) -> Finding:
    if problem := scene.region_problem:
        return missing(problem.message, problem.hint)
    return ok(scene.region)


def check_bucket(scene: Scene) -> Finding:
    """There, in the job's region; and how it encrypts."""
    if not scene.bucket:
        return scene.site.lack()
    s3 = scene.client("s3")
    try:
        region = places.fetch_bucket_region(s3, scene.bucket)
    except SiteError as error:
        if scene.is_local and code_of(error) in ("404", "NoSuchBucket"):
            return ok(f"{scene.bucket}, which the first submit makes")
        return missing(error.message, error.hint)
    if region and region != scene.region:
        return missing(
            f"{scene.bucket} lies in {region}, and the job runs in {scene.region}",
            f"Use a bucket of {scene.region}, or set compute.region to {region}.",
        )
    try:
        encryption = places.fetch_encryption(s3, scene.bucket) or "no default"
    except LauncherError as error:
        if code_of(error) not in DENIED and not scene.is_local:
            raise
        encryption = "unknown"
    return ok(f"{scene.bucket} in {region or scene.region}, encryption: {encryption}")


def check_places(scene: Scene) -> Finding:
    """Keys and secrets named by ARN lie in the job's region; role, bucket and image have checks of their own."""
    if scene.is_local:
        return only_on_aws()
    if scene.region_problem:
        return unknown("the job has no region, so nothing can be of another", "Mend the region first.")
    wrong = [found for found in find_elsewhere(scene.recipe, scene.region) if found[0] != "image.uri"]
    if not wrong:
        return ok(f"no key and no secret of another region than {scene.region}")
    return missing(
        "; ".join(f"{key} is {what}, which lies in {region}" for key, what, region in wrong),
        f"The job runs in {scene.region}: use ones of that region, or set compute.region.",
    )


def check_quota(scene: Scene) -> Finding:
    """Enough instances of this type, for each way in which the recipe buys them; of several types, of one."""
    if scene.is_local:
        return only_on_aws()
    compute, types = scene.recipe.compute, scene.recipe.compute.instances
    uses: tuple[quotas.Use, ...] = ("training", "spot", "warm pool") if len(types) == 1 else _needed_uses(compute)
    asked = [quotas.quota_name(instance, use) for instance in types for use in uses]
    found = quotas.fetch_quotas(scene.client("service-quotas"), asked)
    lacks = {instance: list(_iter_lacks(instance, scene, found)) for instance in types}
    good = [instance for instance in types if not lacks[instance]]
    if not good:
        return _worst([lack for instance in types for lack in lacks[instance]], list(lacks.values()))
    words = [f"{instance}: {_quota_words(instance, uses, found)}" for instance in good]
    others = [f"but not {instance}: {lack.text}" for instance in types for lack in lacks[instance]]
    return ok("; ".join([*words, *others]))


def _worst(lacks: list[Finding], by_type: list[list[Finding]]) -> Finding:
    """Unknown only where a type may still do, since of it nothing else is known."""
    hopeful = [found[0] for found in by_type if all(lack.state == "unknown" for lack in found)]
    certain = [lack for lack in lacks if lack.state == "missing"]
    return dataclasses.replace((hopeful or certain)[0], text="; ".join(lack.text for lack in lacks))


def _needed_uses(compute: Compute) -> tuple[quotas.Use, ...]:
    first: quotas.Use = "spot" if compute.spot else "training"
    others: list[quotas.Use] = ["training"] if compute.on_demand_after_wait else []
    return (first, *others, "warm pool") if compute.keep_alive_s else (first, *others)


def _iter_lacks(instance: str, scene: Scene, found: dict[str, quotas.Quota]) -> Iterator[Finding]:
    compute = scene.recipe.compute
    for number, use in enumerate(_needed_uses(compute)):
        name = quotas.quota_name(instance, use)
        quota = found.get(name)
        if quota is None:
            yield unknown(f'AWS lists no quota "{name}"', "Look it up by that name.", quotas.request_link(scene.region))
        elif quota.value < compute.count:
            yield missing(
                f'"{name}" is {quota.value:g}, and the job needs {compute.count}{REASONS[use] if number else ""}',
                "Ask for more, which takes hours to days, or use another --instance.",
                quotas.request_link(scene.region, quota.code),
            )


def _quota_words(instance: str, uses: tuple[quotas.Use, ...], found: dict[str, quotas.Quota]) -> str:
    names = {use: quotas.quota_name(instance, use) for use in uses}
    return ", ".join(f"{found[name].value:g} {use}" for use, name in names.items() if name in found)


def check_image(scene: Scene) -> Finding:
    if scene.is_local:
        return only_on_aws()
    choice = scene.recipe.image
    ecr = scene.client("ecr")
    uri = choice.uri or images.make_uri(images.image_named(choice.version), scene.region)
    image = places.split_image(uri)
    if image is None:
        return unknown(f"{uri} is not in ECR, so nobody has looked")
    if image.region != scene.region:
        return missing(
            f"{uri} lies in {image.region}, and the job runs in {scene.region}",
            "Name an image of the job's region, or leave image.uri empty to have it chosen.",
        )
    if not places.has_image(ecr, image):
        return missing(f"ECR has no {uri}", "Choose another image.version, or give the tag as image.uri.")
    return ok(f"{image.repository}:{image.tag or image.digest}")


def check_model(scene: Scene) -> Finding:
    """The Hub has it, and the secret's token, where one is named, can read it."""
    recipe = scene.recipe
    config = recipe.config
    model = config.model_name_or_path
    if recipe.model.s3 and not scene.is_local:
        return check_model_in_s3(scene)
    if recipe.model.s3 or config.smoke or recipe.resolve(model).is_dir():
        return ok("a stand-in" if config.smoke else f"from {recipe.model.s3 or model}; the Hub is not needed")
    found = hub.look_up(model, config.model_revision)
    if found is hub.Found.YES:
        return ok(f"{model} is on the Hub, for everybody")
    if found is hub.Found.UNREACHABLE:
        return unknown(f"the Hub cannot be reached from here, so nobody has looked for {model}")
    if not config.hf_token_secret:
        return missing(
            f"{model} {'is gated' if found is hub.Found.GATED else 'cannot be seen on the Hub'} without a token",
            "Store a token in AWS Secrets Manager and name the secret as secrets.hf_token.",
        )
    client = scene.client("secretsmanager")
    try:
        token = places.fetch_secret(client, config.hf_token_secret)
    except SiteError as error:
        if not code_of(error):
            return missing(error.message, error.hint)
        if code_of(error) not in DENIED:
            raise
        return unknown(
            f"{model} needs a token, and only the job reads the secret {config.hf_token_secret}; nobody has tried it",
            "Somebody who may read the secret can run this; whether the job may is a line of its own.",
        )
    if hub.look_up_with(hub.token_in(token), model, config.model_revision) is hub.Found.YES:
        return ok(f"{model} can be read with the token of {config.hf_token_secret}")
    return missing(
        f"the token of {config.hf_token_secret} cannot read {model}",
        f"Accept the licence on the model's page with the token's account: https://huggingface.co/{model}.",
    )


def check_price(scene: Scene) -> Finding:
    """Of every type that the job may run on."""
    if scene.is_local:
        return Finding("", "skipped", "this machine costs nothing")
    types = scene.recipe.compute.instances
    calls = [lambda instance=instance: _find_price(scene, instance) for instance in types]
    found = run_together(calls, LIMIT_S, lambda number: prices.table_price(types[number], scene.region))
    priced = [(name, price) for name, price in zip(types, found, strict=True) if price]
    unpriced = [name for name, price in zip(types, found, strict=True) if price is None]
    words = [f"{name}: ${price.usd_per_hour:,.3f} an hour ({price.source})" for name, price in priced]
    if scene.recipe.compute.max_cost and any(price.is_elsewhere for _, price in priced):
        return missing("; ".join(words), "compute.max_cost needs this region's price: pricing:GetProducts looks it up.")
    if unpriced:
        return unknown("; ".join([f"there is no price for {', '.join(unpriced)} here", *words]), "Check its name.")
    return ok("; ".join(words))


def _find_price(scene: Scene, instance: str) -> Price | None:
    if cached := prices.load_cached(instance, scene.region):
        return cached
    try:
        client = scene.client("pricing", prices.PRICE_LIST_REGION)
    except LauncherError:  # nobody to ask; the table needs nobody
        return prices.table_price(instance, scene.region)
    return prices.find_price(client, instance, scene.region)


NAMES = (
    "identity", "region", "role", "job", "permissions", "bucket", "places", "quota", "image", "model", "token", "price",
)  # fmt: skip
CHECKS = (
    check_identity, check_region, check_role, check_job, check_permissions, check_bucket, check_places, check_quota,
    check_image, check_model, check_token, check_price,
)  # fmt: skip
