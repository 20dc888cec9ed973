"""Secrets by their names; never their content."""

from __future__ import annotations

from launcher.aws.errors import explained
from launcher.aws.session import Session
from launcher.errors import SiteError


def find_arn(session: Session, name: str) -> str:
    """The full ARN, as a policy needs it: its end is not part of the name."""
    from botocore.exceptions import ClientError

    with explained(f"looking for the secret {name}"):
        try:
            return str(session.client("secretsmanager").describe_secret(SecretId=name)["ARN"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            raise SiteError(
                f"There is no secret {name} in {session.region}.",
                hint=f"`aws secretsmanager create-secret --name {name} --secret-string TOKEN` makes it.",
            ) from error
