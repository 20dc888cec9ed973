"""An AWS session of which each client answers only what a test has written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from botocore.stub import Stubber

from launcher.account import doctor, doctor_job, doctor_rights, doctor_scene
from launcher.aws.session import Session


@pytest.fixture
def session() -> Session:
    # an address makes the polls short; nothing is sent to it
    return Session("aws", "eu-west-1", "http://127.0.0.1:9", ("key", "secret"))


@pytest.fixture
def stub(session: Session) -> Iterator[Callable[[str], Stubber]]:
    made: dict[str, Stubber] = {}

    def make(service: str) -> Stubber:
        if service not in made:
            made[service] = Stubber(session.client(service))
            made[service].activate()
        return made[service]

    yield make
    for stubber in made.values():
        stubber.assert_no_pending_responses()


@pytest.fixture
def patient_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limits are two seconds, and a loaded machine may take as long for the answer of a stub."""
    for module in (doctor, doctor_job, doctor_rights, doctor_scene):
        monkeypatch.setattr(module, "LIMIT_S", 60.0)
    for name in ("FIRST_S", "GRACE_S"):
        monkeypatch.setattr(doctor_scene, name, 60.0)
