"""Whether what a scheduled request mounts is there: AWS would say so after minutes only, and in other words."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from container_src.sft.champion import POINTER
from launcher.aws import s3
from launcher.aws.session import Session
from launcher.data.settings import CHANNELS
from launcher.errors import RunError
from launcher.retraining.champion import Line, check_base, ensure_pointer, read_champion
from launcher.retraining.publication import PUBLISH_AGAIN, Publication, check_objects, check_owner, read_publication


def check_mounts(session: Session, request: Mapping[str, Any], schedule: str) -> None:
    """Refuse what is lost; only the placeholder before the first champion is written again."""
    recipe = json.loads(request["HyperParameters"].get("recipe_name", '""'))
    sources = {item["ChannelName"]: item["DataSource"]["S3DataSource"] for item in request["InputDataConfig"]}
    for bucket in sorted({s3.split_uri(source["S3Uri"])[0] for source in sources.values()}):
        s3.check_bucket(session, bucket)
    for name, source in sources.items():
        uri = source["S3Uri"]
        if name == "champion":
            _check_champion(Line(session, recipe, uri.removesuffix(POINTER)), request)
        elif name == "publication":
            mounted = {channel for channel in sources if channel in CHANNELS}
            check_owner(_check_publication(session, uri, mounted, schedule), recipe, uri)
        elif source["S3DataType"] == "ManifestFile":
            if not _is_there(session, uri):
                raise RunError(f"{uri} is gone, so {schedule} has no {name} rows.", hint=PUBLISH_AGAIN)
        else:
            _check_sent(session, uri, schedule)
    bundle = json.loads(request["HyperParameters"]["sagemaker_submit_directory"])
    if bundle.startswith("s3://"):  # else it is a channel
        _check_sent(session, bundle, schedule)


def _check_champion(line: Line, request: Mapping[str, Any]) -> None:
    ensure_pointer(line)
    # an empty value is not sent
    sent = {name: json.loads(value) for name, value in request["HyperParameters"].items()}
    check_base(read_champion(line).check(), defaultdict(str, sent))


def _check_publication(session: Session, uri: str, mounted: set[str], schedule: str) -> Publication:
    bucket, key = s3.split_uri(uri)
    if s3.find_object(session, bucket, key) is None:
        raise RunError(f"{uri} is gone, so nobody knows which rows belong together.", hint=PUBLISH_AGAIN)
    publication = read_publication(s3.get_bytes(session, bucket, key)[0], uri)
    if mounted != publication.channels.keys():
        raise RunError(
            f"{schedule} mounts the channels {', '.join(sorted(mounted))}; published are "
            f"{', '.join(sorted(publication.channels))} ({publication.id}).",
            hint=f"`launcher schedule update {schedule} RECIPE` mounts what is published.",
        )
    check_objects(session, publication)
    return publication


def _check_sent(session: Session, uri: str, schedule: str) -> None:
    """The code, a base model, an adapter: what an update sends."""
    if next(s3.iter_keys(session, *s3.split_uri(uri)), None) is None:
        raise RunError(
            f"{uri}, which {schedule} trains with, is gone.",
            hint=f"`launcher schedule update {schedule} RECIPE` sends it again.",
        )


def _is_there(session: Session, uri: str) -> bool:
    return s3.find_object(session, *s3.split_uri(uri)) is not None
