"""doctor's check of what a recipe names and the job itself must be allowed to use: bucket, keys, image, network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from launcher.account.doctor_scene import LIMIT_S, Finding, Scene, missing, ok, only_on_aws, unknown
from launcher.aws import identity, places
from launcher.aws.identity import Permission
from launcher.aws.quick import run_together
from launcher.compute import volume_key
from launcher.errors import CloudError, LauncherError

SECURE = {"aws:SecureTransport": "true"}
PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
USE_KEY = ("kms:Decrypt", "kms:GenerateDataKey")
# SageMaker asks for all of these before a job may join.
LOOK_AT_VPC = (
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
)
HOLD_INTERFACES = (
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
)


@dataclass(frozen=True)
class JobRight:
    """What the job's role must be allowed, what for, and how it is allowed."""

    wanted: Permission
    purpose: str
    fix: str
    context: Mapping[str, identity.Context] = field(default_factory=lambda: SECURE)

    def describe(self, denied: list[str]) -> str:
        return f"{self.purpose} ({', '.join(denied)} on {self.wanted.resource})"


def check_job(scene: Scene) -> Finding:
    """By a simulation of the job's role: AWS itself says so only after the upload, or in the job."""
    if scene.is_local:
        return only_on_aws()
    if not scene.role:
        return unknown("without a role nobody knows what the job may do", "Mend the role first.")
    rights = list(iter_rights(scene))
    iam, role = scene.client("iam"), scene.role
    calls = [lambda right=right: identity.find_denied(iam, role, right.wanted, right.context) for right in rights]
    try:
        found = run_together(calls, LIMIT_S, _no_answer)
    except LauncherError as error:
        raise CloudError(f"what the job's role may do: {error.message}", hint=error.hint) from error
    lacking = [(right, names) for right, names in zip(rights, found, strict=True) if names]
    if lacking:
        words = "; ".join(right.describe(names) for right, names in lacking)
        fixes = dict.fromkeys(right.fix for right, _ in lacking)
        return missing(f"the policies of {role} do not let the job {words}", " ".join(fixes))
    if named := [key for key in _named_keys(scene) if not key_arn(scene, key)]:
        return unknown(f"nobody has looked whether the job may use {', '.join(named)}", "Name the key by its ARN.")
    return ok(
        f"all {sum(len(right.wanted.actions) for right in rights)} that the job's role needs for what the recipe names"
    )


def _no_answer(number: int) -> list[str]:
    raise CloudError("the simulation gave no answer in time.", hint="Try again.")


def iter_rights(scene: Scene) -> Iterator[JobRight]:
    if scene.bucket:
        yield from _iter_bucket_rights(scene)
    yield from _iter_key_rights(scene)
    yield from _iter_image_rights(scene)
    yield from _iter_network_rights(scene)


def _iter_bucket_rights(scene: Scene) -> Iterator[JobRight]:
    bucket = f"arn:{scene.partition}:s3:::{scene.bucket}"
    folder = f"{bucket}/{scene.recipe.output.prefix.strip('/')}".rstrip("/")
    fix = (
        "The role that bootstrap makes uses the stack's own bucket, below its --prefix alone: leave output.bucket "
        "empty, or allow this to a role of your own."
    )
    for actions, resource, purpose in (
        (("s3:ListBucket",), bucket, "find its data"),
        (("s3:GetObject",), f"{folder}/data/x", "read its data"),
        (("s3:PutObject",), f"{folder}/output/x", "write what it leaves"),
        (("s3:GetObject", "s3:PutObject", "s3:DeleteObject"), f"{folder}/checkpoints/x", "keep checkpoints"),
    ):
        yield JobRight(Permission(actions, resource), purpose, fix)


def _iter_key_rights(scene: Scene) -> Iterator[JobRight]:
    recipe = scene.recipe
    for key in dict.fromkeys(filter(None, (recipe.output.kms_key, scene.bucket_key))):
        if arn := key_arn(scene, key):
            fix = f"`launcher bootstrap --kms-key {arn}` allows it to the stack's role, and is the bucket's key too."
            yield JobRight(Permission(USE_KEY, arn), "use the key of what it reads and leaves", fix, through_s3(scene))
    if arn := key_arn(scene, volume_key(recipe.compute, recipe.output.kms_key)):
        fix = f"`launcher bootstrap --kms-key {arn}` allows it to the stack's role."
        granted = {"kms:GrantIsForAWSResource": "true"}
        yield JobRight(Permission(("kms:CreateGrant",), arn), "encrypt its volume", fix, granted)


def _iter_image_rights(scene: Scene) -> Iterator[JobRight]:
    uri = scene.recipe.image.uri
    image = places.split_image(uri) if uri else None
    if image:
        arn = f"arn:{scene.partition}:ecr:{image.region}:{image.registry}:repository/{image.repository}"
        fix = f"`launcher bootstrap --image-repository {arn}` allows it to the stack's role."
        yield JobRight(Permission(PULL, arn), "pull image.uri", fix)


def _iter_network_rights(scene: Scene) -> Iterator[JobRight]:
    subnets = scene.recipe.compute.subnets
    fix = "`launcher bootstrap --vpc existing` lets jobs of the stack's role join a VPC of yours."
    for subnet in subnets:
        arn = scene.arn("ec2", f"subnet/{subnet}")
        yield JobRight(Permission(("ec2:CreateNetworkInterface",), arn), "join compute.subnets", fix)
    if subnets:
        interfaces = scene.arn("ec2", "network-interface/*")
        yield JobRight(Permission(HOLD_INTERFACES, interfaces), "hold its network interfaces", fix)
        yield JobRight(Permission(LOOK_AT_VPC), "look at its network", fix)


def through_s3(scene: Scene) -> Mapping[str, identity.Context]:
    return {"kms:ViaService": f"s3.{scene.region}.amazonaws.com"}


def _named_keys(scene: Scene) -> list[str]:
    recipe = scene.recipe
    return [key for key in (recipe.output.kms_key, volume_key(recipe.compute, recipe.output.kms_key)) if key]


def key_arn(scene: Scene, key: str) -> str:
    """Empty for an alias, of which no policy tells which key it is."""
    if "alias/" in key or not key:
        return ""
    return key if key.startswith("arn:") else scene.arn("kms", f"key/{key}")
