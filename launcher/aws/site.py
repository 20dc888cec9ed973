"""The site a plan is carried out at: account, region, bucket, role. Found once, before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from launcher.aws.errors import explained
from launcher.aws.session import LOCAL_ACCOUNT, LOCAL_REGION, Clients, Session, check_region, find_region
from launcher.aws.site_checks import check_bucket, check_places
from launcher.aws.stacks import find_stack
from launcher.errors import SiteError
from launcher.output import check_bucket_name
from launcher.recipe import Recipe
from launcher.request import Site

LOCAL_SITE = Site(
    account=LOCAL_ACCOUNT,
    region=LOCAL_REGION,
    bucket=f"launcher-{LOCAL_ACCOUNT}",
    role=f"arn:aws:iam::{LOCAL_ACCOUNT}:role/launcher-local",
)
# Well-formed, so that the request can be validated, and plainly nobody's.
PLACEHOLDER_ACCOUNT = "000000000000"
PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-isob-": "aws-iso-b", "us-iso-": "aws-iso"}


class RoleAndBucket(NamedTuple):
    """`bucket_key` is the key that the stack's bucket encrypts with, where it has one of its own."""

    role: str
    bucket: str
    bucket_key: str = ""


def offline_site(recipe: Recipe) -> Site:
    """The site as far as it is known without a network; the rest are placeholders."""
    if recipe.compute.place == "local":
        return LOCAL_SITE
    region = recipe.compute.region or find_region() or "us-east-1"
    check_region(region)
    return Site(
        account=PLACEHOLDER_ACCOUNT,
        region=region,
        bucket=_wanted_bucket(recipe) or f"launcher-{PLACEHOLDER_ACCOUNT}-{region}",
        role=_role_arn(_wanted_role(recipe) or "launcher-placeholder", PLACEHOLDER_ACCOUNT, region),
    )


def find_site(session: Session, recipe: Recipe) -> Site:
    if session.place == "local":
        _ensure_local_bucket(session)
        return LOCAL_SITE
    check_region(session.region)
    role, bucket, _ = find_role_and_bucket(session, recipe)
    with explained("asking who is signed in"):
        account = session.client("sts").get_caller_identity()["Account"]
    site = Site(account, session.region, bucket, _role_arn(role, account, session.region))
    check_places(recipe, site)
    check_bucket(session, bucket)
    return site


def named_role_and_bucket(recipe: Recipe) -> tuple[str, str]:
    """What the recipe and the environment name, without a question; either may be empty."""
    return _wanted_role(recipe), _wanted_bucket(recipe)


def find_role_and_bucket(session: Clients, recipe: Recipe) -> RoleAndBucket:
    role, bucket = named_role_and_bucket(recipe)
    return RoleAndBucket(role, bucket) if role and bucket else _complete_from_stack(session, recipe, role, bucket)


def stack_name() -> str:
    """Of the stack that `launcher bootstrap` makes."""
    return os.environ.get("LAUNCHER_STACK") or "launcher"


def _complete_from_stack(session: Clients, recipe: Recipe, role: str, bucket: str) -> RoleAndBucket:
    """What neither the recipe nor the environment names, the launcher's stack has."""
    try:
        stack = find_stack(session, stack_name())
    except SiteError as error:  # who may not look at stacks can still name both
        raise SiteError(error.message, hint=f"{error.hint} Or set compute.role and output.bucket.") from error
    outputs = stack.outputs if stack else {}
    own_bucket = outputs.get("BucketName", "")
    found = role or outputs.get("RoleArn", ""), bucket or own_bucket
    if not all(found):
        missing = " and ".join(name for name, value in zip(("role", "bucket"), found, strict=True) if not value)
        raise SiteError(
            f"A job on {recipe.compute.instance} needs a {missing}: the recipe names none, and {session.region} has no "
            f"stack {stack_name()} with one.",
            hint="`launcher bootstrap` makes both. Or set compute.role and output.bucket in the recipe (LAUNCHER_ROLE, "
            "LAUNCHER_BUCKET), or run on this machine with --instance local.",
        )
    if not role:
        _check_own_role(outputs, bucket, recipe.output.prefix.strip("/"))
    return RoleAndBucket(*found, outputs.get("KmsKeyArn", "") if found[1] == own_bucket else "")


def _check_own_role(outputs: Mapping[str, str], bucket: str, prefix: str) -> None:
    """The stack's role reaches the stack's bucket, below one prefix; a job elsewhere would fail at its start."""
    own_bucket, allowed = outputs.get("BucketName", ""), outputs.get("Prefix", "")
    if bucket and own_bucket and bucket != own_bucket:
        raise SiteError(
            f"The role of the stack {stack_name()} may only use the stack's bucket {own_bucket}, and output.bucket is "
            f"{bucket}.",
            hint="Leave output.bucket (LAUNCHER_BUCKET) empty, or name a role that may use it as compute.role "
            "(LAUNCHER_ROLE).",
        )
    if allowed and prefix != allowed:  # nor below it: the role writes to PREFIX/output/ alone
        raise SiteError(
            f"The role of the stack {stack_name()} may only use {allowed}/ in its bucket, and output.prefix is "
            f"{prefix or 'empty'}.",
            hint=f'Set output.prefix = "{allowed}", or give the stack another with `launcher bootstrap --prefix`.',
        )


def _wanted_role(recipe: Recipe) -> str:
    return recipe.compute.role or os.environ.get("LAUNCHER_ROLE", "")


def _wanted_bucket(recipe: Recipe) -> str:
    given = os.environ.get("LAUNCHER_BUCKET", "")
    if not recipe.output.bucket:
        check_bucket_name(given, "LAUNCHER_BUCKET")
    return recipe.output.bucket or given


def _role_arn(role: str, account: str, region: str) -> str:
    if role.startswith("arn:"):
        return role
    partition = next((name for start, name in PARTITIONS.items() if region.startswith(start)), "aws")
    return f"arn:{partition}:iam::{account}:role/{role}"


def _ensure_local_bucket(session: Session) -> None:
    with explained("making the local bucket"):
        session.client("s3").create_bucket(Bucket=LOCAL_SITE.bucket)
