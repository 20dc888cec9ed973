"""What can be set about the endpoint of this machine, and where its state lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from launcher.errors import LocalEndpointError
from launcher.home import state_home

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Settings:
    jobs_at_once: int = 1
    grace_s: float = 120.0
    port: int = 0  # 0: the port of last time while it is free, else any free one
    region: str = "us-east-1"
    account: str = "123456789012"
    clock: str = ""  # a time at which the clock of schedules stands until a test moves it; empty: this machine's clock


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings that the environment asks for; raises LocalEndpointError on a senseless value."""
    return Settings(
        jobs_at_once=_read(environment, "LAUNCHER_LOCAL_JOBS", int, Settings.jobs_at_once, minimum=1),
        grace_s=_read(environment, "LAUNCHER_LOCAL_GRACE_S", float, Settings.grace_s, minimum=0),
        port=_read(environment, "LAUNCHER_LOCAL_PORT", int, Settings.port, minimum=0),
        clock=_read_clock(environment.get("LAUNCHER_LOCAL_CLOCK", "")),
    )


def local_root() -> Path:
    """The folder that holds the endpoint's jobs, schedules, logs and objects."""
    return state_home() / "local"


def _read(
    environment: Mapping[str, str],
    name: str,
    kind: Callable[[str], Number],
    default: Number,
    *,
    minimum: Number,
) -> Number:
    text = environment.get(name)
    if not text:
        return default
    try:
        number = kind(text)
    except ValueError as error:
        raise _senseless(name, text, minimum) from error
    if not minimum <= number < float("inf"):
        raise _senseless(name, text, minimum)
    return number


def _read_clock(text: str) -> str:
    try:
        if text and datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("it has no zone")
    except ValueError as error:
        raise LocalEndpointError(
            f"Reading the local endpoint's settings: LAUNCHER_LOCAL_CLOCK={text!r} is no time: {error}.",
            hint="Unset LAUNCHER_LOCAL_CLOCK, or write it as in 2026-03-02T00:00:00Z.",
        ) from error
    return text


def _senseless(name: str, text: str, minimum: float) -> LocalEndpointError:
    return LocalEndpointError(
        f"Reading the local endpoint's settings: {name}={text!r} is not a number from {minimum} on.",
        hint=f"Unset {name}, or give it such a number.",
    )
