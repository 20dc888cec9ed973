"""The Hub's token of a gated model, read where it is used: a request and its logs only ever name the secret."""

from __future__ import annotations

import json
from collections.abc import MutableMapping

from .config import TrainConfig
from .failure import JobError
from .log import say
from .masks import remember

VARIABLE = "HF_TOKEN"


def load_hub_token(config: TrainConfig, environ: MutableMapping[str, str]) -> None:
    """Put the secret's text where the Hub's client looks for it; one that the user set stays."""
    name = config.hf_token_secret
    if not name or environ.get(VARIABLE):
        return
    text = _read_secret(name, environ)
    token = _token_in(text, name)
    remember(text)
    remember(token)
    environ[VARIABLE] = token
    say(f"The Hub's token comes from the secret {name}.")


def _read_secret(name: str, environ: MutableMapping[str, str]) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    try:
        client = boto3.client("secretsmanager", region_name=region)
        return str(client.get_secret_value(SecretId=name)["SecretString"])
    except (BotoCoreError, ClientError, KeyError) as error:
        raise JobError(
            f"The Hub's token could not be read from the secret {name} ({error}). Store it there as text, in the job's "
            "region, and allow the job's role secretsmanager:GetSecretValue on it."
        ) from error


def _token_in(text: str, name: str) -> str:
    """The text itself, or the one value of the object that AWS's console makes of it."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, str) or not value.strip():
        raise JobError(f"The secret {name} holds no token. Store the token as its text, or as the one value in it.")
    return value.strip()
