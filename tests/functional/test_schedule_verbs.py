"""The verbs of schedules where they meet a rival, another place, or a schedule that is gone; no job trains here."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

import pytest

from launcher import attach_schedule, create_schedule, make_plan, plan_update, publish
from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.aws.site import LOCAL_SITE
from launcher.errors import InputError, JobFailed, JobStopped, RunError, UnknownJob
from launcher.job import Job
from launcher.retraining.champion import open_line
from launcher.retraining.executions import find_live_job, iter_jobs_of
from launcher.retraining.schedule import Schedule
from launcher.retraining.scheduled import substitute
from launcher.runs import claim_key

BUCKET = LOCAL_SITE.bucket
RARELY = "cron(0 3 1 1 ? 2150)"


def _stop_all(session: Session, name: str) -> None:
    for summary in iter_jobs_of(session, name):
        with suppress(RunError):  # it is over
            Job(summary["TrainingJobName"], session).stop()


def test_a_queued_trigger_that_a_rival_overtakes_waits_again(make_recipe, session) -> None:
    """The rival of another machine holds the claim first, and has a job only later."""
    recipe = make_recipe("overtaken", **{"schedule.when_busy": "queue"})
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    first, said = schedule.trigger(), []
    rival = substitute(schedule.request, str(uuid.uuid4()))
    holder = {"job": rival["TrainingJobName"], "host": "elsewhere", "pid": 1, "time": 4e9}
    key = f"launcher/{claim_key('overtaken', first.name)}"

    def pass_time(seconds: float) -> None:
        if not first.status.is_over:
            s3.put_bytes(session, json.dumps(holder).encode(), BUCKET, key)
            _stop_all(session, "overtaken")
        elif len(list(iter_jobs_of(session, "overtaken"))) == 1 and len(said) == 2:
            jobs.create_job(session, rival)
        else:
            _stop_all(session, "overtaken")
        threading.Event().wait(0.1)

    second = schedule.trigger(said.append, sleep=pass_time)
    _stop_all(session, "overtaken")
    waited_for = [line.split()[2] for line in said]
    assert waited_for == [first.name, rival["TrainingJobName"]]
    made = [summary["TrainingJobName"] for summary in iter_jobs_of(session, "overtaken")]
    assert made == [second.name, rival["TrainingJobName"], first.name]


def _wait_in_the_queue(schedule: Schedule, change: Callable[[], object]) -> Job:
    """Trigger while a job runs; the schedule is changed and the job ends meanwhile."""

    def pass_time(seconds: float) -> None:
        change()
        _stop_all(schedule.session, schedule.name)
        threading.Event().wait(0.1)

    try:
        schedule.trigger()
        return attach_schedule(schedule.name).trigger(sleep=pass_time)
    finally:
        _stop_all(schedule.session, schedule.name)


def test_a_queued_trigger_starts_nothing_of_a_schedule_that_was_paused_deleted_or_emptied(make_recipe, session) -> None:
    recipe = make_recipe("queued", **{"schedule.when_busy": "queue"})
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    with pytest.raises(RunError, match="queued is paused"):
        _wait_in_the_queue(schedule, schedule.pause)
    schedule.resume()
    manifest = "launcher/current/queued/train.manifest"
    with pytest.raises(RunError, match="no train rows"):
        _wait_in_the_queue(schedule, lambda: s3.delete_object(session, BUCKET, manifest))
    publish(make_plan(recipe))
    with pytest.raises(UnknownJob, match="There is no schedule 'queued'"):
        _wait_in_the_queue(schedule, lambda: attach_schedule("queued").delete())
    assert len(list(iter_jobs_of(session, "queued"))) == 3


def test_a_queued_trigger_starts_what_an_update_made_of_the_schedule_meanwhile(make_recipe, command) -> None:
    recipe = make_recipe("renewed", **{"schedule.when_busy": "queue"})
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    newer = make_plan(make_recipe("renewed", **{"schedule.when_busy": "queue", "lora.r": 4}))
    job = _wait_in_the_queue(schedule, lambda: plan_update("renewed", newer).apply())
    assert job.description()["HyperParameters"]["lora_r"] == "4"
    with suppress(JobStopped, JobFailed):
        job.wait(timeout=120)
    # and a job that did not train to its end is no champion, with a way on
    code, _, said = command("champion", "promote", job.name)
    assert (code, f"`launcher status {job.name}` tells more. A job is judged that trains" in said) == (2, True), said


def test_an_update_to_network_isolation_leaves_the_topic_out(make_recipe) -> None:
    recipe = make_recipe("isolated")
    publish(make_plan(recipe))
    assert "notify_topic" in create_schedule(make_plan(recipe), RARELY).request["HyperParameters"]
    closed = make_plan(make_recipe("isolated", **{"compute.network_isolation": True}))
    request = plan_update("isolated", closed).apply().request
    assert request["EnableNetworkIsolation"] is True
    assert "notify_topic" not in request["HyperParameters"]


def test_an_update_that_goes_elsewhere_names_the_place(make_recipe, command) -> None:
    make_recipe("settled")
    assert command("publish", "settled.toml", "--smoke")[0] == 0
    assert command("schedule", "create", "settled.toml", "--smoke", "--cron", "0 3 1 1 ? 2150")[0] == 0
    code, _, said = command("schedule", "update", "settled", "settled.toml", "--smoke", "--instance", "ml.g5.xlarge")
    assert code == 2, said
    assert "settled is deployed on this machine" in said
    assert "--instance local" in said
    code, _, said = command("schedule", "update", "settled", "settled.toml", "--smoke", "--instance", "local")
    assert (code, "deployed like this already" in said) == (0, True)
    code, _, said = command("schedule", "update", "settled", "--retries", "0")
    assert (code, "0 retries are not between 1 and 3" in said) == (2, True)
    code, _, said = command("schedule", "update", "unsettled", "settled.toml", "--smoke")
    assert (code, "Did you mean settled?" in said) == (2, True)


def test_what_is_refused_leaves_nothing_behind(make_recipe, session) -> None:
    taken, late = make_recipe("taken"), make_recipe("late")
    for recipe in (taken, late):
        publish(make_plan(recipe))
    create_schedule(make_plan(taken), RARELY)
    with pytest.raises(RunError, match="The schedule taken exists already"):
        create_schedule(make_plan(late), RARELY, name="taken")
    with pytest.raises(InputError, match="would refuse this schedule"):
        create_schedule(make_plan(late), RARELY, role="somebody")
    assert s3.find_object(session, *open_line(late).place) is None


def test_a_role_and_a_queue_of_ones_own_are_deployed_here_too(make_recipe) -> None:
    recipe = make_recipe("own")
    publish(make_plan(recipe))
    role, queue = "arn:aws:iam::123456789012:role/mine", "arn:aws:sqs:us-east-1:123456789012:mine"
    target = create_schedule(make_plan(recipe), RARELY, role=role, queue=queue).params["Target"]
    assert (target["RoleArn"], target["DeadLetterConfig"]["Arn"]) == (role, queue)


def test_a_rate_says_that_it_fires_at_once_and_its_history_outlives_it(make_recipe, command, session) -> None:
    make_recipe("outlived")
    assert command("publish", "outlived.toml", "--smoke")[0] == 0
    code, shown, said = command("schedule", "create", "outlived.toml", "--smoke", "--rate", "rate(300 days)")
    assert code == 0, said
    assert "the first job starts now" in said
    assert ["instance", "local"] in [line.split() for line in shown.splitlines()]
    deadline = time.monotonic() + 60
    while not (job := find_live_job(session, "outlived")):
        assert time.monotonic() < deadline, "the first job never started"
        threading.Event().wait(0.05)
    assert ["instance", "local"] in [line.split() for line in command("status", job)[1].splitlines()]
    _stop_all(session, "outlived")
    assert command("schedule", "delete", "outlived")[0] == 0
    code, listed, said = command("schedule", "history", "outlived", "--json")
    assert (code, [one["job"] for one in json.loads(listed)]) == (0, [job])
    assert "outlived is deleted" in said
    code, _, said = command("schedule", "history", "never-there")
    assert (code, "There is no schedule 'never-there'" in said) == (2, True)
