"""Clients for a place: AWS, or the endpoint on this machine. Beyond this file nothing knows which of them it is."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from launcher.aws.errors import explained
from launcher.aws.loader import make_loader
from launcher.errors import CredentialsError, SiteError

LOCAL_REGION = "us-east-1"
LOCAL_ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Session:
    """A place and how to reach it. `service_url` is empty for AWS itself."""

    place: str
    region: str
    service_url: str = ""
    credentials: tuple[str, str] | None = None
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self.botocore.create_client(
                service, region_name=self.region, endpoint_url=self.service_url or None, config=self._config()
            )
        return self._clients[service]

    @cached_property
    def botocore(self) -> Any:
        # botocore alone: importing boto3 costs another 0.15 s, and only transfers need it
        import botocore.session

        session = botocore.session.get_session()
        session.register_component("data_loader", make_loader())
        session.set_config_variable("region", self.region)
        if self.credentials:
            session.set_credentials(*self.credentials)
        return session

    def _config(self) -> Any:
        from botocore.config import Config

        if self.place == "local":
            return Config(
                # One address for every service, so buckets cannot be host names. Over loopback a part's checksum is
                # enough; signing its content too would take most of an upload's time.
                s3={"addressing_style": "path", "payload_signing_enabled": False},
                proxies={},  # a proxy variable of the user's would catch 127.0.0.1
                retries={"mode": "standard", "max_attempts": 3},
            )
        return Config(
            retries={"mode": "adaptive", "max_attempts": 8},
            connect_timeout=10,
            read_timeout=60,
            user_agent_appid="launcher",
        )


class Clients(Protocol):
    """As much of a session as a single question needs."""

    @property
    def region(self) -> str: ...

    @property
    def client(self) -> Callable[[str], Any]: ...


def open_session(place: str, region: str = "") -> Session:
    """Ready to use: for "local" the endpoint is started when it is not running yet."""
    if place == "local":
        from launcher.local.lifecycle import ensure_endpoint

        return Session("local", LOCAL_REGION, ensure_endpoint().url, ("local", "local"))
    with explained("looking for AWS credentials"):  # a profile that is not there, a sign-in that has ended
        session = Session("aws", region or _wanted_region(), os.environ.get("AWS_ENDPOINT_URL", ""))
        credentials = session.botocore.get_credentials()
    if credentials is None:
        raise CredentialsError(
            "No AWS credentials were found.",
            hint="Sign in with `aws sso login` or `aws configure`, or run on this machine with --instance local.",
        )
    return session


def find_region() -> str:
    """The region that AWS's tools would use here; empty when none is set."""
    import botocore.session

    with explained("looking for a region"):  # a profile of that name may be missing
        return os.environ.get("AWS_REGION") or botocore.session.get_session().get_config_variable("region") or ""


def check_region(region: str) -> None:
    known = known_regions()
    if region not in known:
        close = difflib.get_close_matches(region, known, n=1)
        raise SiteError(
            f"{region} is not a region of AWS.",
            hint=f"Did you mean {close[0]}?" if close else "`aws account list-regions` shows the account's.",
        )


def known_regions() -> list[str]:
    """Every region that botocore knows of, in every partition; its list of endpoints is a hundred times as long."""
    found = make_loader().load_data("partitions")["partitions"]
    return [region for partition in found for region in partition["regions"] if not region.endswith("-global")]


def _wanted_region() -> str:
    region = find_region()
    if not region:
        raise SiteError(
            "No AWS region is set.",
            hint="Set compute.region in the recipe, AWS_REGION, or a region in ~/.aws/config.",
        )
    return region
