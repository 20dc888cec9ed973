"""A spot job that got no capacity goes on on demand, once, whoever and however many follow it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from launcher import fallback
from launcher.aws import jobs
from launcher.aws.session import Session, open_session
from launcher.aws.site import LOCAL_SITE, find_site
from launcher.cli import following
from launcher.job import Job
from launcher.plan import Plan, make_plan
from launcher.recipe import load_recipe
from launcher.request import checkpoint_uri, make_request

ON_DEMAND = {"compute.instance": "local", "compute.spot": True, "compute.on_demand_after_wait": True}


def plan_of(run: str, **overrides: Any) -> Plan:
    recipe = load_recipe("qwen2.5-1.5b-medical", ON_DEMAND | overrides, smoke=True)
    return make_plan(recipe, run, now=datetime.now(UTC))


def quick(request: dict[str, Any], shell: str) -> dict[str, Any]:
    """The same request with a container that does next to nothing."""
    algorithm = {**request["AlgorithmSpecification"], "ContainerEntrypoint": ["bash", "-c", shell]}
    plain = {key: value for key, value in request["HyperParameters"].items() if key != "sagemaker_submit_directory"}
    without = {key: value for key, value in request.items() if key != "InputDataConfig"}
    return without | {"AlgorithmSpecification": algorithm, "HyperParameters": plain}


@pytest.fixture
def session(endpoint: Path) -> Session:
    session = open_session("local")
    find_site(session, load_recipe(None, {"compute.instance": "local"}))
    return session


@pytest.fixture
def start_spot(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan], Job]:
    """Start a spot job that waits in vain: it runs until MaxWaitTimeInSeconds, which is as long as it may run."""

    def start(plan: Plan) -> Job:
        real = make_request
        monkeypatch.setattr(fallback, "make_request", lambda plan, site: quick(real(plan, site), "echo on demand"))
        fallback.save_fallback(plan, LOCAL_SITE, session)
        request = quick(real(plan, LOCAL_SITE), "while :; do sleep 0.05; done")
        request["StoppingCondition"] = {"MaxRuntimeInSeconds": 2, "MaxWaitTimeInSeconds": 2}
        jobs.create_job(session, request)
        return Job(plan.job_name, session)

    return start


def test_the_fallback_is_the_plans_request_on_demand_from_the_same_checkpoints() -> None:
    plan = plan_of("spot-same")
    spot, on_demand = make_request(plan, LOCAL_SITE), fallback.make_fallback(plan, LOCAL_SITE)
    assert on_demand["CheckpointConfig"]["S3Uri"] == checkpoint_uri(plan, LOCAL_SITE)
    assert "EnableManagedSpotTraining" not in on_demand
    spot.pop("EnableManagedSpotTraining")
    spot["StoppingCondition"].pop("MaxWaitTimeInSeconds")
    assert on_demand == spot


def test_two_followers_start_one_job_and_both_come_to_its_end(
    start_spot: Callable[[Plan], Job], session: Session, tmp_path: Path
) -> None:
    job = start_spot(plan_of("spot-waits"))
    words = [sys.executable, "-m", "launcher", "wait", job.name, "--json", "--at", "local"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    followers = [subprocess.Popen(words, **pipes) for _ in range(2)]
    results = [(follower.communicate(timeout=120), follower.returncode) for follower in followers]
    assert [code for _, code in results] == [0, 0], results
    ends = [json.loads(out) for (out, _), _ in results]
    assert ends[0]["name"] == ends[1]["name"] != job.name
    assert (ends[0]["status"], ends[0]["spot"]) == ("completed", False)
    talk = "".join(err for (_, err), _ in results)
    assert talk.count("goes on from it on demand") == 1
    assert len(list(jobs.iter_jobs(session, "spot-waits-"))) == 2
    assert job.state().secondary == "MaxWaitTimeExceeded"
    started = jobs.describe_job(session, ends[0]["name"])
    assert json.loads(started["HyperParameters"]["sagemaker_job_name"]) == ends[0]["name"]


def test_nothing_follows_where_the_recipe_did_not_say_so(start_spot: Callable[[Plan], Job], session: Session) -> None:
    job = start_spot(plan_of("spot-stays", **{"compute.on_demand_after_wait": False}))
    name = job.name
    state = job.wait_over(120)
    assert state.lacked_capacity
    assert job.name == state.name == name
    assert len(list(jobs.iter_jobs(session, "spot-stays-"))) == 1


def test_python_s_wait_goes_on_as_the_command_line_s_does(start_spot: Callable[[Plan], Job], session: Session) -> None:
    """The handle is the on-demand job's from then on, so the lines after a wait mean the job that trained."""
    job, said = start_spot(plan_of("spot-handle")), []
    spot, other = job.name, Job(job.name, session)
    state = job.wait(120, say=said.append)
    assert (state.status.value, state.spot, state.name) == ("completed", False, job.name)
    assert job.name != spot and job.run == "spot-handle"
    assert [line for line in said if spot in line and "on demand" in line] == said
    # a second follower, of the log, starts no second job and reads on in the one that there is
    lines: list[str] = []
    assert following.follow(other, lines.append) == 0
    assert other.name == job.name and "on demand" in lines
    assert len(list(jobs.iter_jobs(session, "spot-handle-"))) == 2


def test_a_start_that_fails_gives_the_claim_back(
    start_spot: Callable[[Plan], Job], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start_spot(plan_of("spot-twice"))
    spot = job.name
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(jobs, "create_job", _refuse)
        job.wait(120)
    assert job.name == spot
    time.sleep(1)  # a job's name holds the second
    assert job.wait(120).status.value == "completed"
    assert job.name != spot


def _refuse(session: Session, request: dict[str, Any]) -> None:
    raise ConnectionError("cut")
