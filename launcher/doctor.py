"""examine(recipe) -> findings: what a submit of this recipe would miss, asked of the account without changing it.

A check is a small function from a scene to one finding; CHECKS lists them in the order in which they are shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from launcher import gate_rights, hub, images
from launcher.aws import identity, places, prices, quotas
from launcher.aws.errors import explained
from launcher.aws.quick import make_quick_client, run_together
from launcher.aws.session import Session, find_region, open_session
from launcher.aws.site import LOCAL_SITE, find_site
from launcher.errors import CloudError, CredentialsError, LauncherError, SiteError
from launcher.recipe import Recipe

State = Literal["ok", "missing", "unknown", "skipped"]
LIMIT_S = 2.0  # for all checks after the first; what has not answered by then is said to be unknown
LOCAL_LIMIT_S = 15.0  # the local endpoint loads moto at the first question
ANY_REGION = "us-east-1"  # to ask who is signed in, where no region is set
GLOBAL = {"iam", "sts"}
DENIED = {"AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation"}
MakeClient = Callable[[str, str], Any]


@dataclass(frozen=True)
class Finding:
    """One line: "unknown" is what could not be asked, "skipped" what this place does not have."""

    name: str
    state: State
    text: str
    fix: str = ""
    link: str = ""


@dataclass
class Scene:
    """Where the checks look: the recipe, and an account as far as it is known."""

    recipe: Recipe
    region: str = ""
    session: Session | None = None
    who: identity.Identity | None = None
    role: str = ""
    bucket: str = ""
    problem: LauncherError | None = None  # why nobody is signed in
    make_client: MakeClient | None = None
    _lock: Any = field(default_factory=threading.Lock)

    @property
    def is_local(self) -> bool:
        return self.recipe.compute.place == "local"

    @property
    def limit_s(self) -> float:
        return LOCAL_LIMIT_S if self.is_local else LIMIT_S

    @property
    def partition(self) -> str:
        return self.who.arn.split(":")[1] if self.who else "aws"

    def client(self, service: str, region: str = "") -> Any:
        """Raises what must be mended before anything can be asked."""
        if self.who is None:
            raise CredentialsError("nobody is signed in.", hint="Mend the identity first.")
        if not self.region and service not in GLOBAL:
            raise SiteError("no region is set.", hint="Mend the region first.")
        return self._make(service, region)

    def ask_identity(self) -> identity.Identity:
        return identity.fetch_identity(self._make("sts", ""))

    def _make(self, service: str, region: str) -> Any:
        with self._lock, explained(f"reaching {service}"):  # botocore's sessions make one client at a time
            if self.make_client:
                return self.make_client(service, region)
            return make_quick_client(self.session, service, region) if self.session else None

    def arn(self, service: str, rest: str) -> str:
        account = self.who.account if self.who else ""
        return f"arn:{self.partition}:{service}:{self.region}:{account}:{rest}"


def examine(recipe: Recipe, *, make_client: MakeClient | None = None) -> list[Finding]:
    """Run every check, all at once after the identity; `make_client` stands in for AWS."""
    scene = _make_scene(recipe, make_client)

    def late(number: int) -> Finding:
        return Finding(NAMES[number], "unknown", "no answer in time", "Try again, or check the network.")

    calls = [_guarded(name, check, scene) for name, check in zip(NAMES, CHECKS, strict=True)]
    return run_together(calls, scene.limit_s, late)


def is_healthy(findings: list[Finding]) -> bool:
    return all(finding.state != "missing" for finding in findings)


def _make_scene(recipe: Recipe, make_client: MakeClient | None) -> Scene:
    scene = Scene(recipe, make_client=make_client)
    try:
        with explained("looking for a region and credentials"):
            scene.region = LOCAL_SITE.region if scene.is_local else recipe.compute.region or find_region()
            if not make_client:
                scene.session = open_session(recipe.compute.place, scene.region or ANY_REGION)
        scene.who = _first(scene.ask_identity, "asking who is signed in", scene.limit_s)
    except LauncherError as error:
        scene.problem = error
    scene.role, scene.bucket = _find_role_and_bucket(scene)
    return scene


def _first(call: Callable[[], Any], doing: str, limit_s: float) -> Any:
    """One call that the others hang on, within a limit of its own."""

    def late(number: int) -> Any:
        raise CloudError(f"While {doing}: no answer within {limit_s:g} s.", hint="Check the network.")

    return run_together([call], limit_s, late)[0]


def _find_role_and_bucket(scene: Scene) -> tuple[str, str]:
    """The site's where there is one, else what the recipe and the environment name."""
    recipe = scene.recipe
    if scene.is_local:
        return LOCAL_SITE.role, LOCAL_SITE.bucket
    role = recipe.compute.role or os.environ.get("LAUNCHER_ROLE", "")
    bucket = recipe.output.bucket or os.environ.get("LAUNCHER_BUCKET", "")
    if scene.session and scene.who and scene.region and not (role and bucket):
        session = scene.session
        # the checks of role and bucket say which of them is missing
        with contextlib.suppress(LauncherError):
            site = _first(lambda: find_site(session, recipe), "looking for the site", scene.limit_s)
            role, bucket = site.role, site.bucket
    if role and not role.startswith("arn:") and scene.who:
        role = f"arn:{scene.partition}:iam::{scene.who.account}:role/{role}"
    return role, bucket


def _guarded(name: str, check: Callable[[Scene], Finding], scene: Scene) -> Callable[[], Finding]:
    """A check that could not ask is unknown, not missing; the others go on."""

    def run() -> Finding:
        try:
            return dataclasses.replace(check(scene), name=name)
        except LauncherError as error:
            return Finding(name, "unknown", f"not checked: {error.message}", error.hint)

    return run


def _ok(text: str) -> Finding:
    return Finding("", "ok", text)


def _missing(text: str, fix: str, link: str = "") -> Finding:
    return Finding("", "missing", text, fix, link)


def _unknown(text: str, fix: str = "", link: str = "") -> Finding:
    return Finding("", "unknown", text, fix, link)


def _only_on_aws() -> Finding:
    return Finding("", "skipped", "the local endpoint needs none")


def _code(error: LauncherError) -> str:
    """AWS's code behind an error of ours."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def check_identity(scene: Scene) -> Finding:
    if scene.problem:
        return _missing(scene.problem.message, scene.problem.hint)
    if scene.who is None:
        return _missing("nobody is signed in.", "Sign in with `aws sso login` or `aws configure`.")
    return _ok(f"{scene.who.arn} in account {scene.who.account}")


def check_region(scene: Scene) -> Finding:
    if not scene.region:
        return _missing("none is set", "Set compute.region in the recipe, AWS_REGION, or one in ~/.aws/config.")
    return _ok(scene.region)


def check_role(scene: Scene) -> Finding:
    """There, of this account, and one that SageMaker may assume."""
    if scene.is_local:
        return _only_on_aws()
    if not scene.role:
        return _missing(
            "the recipe names none",
            "`launcher bootstrap` makes one; or set compute.role in the recipe, or LAUNCHER_ROLE.",
        )
    iam = scene.client("iam")
    account = scene.role.split(":")[4] if scene.role.count(":") >= 5 else ""
    if scene.who and account != scene.who.account:
        return _missing(
            f"{scene.role} belongs to account {account}, and you are signed in to {scene.who.account}",
            "A job takes roles of its own account only: name one of them, or sign in to the other account.",
        )
    try:
        trust = identity.fetch_trust(iam, scene.role.rpartition("/")[2])
    except CloudError as error:
        if _code(error) == "NoSuchEntity":
            return _missing(f"there is no role {scene.role}", "Make it, or name another as compute.role.")
        raise
    if not identity.trusts_sagemaker(trust):
        return _missing(
            f"{scene.role} does not trust SageMaker", f"Allow {identity.SERVICE} sts:AssumeRole in its trust policy."
        )
    if denied := _find_lacking_right(scene, iam):
        return _missing(denied.describe(scene.role), denied.fix)
    return _ok(f"{scene.role}, which SageMaker may assume")


def _find_lacking_right(scene: Scene, iam: Any) -> gate_rights.Right | None:
    """What a scheduled job would miss after its training only."""
    if not scene.bucket:
        return None  # the bucket's own check says so
    pointer = f"{scene.bucket}/{scene.recipe.output.prefix.strip('/')}/champions/*".replace("//", "/")
    rights = gate_rights.list_rights(scene.recipe, scene.role, pointer)
    return next(iter(gate_rights.find_denied(iam, scene.role, rights)), None)


def check_permissions(scene: Scene) -> Finding:
    """What submit, status, logs, stop and fetch call, simulated for whoever is signed in."""
    if scene.is_local:
        return _only_on_aws()
    iam = scene.client("iam")
    if scene.who is None or scene.who.is_root:
        return _ok("the account's root user may do everything; a role of your own is safer")
    principal = identity.find_principal(iam, scene.who)
    context = {
        "iam:PassedToService": identity.SERVICE,
        "sagemaker:InstanceTypes": scene.recipe.compute.instance,
        "sagemaker:MaxRuntimeInSeconds": str(scene.recipe.compute.max_runtime_s),
        "aws:SecureTransport": "true",
    }
    wanted = _wanted_permissions(scene)
    calls = [lambda part=part: identity.find_denied(iam, principal, part, context) for part in wanted]
    denied = [name for names in run_together(calls, LIMIT_S, _no_answer) for name in names]
    if denied:
        return _missing(f"{principal} may not: {', '.join(denied)}", "Ask your administrator to allow these.")
    return _ok(f"all {sum(len(part.actions) for part in wanted)} that the launcher needs")


def _no_answer(number: int) -> list[str]:
    raise CloudError("the simulation gave no answer in time.", hint="Try again.")


def _wanted_permissions(scene: Scene) -> list[identity.Permission]:
    jobs = ("sagemaker:CreateTrainingJob", "sagemaker:AddTags", "sagemaker:DescribeTrainingJob")
    wanted = [
        identity.Permission((*jobs, "sagemaker:StopTrainingJob"), scene.arn("sagemaker", "training-job/*")),
        identity.Permission(("sagemaker:ListTrainingJobs",)),
        identity.Permission(
            ("logs:DescribeLogStreams", "logs:GetLogEvents"),
            scene.arn("logs", "log-group:/aws/sagemaker/TrainingJobs:log-stream:*"),
        ),
    ]
    if scene.role:
        wanted.append(identity.Permission(("iam:PassRole",), scene.role))
    if scene.bucket:
        bucket = f"arn:{scene.partition}:s3:::{scene.bucket}"
        wanted += [
            identity.Permission(("s3:ListBucket",), bucket),
            identity.Permission(
                ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
                f"{bucket}/{scene.recipe.output.prefix.strip('/')}/*".replace("//", "/"),
            ),
        ]
    return wanted


def check_bucket(scene: Scene) -> Finding:
    """There, in the job's region; and how it encrypts."""
    if not scene.bucket:
        return _missing(
            "the recipe names none",
            "`launcher bootstrap` makes one; or set output.bucket in the recipe, or LAUNCHER_BUCKET.",
        )
    s3 = scene.client("s3")
    try:
        region = places.fetch_bucket_region(s3, scene.bucket)
    except SiteError as error:
        if scene.is_local and _code(error) in ("404", "NoSuchBucket"):
            return _ok(f"{scene.bucket}, which the first submit makes")
        return _missing(error.message, error.hint)
    if region and region != scene.region:
        return _missing(
            f"{scene.bucket} lies in {region}, and the job runs in {scene.region}",
            f"Use a bucket of {scene.region}, or set compute.region to {region}.",
        )
    try:
        encryption = places.fetch_encryption(s3, scene.bucket) or "no default"
    except LauncherError as error:
        if _code(error) not in DENIED and not scene.is_local:
            raise
        encryption = "unknown"
    return _ok(f"{scene.bucket} in {region or scene.region}, encryption: {encryption}")


def check_quota(scene: Scene) -> Finding:
    """Enough instances of this type, for the way the recipe buys them."""
    if scene.is_local:
        return _only_on_aws()
    compute = scene.recipe.compute
    uses: tuple[quotas.Use, ...] = ("training", "spot", "warm pool")
    needed: quotas.Use = "spot" if compute.spot else "training"
    names = {use: quotas.quota_name(compute.instance, use) for use in uses}
    found = quotas.fetch_quotas(scene.client("service-quotas"), list(names.values()))
    words = ", ".join(f"{found[name].value:g} {use}" for use, name in names.items() if name in found)
    quota = found.get(names[needed])
    if quota is None:
        return _unknown(
            f'AWS lists no quota "{names[needed]}"', "Look it up by that name.", quotas.request_link(scene.region)
        )
    if quota.value < compute.count:
        return _missing(
            f'"{quota.name}" is {quota.value:g}, and the job needs {compute.count}',
            "Ask for more, which takes hours to days, or use another --instance.",
            quotas.request_link(scene.region, quota.code),
        )
    return _ok(f"{compute.instance}: {words}")


def check_image(scene: Scene) -> Finding:
    if scene.is_local:
        return _only_on_aws()
    choice = scene.recipe.image
    ecr = scene.client("ecr")
    uri = choice.uri or images.make_uri(images.image_named(choice.version), scene.region)
    image = places.split_image(uri)
    if image is None:
        return _unknown(f"{uri} is not in ECR, so nobody has looked")
    if image.region != scene.region:
        return _missing(
            f"{uri} lies in {image.region}, and the job runs in {scene.region}",
            "Name an image of the job's region, or leave image.uri empty to have it chosen.",
        )
    if not places.has_image(ecr, image):
        return _missing(f"ECR has no {uri}", "Choose another image.version, or give the tag as image.uri.")
    return _ok(f"{image.repository}:{image.tag or image.digest}")


def check_model(scene: Scene) -> Finding:
    """The Hub has it, and the job's token, where it has one, can read it."""
    recipe = scene.recipe
    config = recipe.config
    model = config.model_name_or_path
    if recipe.model.s3 or config.smoke or recipe.resolve(model).is_dir():
        return _ok("a stand-in" if config.smoke else f"from {recipe.model.s3 or model}; the Hub is not needed")
    found = hub.look_up(model, config.model_revision)
    if found is hub.Found.YES:
        return _ok(f"{model} is on the Hub, for everybody")
    if found is hub.Found.UNREACHABLE:
        return _unknown(f"the Hub cannot be reached from here, so nobody has looked for {model}")
    if not config.hf_token_secret:
        return _missing(
            f"{model} {'is gated' if found is hub.Found.GATED else 'cannot be seen on the Hub'} without a token",
            "Store a token in AWS Secrets Manager and name the secret as secrets.hf_token.",
        )
    token = places.fetch_secret(scene.client("secretsmanager"), config.hf_token_secret)
    if hub.look_up_with(hub.token_in(token), model, config.model_revision) is hub.Found.YES:
        return _ok(f"{model} can be read with the token of {config.hf_token_secret}")
    return _missing(
        f"the token of {config.hf_token_secret} cannot read {model}",
        f"Accept the licence on the model's page with the token's account: https://huggingface.co/{model}.",
    )


def check_price(scene: Scene) -> Finding:
    if scene.is_local:
        return Finding("", "skipped", "this machine costs nothing")
    instance, region = scene.recipe.compute.instance, scene.region
    found = prices.load_cached(instance, region)
    if not found and scene.who and region:
        found = prices.find_price(scene.client("pricing", prices.PRICE_LIST_REGION), instance, region)
    found = found or prices.table_price(instance, region)
    if found is None:
        return _unknown(f"there is no price for {instance} here", "Check its name.")
    return _ok(f"{instance}: ${found.usd_per_hour:,.3f} an hour ({found.source})")


NAMES = ("identity", "region", "role", "permissions", "bucket", "quota", "image", "model", "price")
CHECKS = (
    check_identity, check_region, check_role, check_permissions, check_bucket, check_quota, check_image, check_model,
    check_price,
)  # fmt: skip
