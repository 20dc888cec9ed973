"""What the account and the region rule out, asked before anything is uploaded or created."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.aws.errors import explained
from launcher.aws.session import Session
from launcher.errors import SiteError
from launcher.recipe import Recipe
from launcher.request import Site


def check_places(recipe: Recipe, site: Site) -> None:
    """Refuse what the account and the region rule out already; AWS would say so after the upload, or in the job."""
    account = arn_part(site.role, 4)
    if account != site.account:
        raise SiteError(
            f"The role {site.role} belongs to account {account}, and you are signed in to {site.account}.",
            hint="A job takes roles of its own account only: name one of them, or sign in to the other account.",
        )
    for key, what, region in find_elsewhere(recipe, site.region):
        raise SiteError(
            f"{key} is {what}, which lies in {region}; the job runs in {site.region}.",
            hint=f"Use one of {site.region}, or set compute.region to {region}.",
        )


def find_elsewhere(recipe: Recipe, here: str) -> Iterator[tuple[str, str, str]]:
    """(key, value, region) of what the recipe names in another region."""
    for key, what, region in (
        ("image.uri", recipe.image.uri, _image_region(recipe.image.uri)),
        ("output.kms_key", recipe.output.kms_key, arn_part(recipe.output.kms_key, 3)),
        ("compute.volume_kms_key", recipe.compute.volume_kms_key, arn_part(recipe.compute.volume_kms_key, 3)),
        ("secrets.hf_token", recipe.config.hf_token_secret, arn_part(recipe.config.hf_token_secret, 3)),
    ):
        if region and region != here:
            yield key, what, region


def check_bucket(session: Session, bucket: str) -> None:
    """Refuse a bucket of another region before anything is uploaded."""
    from botocore.exceptions import ClientError

    with explained(f"looking for the bucket {bucket}"):
        try:
            answer = session.client("s3").head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response
            if not _bucket_region(answer):
                raise  # with a region it is there; whoever may put objects need not be allowed to look at it
    region = _bucket_region(answer) or session.region
    if region != session.region:
        raise SiteError(
            f"The bucket {bucket} lies in {region}; the job runs in {session.region}.",
            hint=f"Use a bucket of {session.region}, or set compute.region to {region}.",
        )


def _bucket_region(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


def arn_part(arn: str, place: int) -> str:
    """A part of an ARN; empty for a plain name."""
    parts = arn.split(":")
    return parts[place] if arn.startswith("arn:") and len(parts) > place else ""


def _image_region(uri: str) -> str:
    found = re.match(r"\d{12}\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.", uri)
    return found[1] if found else ""
