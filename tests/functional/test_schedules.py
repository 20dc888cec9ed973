"""Publishing and schedules, against the local endpoint; no job trains to its end here."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from launcher import attach_schedule, create_schedule, load_recipe, make_plan, plan_update, publish
from launcher.aws import s3
from launcher.aws.schedules import find_home
from launcher.aws.session import Session, open_session
from launcher.aws.site import LOCAL_SITE
from launcher.errors import DataError, InputError, JobFailed, RunError, SiteError, UnknownJob
from launcher.job import Job
from launcher.plan import Plan
from launcher.retraining.executions import find_live_job, iter_jobs_of
from launcher.retraining.mounts import check_mounts
from launcher.retraining.publication import _switch, find_current, open_shelf, roll_back_publication

BUCKET = LOCAL_SITE.bucket
# a rate would fire when it is created
RARELY = "cron(0 3 1 1 ? 2150)"


def _get(session: Session, key: str) -> Any:
    return json.loads(s3.get_bytes(session, BUCKET, key)[0])


def _digest_in(session: Session, recipe: str, channel: str) -> str:
    return str(_get(session, f"launcher/current/{recipe}/{channel}.manifest")[0]["prefix"].split("/")[-2])


# publish


def test_publishing_switches_every_list_and_keeps_what_was(make_recipe, write_rows, session) -> None:
    recipe = make_recipe("switched")
    first = publish(make_plan(recipe))
    manifest = _get(session, "launcher/current/switched/train.manifest")
    assert manifest == [{"prefix": first.channels["train"]["prefix"]}, "train.jsonl"]
    bucket, key = s3.split_uri(manifest[0]["prefix"] + manifest[1])
    assert s3.find_object(session, bucket, key)

    said: list[str] = []
    assert publish(make_plan(recipe), say=said.append).id == first.id
    assert any("published already" in line for line in said)

    write_rows("train.jsonl", [{"text": "new"}])
    second = publish(make_plan(recipe))
    assert second.previous == first.id
    assert _digest_in(session, "switched", "train") == second.channels["train"]["digest"][:16]
    assert second.channels["eval"] == first.channels["eval"]

    assert roll_back_publication(recipe).id == first.id
    assert _digest_in(session, "switched", "train") == first.channels["train"]["digest"][:16]
    with pytest.raises(RunError, match="is the first publication"):
        roll_back_publication(recipe)


def test_a_publish_that_was_cut_is_mended_by_the_next(make_recipe, session) -> None:
    recipe = make_recipe("cut")
    published = publish(make_plan(recipe))
    s3.put_bytes(session, b"[]", BUCKET, "launcher/current/cut/eval.manifest")
    publish(make_plan(recipe))
    assert _digest_in(session, "cut", "eval") == published.channels["eval"]["digest"][:16]


def test_of_two_publishers_at_once_one_is_told_and_no_mixture_stays(make_recipe, write_rows, session) -> None:
    recipe = make_recipe("raced")
    shelf = open_shelf(recipe)
    first = publish(make_plan(recipe))
    _, etag = find_current(shelf)
    write_rows("train.jsonl", [{"text": "theirs"}])
    theirs = publish(make_plan(recipe))
    with pytest.raises(RunError, match="Somebody else published"):
        _switch(shelf, first, etag)
    assert find_current(shelf)[0] == theirs
    assert _digest_in(session, "raced", "train") == theirs.channels["train"]["digest"][:16]


def test_publishers_in_one_moment_leave_no_mixture(make_recipe, write_rows, session) -> None:
    plans = []
    for number in range(2):
        recipe = make_recipe("crowded")
        train, rest = (write_rows(f"{part}{number}.jsonl", [{"text": f"{part} {number}"}]) for part in ("t", "e"))
        plans.append(
            make_plan(load_recipe(recipe.folder / "crowded.toml", {"data.train": str(train), "data.eval": str(rest)}))
        )
    publish(make_plan(make_recipe("crowded")))
    for _ in range(3):
        barrier, lost = threading.Barrier(2), []

        def run(plan: Plan, barrier: threading.Barrier = barrier, lost: list[str] = lost) -> None:
            barrier.wait()
            try:
                publish(plan)
            except RunError as error:
                lost.append(error.message)

        threads = [threading.Thread(target=run, args=(plan,)) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(lost) < 2
        current, _ = find_current(open_shelf(plans[0].recipe))
        assert current is not None
        for channel in ("train", "eval"):
            assert _digest_in(session, "crowded", channel) == current.channels[channel]["digest"][:16]
        plans.reverse()
        publish(make_plan(make_recipe("crowded")))


def test_a_job_that_meets_half_a_publication_refuses_to_train(make_recipe, write_rows, session) -> None:
    recipe = make_recipe("halved")
    first = publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    write_rows("train.jsonl", [{"text": "new"}])
    publish(make_plan(recipe))
    old = json.dumps([{"prefix": first.channels["train"]["prefix"]}, "train.jsonl"]).encode()
    s3.put_bytes(session, old, BUCKET, "launcher/current/halved/train.manifest")
    with pytest.raises(JobFailed, match="The rows of train are not those of the publication.*Nothing was trained"):
        schedule.trigger().wait(timeout=120)


def test_a_publication_that_cannot_be_read_is_replaced(make_recipe, write_rows, session, command) -> None:
    recipe = make_recipe("illegible")
    first = publish(make_plan(recipe))
    for content in (b"{}", b"garbage", b"[]"):
        s3.put_bytes(session, content, BUCKET, "launcher/current/illegible/publication.json")
        with pytest.raises(DataError, match="publication.json is no publication") as refused:
            find_current(open_shelf(recipe))
        assert "launcher publish" in refused.value.hint
        code, _, said = command("publish", "illegible.toml")
        assert (code, "It is replaced." in said) == (0, True), said
    write_rows("train.jsonl", [{"text": "new"}])
    publish(make_plan(recipe))
    assert roll_back_publication(recipe).data_digest == first.data_digest


def test_of_a_publication_that_was_deleted_the_newest_kept_stands_before_the_next(
    make_recipe, write_rows, session, command
) -> None:
    recipe = make_recipe("erased")
    first = publish(make_plan(recipe))
    s3.delete_object(session, BUCKET, "launcher/current/erased/publication.json")
    write_rows("train.jsonl", [{"text": "new"}])
    code, shown, said = command("publish", "erased.toml")
    assert (code, f"publication.json is gone. It is written again, after {first.id}" in said) == (0, True), said
    assert ["before", "it", first.id] in [line.split() for line in shown.splitlines()]
    assert roll_back_publication(recipe).id == first.id


def test_data_of_a_recipe_of_another_name_is_neither_replaced_nor_trained_on(make_recipe, session) -> None:
    recipe = make_recipe("ours")
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    theirs = dataclasses.replace(make_recipe("ours"), name="Ours")
    assert publish(make_plan(theirs)).previous == ""  # by a key of its own
    key = "launcher/current/ours/publication.json"
    s3.put_bytes(session, json.dumps({**_get(session, key), "recipe": "Ours"}).encode(), BUCKET, key)
    acts = (
        lambda: publish(make_plan(recipe)),
        lambda: roll_back_publication(recipe),
        lambda: plan_update("ours", make_plan(recipe)),
        schedule.trigger,
    )
    for act in acts:
        with pytest.raises(RunError, match="is a publication of the recipe Ours, and this one is ours") as refused:
            act()
        assert "another `name`" in refused.value.hint


def test_a_recipe_of_the_same_name_in_another_folder_is_said(make_recipe, write_rows) -> None:
    recipe, said = make_recipe("namesake"), []
    publish(make_plan(recipe))
    write_rows("train.jsonl", [{"text": "new"}])
    elsewhere = recipe.folder / "elsewhere"
    elsewhere.mkdir()
    files = {"train": str(recipe.folder / "train.jsonl"), "eval": str(recipe.folder / "eval.jsonl")}
    moved = dataclasses.replace(recipe, folder=elsewhere, data=dataclasses.replace(recipe.data, **files))
    publish(make_plan(moved), say=said.append)
    (note,) = [line for line in said if line.startswith("note: the publication before was of a recipe in ")]
    assert str(recipe.folder) in note
    assert "6 rows of eval are too few to judge by (15 or more would do)" in "".join(said)
    write_rows("train.jsonl", [{"text": "newer"}])
    publish(make_plan(moved), say=said.append)
    assert len([line for line in said if line.startswith("note:")]) == 1


def test_a_switch_whose_answer_was_lost_is_one(make_recipe, losing_the_first_answer) -> None:
    recipe = make_recipe("unheard-of")
    shelf, first = open_shelf(recipe), publish(make_plan(recipe))
    _, etag = find_current(shelf)
    later = dataclasses.replace(first, id="later")
    with losing_the_first_answer(shelf.session.client("s3"), shelf.current_key("publication.json")):
        _switch(shelf, later, etag)
    assert find_current(shelf)[0] == later


def test_going_back_says_which_channels_change_and_what_was_not_kept(make_recipe, session) -> None:
    recipe = make_recipe("back")
    alone = publish(make_plan(make_recipe("back", **{"data.eval": ""})))
    publish(make_plan(recipe))
    said: list[str] = []
    assert roll_back_publication(recipe, say=said.append).id == alone.id
    assert said == ["the channels were train, eval and are train: `launcher schedule update NAME RECIPE` mounts them"]
    publish(make_plan(recipe))
    s3.delete_object(session, BUCKET, f"launcher/publications/back/{alone.id}.json")
    with pytest.raises(DataError, match="kept to go back to, is gone") as refused:
        roll_back_publication(recipe)
    assert "launcher publish" in refused.value.hint


def test_data_is_published_for_a_recipe_and_not_for_a_name(make_recipe, command) -> None:
    make_recipe("nameless")
    code, _, said = command("publish", "nameless.toml", "--name", "other")
    assert (code, "--name names a run" in said) == (2, True)


def test_rows_that_cannot_be_trained_on_are_not_published(make_recipe, write_rows, command) -> None:
    make_recipe("refused")
    write_rows("train.jsonl", [{"text": ""}])
    code, _, said = command("publish", "refused.toml")
    assert code == 2
    assert "train.jsonl:1" in said


# schedules


def test_a_recipe_whose_files_are_not_published_is_refused(make_recipe) -> None:
    recipe = make_recipe("unpublished")
    with pytest.raises(RunError, match="none of them is published") as refused:
        create_schedule(make_plan(recipe), RARELY)
    assert "launcher publish" in refused.value.hint


def test_a_schedule_lives_from_create_to_delete(make_recipe, command, session) -> None:
    make_recipe("lived")
    assert command("publish", "lived.toml", "--smoke")[0] == 0
    words = ("schedule", "create", "lived.toml", "--smoke", "--cron", "0 3 ? * MON *", "--timezone", "Europe/Berlin")
    code, made, said = command(*words, "--json")
    assert code == 0, said
    deployed = json.loads(made)
    assert deployed["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 2
    assert deployed["Target"]["DeadLetterConfig"]["Arn"].endswith("launcher-schedules-dead")
    assert len(deployed["next"]) == 3
    assert datetime.fromisoformat(deployed["next"][0]).strftime("%a %H:%M") == "Mon 03:00"

    code, _, said = command(*words)
    assert (code, "exists already" in said) == (2, True)
    assert "lived" in command("schedule", "list")[1]
    assert "paused" in command("schedule", "pause", "lived")[1]
    code, _, said = command("schedule", "trigger", "lived")
    assert (code, "schedule resume lived" in said) == (2, True)
    assert "enabled" in command("schedule", "resume", "lived")[1]
    assert "has not fired yet" in command("schedule", "history", "lived")[2]
    code, shown, said = command("schedule", "update", "lived", "--cron", "0 4 ? * MON *")
    assert (code, said) == (0, "lived is updated\n")
    assert shown.splitlines()[1].split("  ") == ["ScheduleExpression", "cron(0 3 ? * MON *)", "cron(0 4 ? * MON *)"]
    assert command("schedule", "delete", "lived")[0] == 0
    code, _, said = command("schedule", "show", "lived")
    assert (code, "There is no schedule 'lived'" in said) == (2, True)


def test_an_update_shows_what_differs_and_keeps_what_it_was_not_asked_to_change(make_recipe, session) -> None:
    recipe = make_recipe("kept")
    publish(make_plan(recipe))
    create_schedule(make_plan(recipe), RARELY, retries=3)
    end = datetime(2099, 1, 1, tzinfo=UTC)
    attach_schedule("kept").put(
        EndDate=end, State="DISABLED", FlexibleTimeWindow={"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5}
    )
    before = attach_schedule("kept").params

    unchanged = plan_update("kept", make_plan(recipe))
    assert unchanged.differences == ()

    change = plan_update("kept", make_plan(make_recipe("kept", **{"lora.r": 4})), expression="rate(2 days)")
    shown = {key: (old, new) for key, old, new in change.differences}
    assert shown.pop("ScheduleExpression") == (RARELY, "rate(2 days)")
    assert shown.pop("request.HyperParameters.lora_r") == ("16", "4")
    assert set(shown) == {"request.HyperParameters.recipe_digest"}
    assert attach_schedule("kept").expression == RARELY

    after = change.apply().params
    assert json.loads(after["Target"]["Input"])["HyperParameters"]["lora_r"] == "4"
    for key in ("EndDate", "State", "FlexibleTimeWindow", "ScheduleExpressionTimezone", "Description"):
        assert after[key] == before[key]
    assert after["Target"]["RetryPolicy"] == before["Target"]["RetryPolicy"]


def test_a_schedule_that_is_not_there_is_named_with_its_neighbour(make_recipe) -> None:
    recipe = make_recipe("neighbour")
    publish(make_plan(recipe))
    create_schedule(make_plan(recipe), RARELY)
    with pytest.raises(UnknownJob) as refused:
        attach_schedule("neighbuor")
    assert refused.value.hint == "Did you mean neighbour?"


def _stop_all(session: Session, name: str) -> None:
    for summary in iter_jobs_of(session, name):
        with suppress(RunError):  # it is over
            Job(summary["TrainingJobName"], session).stop()


def test_triggers_at_once_make_one_job(make_recipe, session) -> None:
    recipe = make_recipe("twice")
    publish(make_plan(recipe))
    create_schedule(make_plan(recipe), RARELY)
    words = [sys.executable, "-m", "launcher", "schedule", "trigger", "twice", "--place", "local"]
    started = [
        subprocess.Popen(words, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    done = [(process.communicate(timeout=120), process.returncode) for process in started]
    _stop_all(session, "twice")
    assert sorted(code for _, code in done) == [0, 2], done
    ((_, refusal),) = [texts for texts, code in done if code == 2]
    assert "has a live job" in refusal
    assert len(list(iter_jobs_of(session, "twice"))) == 1


def test_trigger_waits_for_its_turn_where_the_recipe_says_queue(make_recipe, session) -> None:
    recipe = make_recipe("patient", **{"schedule.when_busy": "queue"})
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    first, said = schedule.trigger(), []

    def end_it(seconds: float) -> None:
        _stop_all(session, "patient")
        threading.Event().wait(0.1)

    second = schedule.trigger(said.append, sleep=end_it)
    _stop_all(session, "patient")
    assert second.name != first.name
    assert said == [f"waiting for {first.name} to end; Ctrl-C gives up the place in the queue"]
    assert first.status.is_over


def test_rows_that_vanished_are_named_before_a_job_is_made(make_recipe, session) -> None:
    recipe = make_recipe("vanished")
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    s3.delete_object(session, BUCKET, "launcher/current/vanished/eval.manifest")
    with pytest.raises(RunError, match="no eval rows") as refused:
        schedule.trigger()
    assert "launcher publish" in refused.value.hint
    assert not find_live_job(session, "vanished")


@pytest.mark.parametrize(
    ("lost", "words", "fix"),
    [
        ("current/{name}/publication.json", "publication.json is gone", "launcher publish"),
        ("data/train/{digest}/train.jsonl", "train.jsonl of the publication .* is gone", "ublish that data again"),
        ("source/", "which .* trains with, is gone", "launcher schedule update"),
    ],
)
def test_what_a_job_mounts_is_looked_for_before_one_is_made(make_recipe, session, lost, words, fix) -> None:
    name = f"lost-{lost.partition('/')[0]}"
    recipe = make_recipe(name)
    published = publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    check_mounts(session, schedule.request, name)
    wanted = lost.format(name=name, digest=published.channels["train"]["prefix"].split("/")[-2])
    if lost == "source/":
        wanted = json.loads(schedule.request["HyperParameters"]["sagemaker_submit_directory"]).partition("launcher/")[2]
    s3.delete_object(session, BUCKET, f"launcher/{wanted}")
    with pytest.raises(InputError, match=words) as refused:
        schedule.trigger()
    assert fix in refused.value.hint
    # what is sent again is there again, though the schedule is the same
    publish(make_plan(recipe))
    assert plan_update(name, make_plan(recipe)).apply().params == schedule.params
    check_mounts(session, schedule.request, name)


def test_a_bucket_that_was_deleted_is_named(make_recipe, session, monkeypatch) -> None:
    """On the road to AWS: role, queue and bucket of one's own, through a standard endpoint."""
    for name, value in {
        "AWS_ENDPOINT_URL": session.service_url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    session.client("s3").create_bucket(Bucket="short-lived")
    asked = {"compute.instance": "ml.g5.xlarge", "compute.role": "r", "output.bucket": "short-lived"}
    plan = make_plan(make_recipe("bucketless", **asked))
    publish(plan)
    role, queue = "arn:aws:iam::123456789012:role/r", "arn:aws:sqs:us-east-1:123456789012:q"
    with pytest.raises(SiteError, match="bootstrap --schedules"):
        create_schedule(plan, RARELY)
    find_home(open_session("local"))  # its group is what the stack would have made
    schedule = create_schedule(plan, RARELY, role=role, queue=queue)
    assert schedule.session.place == "aws"
    for key in list(s3.iter_keys(session, "short-lived", "")):
        s3.delete_object(session, "short-lived", key)
    session.client("s3").delete_bucket(Bucket="short-lived")
    with pytest.raises(SiteError, match="short-lived") as refused:
        schedule.trigger()
    assert "bucket must exist" in refused.value.hint
