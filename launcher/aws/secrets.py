"""Secrets by their names; never their content."""

from __future__ import annotations

from launcher.aws.errors import explained
from launcher.aws.session import Clients
from launcher.aws.site_checks import arn_part
from launcher.errors import SiteError


def find_arn(session: Clients, name: str) -> str:
    """The full ARN, as a policy needs it: its end is not part of the name. Raises SiteError for one that is gone."""
    from botocore.exceptions import ClientError

    region = arn_part(name, 3)
    if region and region != session.region:
        raise SiteError(
            f"The secret {name} lies in {region}, and this is {session.region}.",
            hint=f"Name a secret of {session.region}; its name alone will do.",
        )
    with explained(f"looking for the secret {name}"):
        try:
            found = session.client("secretsmanager").describe_secret(SecretId=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            raise SiteError(
                f"There is no secret {name} in {session.region}.",
                hint="Check the ARN; `aws secretsmanager list-secrets` shows what is there."
                if region
                else f"`aws secretsmanager create-secret --name {name} --secret-string TOKEN` makes it.",
            ) from error
    if "DeletedDate" in found:
        raise SiteError(
            f"The secret {name} in {session.region} is marked for deletion, and nobody can read it.",
            hint=f"`aws secretsmanager restore-secret --secret-id {name}` brings it back.",
        )
    return str(found["ARN"])
