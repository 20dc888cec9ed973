"""A recipe's champion: the adapter to beat, behind one pointer in S3 that moves by a conditional put.

The pointer is a channel's manifest, champions/<recipe>/champion.manifest: [{"prefix": "s3://.../<job>/"}, names...].
Moving it is one put on the condition that it is still the one that was weighed against, so that of two jobs that finish
together exactly one wins. A channel needs objects, so before the first champion it names a placeholder. Stdlib only but
for boto3, which a job imports when it promotes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .artifact import ADAPTER_FILES
from .checkpoint import Origin
from .config import TrainConfig
from .failure import JobError
from .strict_json import make_json

RECORD = "champion.json"
POINTER = "champion.manifest"
PLACEHOLDER = "none"
VERDICT = "verdict.json"
# What must be equal for a training to be the same again, and for two adapters to fit one base.
SAME_TRAINING = ("recipe_digest", "data_digest", "source_digest", "start_digest")
SAME_BASE = ("model", "revision", "smoke", "base_digest")
PLACEHOLDER_KEYS = ("job", "prefix", "pointer", "previous")
RECORD_KEYS = (*PLACEHOLDER_KEYS, "promoted", "by", *SAME_TRAINING, *SAME_BASE, "evaluation")
REFUSED_CONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
PUTS = 3  # S3 answers 409 to a put that came beside another one, which may itself have been refused


class ChampionError(JobError):
    """A champion that cannot be read or used."""


@dataclass(frozen=True)
class Champion:
    """As a job mounts it; the placeholder has no job."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def job(self) -> str:
        return str(self.record["job"])


@dataclass(frozen=True)
class Move:
    """What became of a promotion: `lost` names who is champion instead, `problem` what could not be done."""

    promoted: bool = False
    lost: str = ""
    problem: str = ""


def read_champion(folder: Path | None) -> Champion | None:
    """None for a job that takes no part in the gate. A champion that could not be weighed at the end is refused now."""
    if folder is None:
        return None
    try:
        champion = Champion(folder, read_record((folder / RECORD).read_bytes()))
    except (OSError, ValueError) as error:
        raise ChampionError(
            f"The champion's {RECORD} cannot be read ({error}). `launcher champion show RECIPE` names what is "
            "missing, `launcher champion rollback RECIPE` goes back to the one before."
        ) from error
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if champion.job and missing:
        raise ChampionError(
            f"The champion {champion.job} has no {missing[0]}, so nothing can be weighed against it. "
            "`launcher champion rollback RECIPE` goes back to the one before."
        )
    return champion


def read_record(content: bytes) -> dict[str, Any]:
    """champion.json, or a ValueError that says what is wrong with it."""
    record = json.loads(content)
    if not isinstance(record, dict):
        raise ValueError(f"it holds {content[:40]!r}")
    wanted = RECORD_KEYS if record.get("job") else PLACEHOLDER_KEYS
    if lacking := [name for name in wanted if name not in record]:
        raise ValueError(f"it has no {lacking[0]}")
    return record


def make_placeholder(prefix: str, pointer: str) -> dict[str, Any]:
    return {"job": "", "prefix": prefix, "pointer": pointer, "previous": ""}


def make_record(
    job: str,
    prefix: str,
    pointer: str,
    previous: str,
    manifest: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    by: str,
) -> dict[str, Any]:
    """champion.json, from what the job left."""
    config = manifest["config"]
    return {
        "job": job,
        "prefix": prefix,
        "pointer": pointer,
        "previous": previous,
        "promoted": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by,
        **{name: manifest[name] for name in ("recipe_name", *SAME_TRAINING)},
        **describe_base(config),
        "evaluation": {name: evaluation[name] for name in ("evaluated_on", "rows", "verdict", "sentence", "tuned")},
    }


def describe_base(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter fits on; a base from a channel is known by its digest."""
    digests = dict(part.split(":", 1) for part in str(config["start_digest"]).split(",") if ":" in part)
    return {
        "model": config["model_name_or_path"],
        "revision": config["model_revision"],
        "smoke": config["smoke"],
        "base_digest": digests.get("model", ""),
    }


def is_same_training(champion: Champion, origin: Origin, config: TrainConfig) -> bool:
    now = {
        "recipe_digest": origin.recipe_digest,
        "data_digest": origin.data_digest,
        "source_digest": config.source_digest,
        "start_digest": config.start_digest,
    }
    return bool(champion.job) and all(champion.record[name] == now[name] for name in SAME_TRAINING)


def find_other_base(champion: Champion, config: Mapping[str, Any]) -> str:
    """Why the champion's adapter cannot be weighed here, or ""."""
    mine = describe_base(config)
    differing = [name for name in SAME_BASE if champion.job and champion.record.get(name, mine[name]) != mine[name]]
    if not differing:
        return ""
    words = ", ".join(f"{name} {champion.record[name]!r} and not {mine[name]!r}" for name in differing)
    return f"the champion {champion.job} was trained on another base ({words})"


def make_pointer(prefix: str, names: list[str]) -> bytes:
    return make_json([{"prefix": prefix}, RECORD, *sorted(set(names) - {RECORD})], indent=1).encode()


def read_pointer(content: bytes) -> tuple[str, list[str]]:
    """The folder and the names in it, or a ValueError that says what is wrong with the pointer."""
    try:
        (head, *names) = json.loads(content)
        prefix = head["prefix"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the pointer holds {content[:40]!r}") from error
    if not isinstance(prefix, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the pointer holds {content[:40]!r}")
    return prefix, names


def make_move(before: str, after: str, by: str, why: str) -> tuple[str, bytes]:
    """The name and content of one line of the champions' history."""
    now = datetime.now(UTC)
    move = {"time": now.isoformat(timespec="seconds"), "from": before, "to": after, "by": by, "why": why}
    return f"moves/{now:%Y%m%dT%H%M%S%fZ}-{after or PLACEHOLDER}.json", make_json(move).encode()


def job_in(prefix: str) -> str:
    """The job whose folder this is."""
    name = prefix.rstrip("/").rpartition("/")[2]
    return "" if name == PLACEHOLDER else name


def split_uri(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def promote(champion: Champion, job: str, output: Path, record: dict[str, Any], why: str, region: str) -> Move:
    """Put the adapter where the pointer can name it, then move the pointer, if it is still the one weighed against."""
    from botocore.exceptions import BotoCoreError, ClientError

    s3 = _client("s3", region)
    try:
        move = _promote(s3, champion, output, record)
    except (BotoCoreError, ClientError, ValueError) as error:
        return Move(problem=f"{error}. `launcher champion promote {job}` does it by hand")
    if not move.promoted:
        return move
    try:
        _note_move(s3, champion, job, why)
    except (BotoCoreError, ClientError) as error:
        return Move(promoted=True, problem=f"`launcher champion history` lacks it: {error}")
    return move


def _promote(s3: Any, champion: Champion, output: Path, record: dict[str, Any]) -> Move:
    bucket, key = split_uri(str(champion.record["pointer"]))
    held, etag = _read_held(s3, bucket, key)
    if held != champion.record["prefix"]:
        return _lost_to(held)
    _, folder = split_uri(record["prefix"])
    names = [path.relative_to(output).as_posix() for path in sorted(output.rglob("*")) if path.is_file()]
    for name in names:
        s3.upload_file(str(output / name), bucket, folder + name)
    s3.put_object(Bucket=bucket, Key=folder + RECORD, Body=make_json(record, indent=1).encode())
    return _move_pointer(s3, champion, make_pointer(record["prefix"], names), etag)


def _move_pointer(s3: Any, champion: Champion, pointer: bytes, etag: str) -> Move:
    """A put whose answer was lost is sent again and refused for its own success: the pointer itself tells who won."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = split_uri(str(champion.record["pointer"]))
    for puts_left in reversed(range(PUTS)):
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=pointer, IfMatch=etag)
            break
        except (BotoCoreError, ClientError) as error:
            held, etag = _read_held(s3, bucket, key)
            if held == read_pointer(pointer)[0]:
                break
            if held != champion.record["prefix"]:
                return _lost_to(held)
            if not puts_left or _code_of(error) not in REFUSED_CONDITION:
                raise
    return Move(promoted=True)


def _read_held(s3: Any, bucket: str, key: str) -> tuple[str, str]:
    """What the pointer names, and the etag that a move must name."""
    answer = s3.get_object(Bucket=bucket, Key=key)
    return read_pointer(answer["Body"].read())[0], str(answer["ETag"])


def _lost_to(held: str) -> Move:
    return Move(lost=job_in(held) or "nobody")


def _code_of(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _note_move(s3: Any, champion: Champion, job: str, why: str) -> None:
    bucket, key = split_uri(str(champion.record["pointer"]))
    name, content = make_move(champion.job, job, "the job", why)
    s3.put_object(Bucket=bucket, Key=f"{key.removesuffix(POINTER)}{name}", Body=content)


def _client(service: str, region: str) -> Any:
    import boto3
    from botocore.config import Config

    # in a subnet without a way out nothing answers, and a GPU is billed while boto3 waits
    patience = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 3})
    return boto3.client(service, region_name=region or None, config=patience)


def tell(topic: str, subject: str, message: str) -> str:
    """Publish a notice; returns why it could not be, or ""."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        _client("sns", topic.split(":")[3]).publish(TopicArn=topic, Subject=subject[:100], Message=message)
    except (BotoCoreError, ClientError, IndexError) as error:
        return str(error)
    return ""
