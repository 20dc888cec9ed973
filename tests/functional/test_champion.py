"""The champion's pointer against the local endpoint: what is lost or damaged, and who wins; no job trains here."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import pytest

from container_src.sft import champion as sft
from container_src.sft.artifact import ADAPTER_FILES
from launcher import create_schedule, find_champion, make_plan, plan_update, publish
from launcher.aws import s3
from launcher.aws.site import LOCAL_SITE
from launcher.errors import ArtifactError, RunError
from launcher.recipe import Recipe
from launcher.retraining.champion import _move, ensure_pointer, list_moves, open_line, roll_back_champion
from launcher.retraining.mounts import check_mounts

BUCKET = LOCAL_SITE.bucket
RARELY = "cron(0 3 1 1 ? 2150)"


def _make_record(recipe: Recipe, job: str, previous: str) -> dict[str, Any]:
    """As a job of this recipe would write it."""
    line, config = open_line(recipe), dataclasses.asdict(make_plan(recipe).config)
    manifest = {name: config[name] for name in ("recipe_name", *sft.SAME_TRAINING)} | {"config": config}
    evaluation = {"evaluated_on": "eval", "rows": 6, "verdict": "better", "sentence": "s", "tuned": {}}
    return sft.make_record(job, line.folder(job), line.pointer, previous, manifest, evaluation, "hand")


def _crown(recipe: Recipe, job: str, **more: Any) -> None:
    """A champion as a job would leave it."""
    line, current = open_line(recipe), find_champion(recipe)
    ensure_pointer(line)
    record = _make_record(recipe, job, current.record["prefix"] if current.job else "") | more
    bucket, folder = s3.split_uri(line.folder(job))
    s3.put_bytes(line.session, json.dumps(record).encode(), bucket, folder + sft.RECORD)
    for name in ADAPTER_FILES:
        s3.put_bytes(line.session, b"content", bucket, folder + name)
    s3.put_bytes(line.session, sft.make_pointer(line.folder(job), list(ADAPTER_FILES)), *line.place)
    name, content = sft.make_move(current.job, job, "hand", "s")
    s3.put_bytes(line.session, content, bucket, s3.split_uri(line.root)[1] + name)


def test_before_the_first_champion_the_pointer_names_a_placeholder(make_recipe, command) -> None:
    recipe = make_recipe("nobody")
    publish(make_plan(recipe))
    create_schedule(make_plan(recipe), RARELY)
    assert find_champion(recipe).check().job == ""
    assert "none yet" in command("champion", "show", "nobody.toml")[1]
    assert "There was no champion yet" in command("champion", "history", "nobody.toml")[2]
    code, _, said = command("champion", "rollback", "nobody.toml")
    assert (code, "no champion to go back from" in said) == (2, True)


def test_a_champion_whose_adapter_was_deleted_is_named_and_left_by_a_rollback(make_recipe, session, command) -> None:
    recipe = make_recipe("damaged")
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    _crown(recipe, "one")
    _crown(recipe, "two")
    for name in ("adapter_model.safetensors", "champion.json"):
        s3.delete_object(session, BUCKET, f"launcher/champions/damaged/two/{name}")
        with pytest.raises(ArtifactError, match="has lost s3://") as refused:
            schedule.trigger()
        assert "champion rollback RECIPE --instance local`" in refused.value.hint
    code, _, said = command("champion", "show", "damaged.toml")
    assert (code, "has lost" in said) == (4, True)
    assert roll_back_champion(recipe).check().job == "one"
    assert roll_back_champion(recipe).check().job == ""
    assert [(move.before, move.after) for move in list_moves(recipe)] == [
        ("one", ""),
        ("two", "one"),
        ("one", "two"),
        ("", "one"),
    ]


def test_of_two_jobs_that_finish_together_one_wins_and_the_other_says_so(
    make_recipe, session, tmp_path, monkeypatch
) -> None:
    recipe = make_recipe("rivals")
    line = open_line(recipe)
    ensure_pointer(line)
    monkeypatch.setenv("AWS_ENDPOINT_URL", session.service_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    import boto3

    mounted = sft.Champion(tmp_path, sft.make_placeholder(line.folder(""), line.pointer))
    boto3.client("s3", region_name="us-east-1")  # making clients is what botocore does not do in two threads at once
    barrier, moves = threading.Barrier(2), {}

    def finish(job: str) -> None:
        output = tmp_path / job
        output.mkdir()
        for name in ADAPTER_FILES:
            (output / name).write_bytes(b"content")
        record = _make_record(recipe, job, "")
        barrier.wait()
        moves[job] = sft.promote(mounted, job, output, record, "better", "us-east-1")

    threads = [threading.Thread(target=finish, args=(job,)) for job in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [job for job, move in moves.items() if move.promoted]
    (loser,) = [job for job in moves if job != winner]
    assert moves[loser].lost == winner
    assert find_champion(recipe).check().job == winner
    # and one that comes later, but was weighed against the same, is told by whom it was beaten
    late = tmp_path / "late"
    late.mkdir()
    record = {**sft.make_placeholder(line.folder("late"), line.pointer), "job": "late"}
    assert sft.promote(mounted, "late", late, record, "better", "us-east-1").lost == winner


def test_a_promotion_that_the_role_forbids_is_reported_and_no_failure(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    mounted = sft.Champion(tmp_path, sft.make_placeholder("s3://b/none/", "s3://b/champion.manifest"))
    move = sft.promote(mounted, "job", tmp_path, {"prefix": "s3://b/job/"}, "better", "us-east-1")
    assert (move.promoted, move.lost) == (False, "")
    assert "champion promote job" in move.problem


def test_a_promotion_whose_answer_was_lost_is_one(make_recipe, session, tmp_path, losing_the_first_answer) -> None:
    recipe = make_recipe("unheard")
    line = open_line(recipe)
    ensure_pointer(line)
    for name in ADAPTER_FILES:
        (tmp_path / name).write_bytes(b"content")
    mounted = sft.Champion(tmp_path, sft.make_placeholder(line.folder(""), line.pointer))
    pointer = sft.make_pointer(line.folder("heard"), list(ADAPTER_FILES))
    etag = find_champion(recipe).etag
    with losing_the_first_answer(session.client("s3"), sft.POINTER):
        assert sft._move_pointer(session.client("s3"), mounted, pointer, etag) == sft.Move(promoted=True)
    assert find_champion(recipe).job == "heard"
    assert sft._move_pointer(session.client("s3"), mounted, sft.make_pointer("s3://b/late/", []), etag).lost == "heard"


def test_a_move_by_hand_whose_answer_was_lost_is_one(make_recipe, losing_the_first_answer) -> None:
    recipe = make_recipe("unheard-by-hand")
    _crown(recipe, "one")
    _crown(recipe, "two")
    current = find_champion(recipe)
    line = current.line
    with losing_the_first_answer(line.session.client("s3"), sft.POINTER):
        _move(line, current, "one", sft.make_pointer(line.folder("one"), list(ADAPTER_FILES)), "hand", "s")
    assert find_champion(recipe).check().job == "one"
    with pytest.raises(RunError, match="it is one now"):
        _move(line, current, "three", sft.make_pointer(line.folder("three"), []), "hand", "s")


def test_of_hands_that_make_one_job_champion_at_once_one_does(make_recipe) -> None:
    recipe = make_recipe("many-hands")
    _crown(recipe, "one")
    _crown(recipe, "two")
    current = find_champion(recipe)
    line, pointer = current.line, sft.make_pointer(current.line.folder("one"), list(ADAPTER_FILES))
    _move(line, current, "one", pointer, "hand", "s")
    with pytest.raises(RunError, match="one is the champion already"):
        _move(line, current, "one", pointer, "hand", "s")
    assert len([move for move in list_moves(recipe) if move.before == "two"]) == 1


def test_the_champion_of_a_recipe_of_another_name_is_refused_by_every_verb(make_recipe, command) -> None:
    recipe = make_recipe("named")
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    _crown(recipe, "one", recipe_name="Named")
    for verb in ("show", "history", "rollback"):
        code, _, said = command("champion", verb, "named.toml")
        assert (code, "the champion one of the recipe Named, and this one is named" in said) == (2, True), said
        assert "another `name`" in said
    for act in (schedule.trigger, lambda: plan_update("named", make_plan(recipe))):
        with pytest.raises(RunError, match="of the recipe Named"):
            act()


@pytest.mark.parametrize("content", [b"garbage", b"[]", b"{}", b"[1]", b'[{"prefix": 1}]', b"\xff"])
def test_a_damaged_pointer_is_named_and_a_rollback_writes_it_again(make_recipe, session, command, content) -> None:
    recipe = make_recipe("scribbled")
    publish(make_plan(recipe))
    if find_champion(recipe).job != "one":
        _crown(recipe, "one")
    line = open_line(recipe)
    s3.put_bytes(session, content, *line.place)
    code, _, said = command("champion", "show", "scribbled.toml")
    assert (code, "champion.manifest: the pointer holds" in said) == (4, True), said
    with pytest.raises(ArtifactError, match="cannot be read") as refused:
        create_schedule(make_plan(recipe), RARELY)
    assert "champion rollback RECIPE --instance local`" in refused.value.hint
    code, shown, said = command("champion", "rollback", "scribbled.toml")
    assert (code, "one" in shown) == (0, True), said
    assert find_champion(recipe).check().job == "one"


def test_a_deleted_pointer_never_becomes_a_placeholder_while_there_was_a_champion(make_recipe, session) -> None:
    recipe = make_recipe("forgotten")
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    _crown(recipe, "one")
    line = open_line(recipe)
    s3.delete_object(session, *line.place)
    with pytest.raises(ArtifactError, match="The champion one of forgotten has lost s3://.*champion.manifest"):
        schedule.trigger()
    with pytest.raises(ArtifactError, match="champion.manifest"):
        plan_update("forgotten", make_plan(recipe))
    assert s3.find_object(session, *line.place) is None
    assert roll_back_champion(recipe).check().job == "one"


@pytest.mark.parametrize("mend", ["update", "trigger"])
def test_a_deleted_placeholder_is_written_again(make_recipe, session, command, mend) -> None:
    recipe = make_recipe(f"empty-{mend}")
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    line = open_line(recipe)
    for lost in (line.pointer, line.folder("") + sft.RECORD):
        s3.delete_object(session, *s3.split_uri(lost))
        if mend == "update":
            code, _, said = command("schedule", "update", schedule.name, f"{schedule.name}.toml", "--smoke")
            assert (code, "deployed like this already" in said) == (0, True), said
        else:
            check_mounts(session, schedule.request, schedule.name)
        assert s3.find_object(session, *s3.split_uri(lost)), lost
    assert find_champion(recipe).check().job == ""


def test_a_rollback_passes_over_a_champion_that_no_job_could_load(make_recipe, session, command) -> None:
    recipe = make_recipe("hollow")
    for job in ("one", "two", "three"):
        _crown(recipe, job)
    line = open_line(recipe)
    s3.delete_object(session, *s3.split_uri(line.folder("two") + "adapter_model.safetensors"))
    code, shown, said = command("champion", "rollback", "hollow.toml")
    assert code == 0, said
    assert "two is passed over: it has lost s3://" in said
    assert find_champion(recipe).check().job == "one"
    # one that the pointer names without its adapter is none, whoever wrote that
    s3.put_bytes(session, sft.make_pointer(line.folder("two"), ["adapter_config.json"]), *line.place)
    with pytest.raises(ArtifactError, match="two of hollow has lost .*adapter_model.safetensors"):
        find_champion(recipe).check()


def test_a_champion_of_another_base_is_refused_when_a_schedule_is_made_changed_or_triggered(make_recipe) -> None:
    recipe = make_recipe("rebased")
    publish(make_plan(recipe))
    schedule = create_schedule(make_plan(recipe), RARELY)
    _crown(recipe, "fits")
    check_mounts(schedule.session, schedule.request, schedule.name)
    _crown(recipe, "one", model="another/base")
    acts = (
        schedule.trigger,
        lambda: plan_update("rebased", make_plan(recipe)),
        lambda: create_schedule(make_plan(recipe), RARELY),
    )
    for act in acts:
        with pytest.raises(RunError, match="trained on another base .model 'another/base'") as refused:
            act()
        assert "another `name`" in refused.value.hint
