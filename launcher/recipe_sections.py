"""The sections of a recipe, and every key in them; what the container is told is container_src/sft/config.py."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from container_src.sft import config as sft
from launcher import images
from launcher.data.settings import Filter, Prepare, Source

Place = Literal["aws", "local"]
SECTIONS = ("model", "data", "lora", "training", "compute", "image", "output", "code", "secrets")


def parse_duration(text: str) -> int:
    """ "90m", "4h", "1d" or "3600" -> seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if not match:
        raise ValueError("use a number of seconds, or a number with s, m, h or d, such as 90m")
    return int(float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])


def _names(text: str) -> tuple[str, ...]:
    """ "a,b" -> ("a", "b"), as a flag gives several."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _key(name: str, default: Any) -> Any:
    """A field that a recipe spells differently, because "4h" reads better than 14400."""
    return field(default=default, metadata={"key": name, "parse": parse_duration})


def _list(name: str, *default: str) -> Any:
    """Several names: a list in TOML, or one string with commas."""
    return field(default=default, metadata={"key": name, "parse": _names})


@dataclass(frozen=True)
class ModelSource:
    """Where the base comes from when it is not the Hub, and the adapter to continue from."""

    s3: str = ""
    adapter: str = ""


@dataclass(frozen=True)
class Data:
    """Ready channels, or the sources that they are prepared from; where both are given, the ready one is used."""

    train: str = ""
    eval: str = ""
    test: str = ""
    sources: tuple[Source, ...] = ()
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Compute:
    """`instances` are in the order in which AWS tries them; all have the same GPUs, so the first speaks for them."""

    instances: tuple[str, ...] = _list("instance", "ml.g5.xlarge")
    count: int = 1
    place: Place = "aws"
    region: str = ""
    role: str = ""
    volume_gb: int = 100
    volume_kms_key: str = ""
    max_runtime_s: int = _key("max_runtime", 24 * 3600)
    spot: bool = False
    max_wait_s: int = _key("max_wait", 0)
    on_demand_after_wait: bool = False
    keep_alive_s: int = _key("keep_alive", 0)
    subnets: tuple[str, ...] = _list("subnets")
    security_groups: tuple[str, ...] = _list("security_groups")
    encrypt_traffic: bool = False
    network_isolation: bool = False
    signal_shim: bool = True

    @property
    def instance(self) -> str:
        return self.instances[0]


@dataclass(frozen=True)
class ImageChoice:
    version: str = images.DEFAULT_VERSION
    uri: str = ""


@dataclass(frozen=True)
class Output:
    bucket: str = ""
    prefix: str = "launcher"
    kms_key: str = ""
    dir: str = "runs"


@dataclass(frozen=True)
class Code:
    files: tuple[str, ...] = ()


OWNERS: dict[str, Any] = {
    "model": ModelSource,
    "data": Data,
    "prepare": Prepare,
    "compute": Compute,
    "image": ImageChoice,
    "output": Output,
    "code": Code,
}


# A part that a recipe writes as a table inside another.
NESTED = {"prepare": "data.prepare"}


def _make_keys() -> dict[str, tuple[str, str]]:
    """Every dotted key a recipe may hold -> the part of Recipe that owns it, and its field there."""
    keys: dict[str, tuple[str, str]] = {"name": ("", "name")}
    for item in dataclasses.fields(sft.TrainConfig):
        section, key = sft.section_of(item.name)
        if section != "job":
            keys[f"{section}.{key}"] = ("config", item.name)
    for section, owner in OWNERS.items():
        for item in dataclasses.fields(owner):
            keys[f"{NESTED.get(section, section)}.{item.metadata.get('key', item.name)}"] = (section, item.name)
    order = ("name", *SECTIONS)
    return dict(sorted(keys.items(), key=lambda entry: order.index(entry[0].partition(".")[0])))


KEYS = _make_keys()
