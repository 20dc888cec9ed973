"""What a recipe's [output] may say: the name of a bucket, as S3 has it."""

from __future__ import annotations

import re

from launcher.errors import RecipeError

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")  # new names are stricter; old buckets keep theirs


def check_bucket_name(name: str, key: str = "output.bucket") -> None:
    """Raise at an address or an ARN, which people give first."""
    if not name or BUCKET.fullmatch(name):
        return
    bucket, _, folder = name.removeprefix("s3://").rpartition(":::")[2].partition("/")
    hint = "It has letters, digits, dots and dashes, and no s3:// before it."
    if BUCKET.fullmatch(bucket):
        inside = f', with output.prefix = "{folder.strip("/")}" for the folder' if folder.strip("/") else ""
        hint = f"Give the name alone, without s3://: {bucket}{inside}."
    raise RecipeError(f"{key} is {name!r}, which is not a bucket's name.", hint=hint)
