"""doctor's checks of who may do what: the job's role, whoever is signed in, and the secret that the job reads."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.account.doctor_job import SECURE, USE_KEY, key_arn, through_s3
from launcher.account.doctor_scene import DENIED, LIMIT_S, Finding, Scene, code_of, missing, ok, only_on_aws, unknown
from launcher.aws import identity, secrets
from launcher.aws.errors import POLICY_LIMITS
from launcher.aws.identity import Permission
from launcher.aws.quick import run_together
from launcher.aws.s3 import split_uri
from launcher.errors import CloudError, LauncherError, SiteError
from launcher.retraining import gate_rights

LOG_STREAMS = "log-group:/aws/sagemaker/TrainingJobs:log-stream:*"
KEY_FIX = (
    "The stack's second policy, LauncherKeyPolicyArn, allows the stack's key: have it attached beside the first "
    "(`launcher bootstrap` prints both)."
)


def check_role(scene: Scene) -> Finding:
    """There, of this account, and one that SageMaker may assume."""
    if scene.is_local:
        return only_on_aws()
    if not scene.site.role:
        return scene.site.lack()
    iam, role = scene.client("iam"), scene.role
    account = role.split(":")[4] if role.count(":") >= 5 else ""
    if account != scene.who.account:
        return missing(
            f"{role} belongs to account {account}, and you are signed in to {scene.who.account}",
            "A job takes roles of its own account only: name one of them, or sign in to the other account.",
        )
    try:
        trust = identity.fetch_trust(iam, role.rpartition("/")[2])
    except CloudError as error:
        if code_of(error) == "NoSuchEntity":
            return missing(f"there is no role {role}", "Make it, or name another as compute.role.")
        raise
    if not identity.trusts_sagemaker(trust):
        return missing(
            f"{role} does not trust SageMaker", f"Allow {identity.SERVICE} sts:AssumeRole in its trust policy."
        )
    if lacking := _find_lacking_right(scene):
        return missing(lacking.describe(role), lacking.fix)
    return ok(f"{role}, which SageMaker may assume")


def _find_lacking_right(scene: Scene) -> gate_rights.Right | None:
    """What a scheduled job would miss after its training only."""
    if not scene.bucket:
        return None  # the bucket's own check says so
    pointer = f"{scene.bucket}/{scene.recipe.output.prefix.strip('/')}/champions/*".replace("//", "/")
    rights = gate_rights.list_rights(scene.recipe, scene.role, pointer)
    return next(iter(gate_rights.find_denied(scene.client("iam"), scene.role, rights)), None)


def check_permissions(scene: Scene) -> Finding:
    """What submit, status, logs, stop and fetch call, simulated for whoever is signed in."""
    if scene.is_local:
        return only_on_aws()
    iam, who = scene.client("iam"), scene.who
    if who.is_root:
        return ok("the account's root user may do everything; a role of your own is safer")
    try:
        principal = identity.find_principal(iam, who)
    except SiteError as error:
        if code_of(error) not in DENIED:
            raise
        return unknown(
            f"you may not look at your own role {who.role_name}, so nobody has looked at what it allows",
            "That takes iam:GetRole and iam:SimulatePrincipalPolicy on "
            f"arn:{scene.partition}:iam::{who.account}:role/{who.role_name} (with its path, if it has one). "
            "bootstrap's policy gives both to users and to roles of IAM Identity Center.",
        )
    wanted, context = wanted_permissions(scene), submit_context(scene)
    calls = [lambda part=part: identity.find_denied(iam, principal, part, context) for part in wanted]
    found = run_together(calls, LIMIT_S, _no_answer)
    denied = [f"{name}{_place(part)}" for part, names in zip(wanted, found, strict=True) for name in names]
    if denied:
        return missing(f"{principal} may not: {', '.join(denied)}", _fix_of(denied))
    return ok(f"all {sum(len(part.actions) for part in wanted)} that the launcher needs")


def _fix_of(denied: list[str]) -> str:
    words = " ".join(denied)
    hints = [POLICY_LIMITS] * ("sagemaker:CreateTrainingJob" in words) + [KEY_FIX] * ("kms:" in words)
    return " ".join([*hints, "Ask your administrator to allow these."])


def _no_answer(number: int) -> list[str]:
    raise CloudError("the simulation gave no answer in time.", hint="Try again.")


def _place(part: Permission) -> str:
    """Which folder a right on objects is about; of everything else there is one of a kind."""
    if ":kms:" in part.resource:
        return f" on {part.resource}"
    path = part.resource.partition(":s3:::")[2]
    return f" on {path.rpartition('/')[0]}/" if "/" in path else ""


def submit_context(scene: Scene) -> dict[str, identity.Context]:
    """What AWS knows of the requests of a submit, beside their action and resource."""
    recipe = scene.recipe
    through: Mapping[str, identity.Context] = through_s3(scene) if scene.bucket_key or recipe.output.kms_key else {}
    return {
        "iam:PassedToService": identity.SERVICE,
        "sagemaker:InstanceTypes": recipe.compute.instances,
        "sagemaker:MaxRuntimeInSeconds": str(recipe.compute.max_runtime_s),
        "sagemaker:TaggingAction": "CreateTrainingJob",
        "aws:ResourceTag/launcher:run": "x",
        **SECURE,
        **through,
    }


def wanted_permissions(scene: Scene) -> list[Permission]:
    jobs = ("sagemaker:CreateTrainingJob", "sagemaker:AddTags", "sagemaker:DescribeTrainingJob")
    wanted = [
        Permission((*jobs, "sagemaker:StopTrainingJob"), scene.arn("sagemaker", "training-job/*")),
        Permission(("sagemaker:ListTrainingJobs",)),
        Permission(("logs:DescribeLogStreams", "logs:GetLogEvents"), scene.arn("logs", LOG_STREAMS)),
    ]
    if scene.role:
        wanted.append(Permission(("iam:PassRole",), scene.role))
    if scene.bucket:
        bucket = f"arn:{scene.partition}:s3:::{scene.bucket}"
        folder = f"{bucket}/{scene.recipe.output.prefix.strip('/')}".rstrip("/")
        wanted += [
            Permission(("s3:ListBucket",), bucket),
            Permission(("s3:GetObject",), f"{folder}/*"),
            Permission(("s3:PutObject",), f"{folder}/source/x"),
            # data that changed while it was uploaded, and the claim of a job that did not start, are taken back
            Permission(("s3:PutObject", "s3:DeleteObject"), f"{folder}/data/x"),
            Permission(("s3:PutObject", "s3:DeleteObject"), f"{folder}/runs/x"),
        ]
    if scene.bucket_key:
        wanted.append(Permission(USE_KEY, scene.bucket_key))
    if (output_key := key_arn(scene, scene.recipe.output.kms_key)) and output_key != scene.bucket_key:
        wanted.append(Permission(("kms:Decrypt",), output_key))  # to fetch what the job leaves
    return wanted


def check_token(scene: Scene) -> Finding:
    """The secret that the job reads, whatever its model: there, and open to the job's role."""
    name = scene.recipe.config.hf_token_secret
    if not name:
        return ok("the recipe names no secret with one")
    scene.client("secretsmanager")
    try:
        arn = secrets.find_arn(scene, name)
    except SiteError as error:
        if code_of(error) in ("", "ResourceNotFoundException"):
            return missing(error.message, error.hint)
        if code_of(error) not in DENIED:
            raise
        if not name.startswith("arn:"):
            return unknown(
                f"you may not look at the secret {name}, so nobody knows whether it is there",
                f"`launcher bootstrap --hf-secret {name}` lets jobs read it, and you see that it is there.",
            )
        arn = name
    return ok(f"{name} is there") if scene.is_local else _check_token_of_job(scene, name, arn)


def _check_token_of_job(scene: Scene, name: str, arn: str) -> Finding:
    if not scene.role:
        return unknown(f"{name} is there, but without a role nobody knows whether the job may read it")
    if job_may(scene, "secretsmanager:GetSecretValue", arn):
        return ok(f"the job may read {name}")
    return missing(
        f"{scene.role} may not read the secret {name}, so the job would fail at its start",
        f"`launcher bootstrap --hf-secret {name}` allows it to the stack's role; another needs "
        f"secretsmanager:GetSecretValue on {arn}.",
    )


def check_model_in_s3(scene: Scene) -> Finding:
    """Whether the job's role may read it, which the stack's may below its own prefix alone."""
    uri = scene.recipe.model.s3
    if not scene.role:
        return unknown(f"without a role nobody knows whether the job may read {uri}")
    bucket, key = split_uri(uri.rstrip("/") + "/config.json")
    if job_may(scene, "s3:GetObject", f"arn:{scene.partition}:s3:::{bucket}/{key}"):
        return ok(f"from {uri}, which the job may read; the Hub is not needed")
    prefix = scene.recipe.output.prefix.strip("/")
    return missing(
        f"{scene.role} may not read {uri}",
        f"Put the model below s3://{scene.bucket or 'BUCKET'}/{f'{prefix}/' if prefix else ''}models/, which the role "
        "that bootstrap makes may read; another role needs s3:GetObject there.",
    )


def job_may(scene: Scene, action: str, resource: str) -> bool:
    """By a simulation of the job's role, which whoever holds bootstrap's policy may run."""
    try:
        return not identity.find_denied(scene.client("iam"), scene.role, Permission((action,), resource), SECURE)
    except LauncherError as error:
        raise CloudError(f"whether the job's role has {action} there: {error.message}", hint=error.hint) from error
