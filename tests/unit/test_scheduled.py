"""A scheduled request: the one that submit sends, within a schedule's limits, and only where a gate can work."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.aws.schedules import Home, make_target
from launcher.aws.session import Session
from launcher.aws.shapes import check_request, find_violations
from launcher.aws.site import LOCAL_SITE, offline_site
from launcher.cli import main, make_parser
from launcher.cli.schedules import make_expression
from launcher.differences import find_differences, shorten
from launcher.errors import InputError, RecipeError, RunError
from launcher.plan import Plan, make_key, make_plan, recipe_key
from launcher.recipe import load_recipe, shipped_recipes
from launcher.request import make_request
from launcher.retraining.champion import Champion, Line, _advise
from launcher.retraining.deployment import check_retries, create_schedule
from launcher.retraining.publication import Shelf, find_lack
from launcher.retraining.schedule import Schedule
from launcher.retraining.scheduled import (
    EXECUTION_ID,
    INPUT_LIMIT,
    SAMPLE_ID,
    check_gate,
    check_name,
    check_rendered,
    make_scheduled_plan,
    render,
    say_reach,
    substitute,
)

HOME = Home("arn:aws:iam::123456789012:role/r", "arn:aws:sqs:us-east-1:123456789012:q")
NOWHERE = Session("local", "us-east-1")


def _plan(name: str = "qwen2.5-1.5b-medical", **overrides: Any) -> Plan:
    return make_plan(load_recipe(name, overrides), "mine")


def _scheduled(plan: Plan, home: Home = HOME) -> Plan:
    site = offline_site(plan.recipe)
    line = Line(NOWHERE, "medical", f"s3://{site.bucket}/launcher/champions/medical/")
    return make_scheduled_plan(plan, "mine", Shelf(NOWHERE, site, plan.recipe), line, home)


def _count_rows(plan: Plan) -> dict[str, int]:
    return {channel.name: channel.rows for channel in plan.channels}


def _leaves(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = [(f"{where}.{key}", part) for key, part in value.items()]
    elif isinstance(value, list):
        names = [
            part.get("ChannelName", number) if isinstance(part, dict) else number for number, part in enumerate(value)
        ]
        parts = [(f"{where}[{name}]", part) for name, part in zip(names, value, strict=True)]
    else:
        return {where: value}
    return {path: leaf for name, part in parts for path, leaf in _leaves(part, name).items()}


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_submit_and_a_firing_send_the_same_but_for_name_checkpoints_and_channels(name: str) -> None:
    plan = _plan(name)
    site = offline_site(plan.recipe)
    submitted = make_request(plan, site)
    fired = substitute(render(_scheduled(plan), site), SAMPLE_ID)
    mine, theirs = _leaves(submitted), _leaves(fired)
    different = {path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path)}
    rows = {f".InputDataConfig[{channel.name}]" for channel in plan.channels}
    expected = {".TrainingJobName", ".HyperParameters.sagemaker_job_name", ".CheckpointConfig.S3Uri"}
    expected |= {f"{row}.DataSource.S3DataSource.{key}" for row in rows for key in ("S3Uri", "S3DataType")}
    added = (".InputDataConfig[publication]", ".InputDataConfig[champion]")
    assert {path for path in different if not path.startswith(added)} == expected
    check_request(fired)


def test_the_execution_id_is_in_the_name_and_in_the_checkpoints() -> None:
    plan = _plan()
    request = render(_scheduled(plan), LOCAL_SITE)
    assert request["TrainingJobName"] == f"mine-{EXECUTION_ID}"
    fired = substitute(request, SAMPLE_ID)
    assert fired["TrainingJobName"] == f"mine-{SAMPLE_ID}"
    assert fired["CheckpointConfig"]["S3Uri"].endswith(f"/checkpoints/mine/{SAMPLE_ID}/")
    assert "<aws.scheduler" not in json.dumps(fired)


def test_rows_are_lists_at_places_that_stay() -> None:
    request = render(_scheduled(_plan()), LOCAL_SITE)
    sources = {part["ChannelName"]: part["DataSource"]["S3DataSource"] for part in request["InputDataConfig"]}
    kinds = {name: source["S3DataType"] for name, source in sources.items()}
    assert kinds == {
        "train": "ManifestFile",
        "eval": "ManifestFile",
        "publication": "S3Prefix",
        "champion": "ManifestFile",
    }
    key = recipe_key(load_recipe("qwen2.5-1.5b-medical"))
    assert sources["train"]["S3Uri"].endswith(f"/current/{key}/train.manifest")


def test_the_input_is_far_within_its_limit_and_the_schedule_is_one_that_aws_takes() -> None:
    request = render(_scheduled(_plan()), LOCAL_SITE)
    target = make_target(HOME, request, 2)
    assert len(target["Input"].encode()) < INPUT_LIMIT / 10
    params = {
        "Name": "mine",
        "ScheduleExpression": "rate(1 day)",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": target,
    }
    assert find_violations("CreateSchedule", params, "scheduler") == []


def test_a_request_too_long_for_a_schedule_is_refused() -> None:
    request = render(_scheduled(_plan()), LOCAL_SITE)
    request["HyperParameters"] |= {f"more_{number}": "x" * 2500 for number in range(30)}
    request["Environment"] = {f"MORE_{number}": "x" * 512 for number in range(48)}
    check_rendered(request)
    request["Tags"] = [{"Key": f"tag{number}", "Value": "ü" * 256} for number in range(50)]
    request["AlgorithmSpecification"]["MetricDefinitions"] = [
        {"Name": f"m{number}", "Regex": "ü" * 500} for number in range(40)
    ]
    with pytest.raises(RecipeError, match="a schedule holds 262,144"):
        check_rendered(request)


def test_a_name_leaves_room_for_the_longest_execution_id() -> None:
    assert len(f"{check_name('a' * 26)}-{SAMPLE_ID}") == 63
    with pytest.raises(RunError, match="26 fit") as refused:
        check_name("a" * 27)
    assert "--name" in refused.value.hint
    with pytest.raises(RunError, match="cannot be part of a job name"):
        check_name("My_Schedule")


def test_who_is_told_comes_from_the_stack_unless_the_recipe_says_so() -> None:
    told = Home(HOME.role, HOME.queue, "arn:aws:sns:us-east-1:123456789012:told")
    assert _scheduled(_plan(), told).config.notify_topic == told.topic
    alone = _plan(**{"compute.network_isolation": True, "model.s3": "s3://b/model/"})
    assert _scheduled(alone, told).config.notify_topic == ""
    mine = _plan(**{"schedule.notify_topic": "arn:aws:sns:us-east-1:123456789012:mine"})
    assert _scheduled(mine, told).config.notify_topic.endswith(":mine")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"data.eval": ""}, "no rows to judge by"), ({"lora.bias": "all"}, "biases")],
)
def test_a_gate_that_could_not_judge_is_refused_before_anything_is_deployed(
    overrides: dict[str, str], words: str
) -> None:
    plan = _plan(**{"schedule.promote": "if-better", **overrides})
    with pytest.raises(RecipeError, match=words):
        check_gate(plan.recipe, _count_rows(plan))


@pytest.mark.parametrize(
    ("rows", "words"),
    [({"train": 60, "eval": 14}, "14 rows of eval"), ({"train": 60, "eval": 60, "test": 14}, "14 rows of test")],
)
def test_too_few_rows_to_judge_by_are_refused_before_anything_is_deployed(rows: dict[str, int], words: str) -> None:
    """The gate would say so at the end of each training, for ever."""
    promoting, said = _plan(**{"schedule.promote": "if-better"}).recipe, []
    with pytest.raises(RecipeError, match=f'"if-better", but {words} are too few to judge by') as refused:
        check_gate(promoting, rows)
    assert "15 rows or more" in refused.value.hint
    check_gate(_plan().recipe, rows, said.append)
    ((line),) = said
    assert f"{words} are too few to judge by: the gate finds no job better" in line
    check_gate(promoting, {name: max(count, 15) for name, count in rows.items()})
    assert find_lack({"train": 60, "eval": 14, "test": 15}) == ""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"data.eval": ""}, "no rows to judge by"), ({"lora.bias": "all"}, "biases")],
)
def test_who_promotes_by_hand_is_told_that_nothing_can_be_promoted(overrides: dict[str, str], words: str) -> None:
    plan, said = _plan(**overrides), []
    check_gate(plan.recipe, _count_rows(plan), said.append)
    ((line),) = said
    assert words in line
    assert "none can be promoted" in line
    check_gate(_plan().recipe, _count_rows(_plan()), said.append)
    assert len(said) == 1


@pytest.mark.parametrize("topic", ["nonsense", "arn:aws:sqs:us-east-1:123456789012:q", "arn:aws:sns::1:t", "my.fifo"])
def test_a_topic_that_is_none_is_refused_by_name(topic: str) -> None:
    with pytest.raises(RecipeError, match="schedule.notify_topic is .*ARN of a standard topic"):
        _plan(**{"schedule.notify_topic": topic})


def test_what_becomes_of_an_adapter_is_no_part_of_the_recipe_digest() -> None:
    one, other = _plan(), _plan(**{"schedule.promote": "if-better", "schedule.guards": "none"})
    assert one.config.recipe_digest == other.config.recipe_digest


def test_a_notice_from_subnets_needs_a_way_to_sns_and_that_is_said() -> None:
    told, said = Home(HOME.role, HOME.queue, "arn:aws:sns:us-east-1:123456789012:told"), []
    placed = {"compute.subnets": "subnet-0123456789abcdef0", "compute.security_groups": "sg-0123456789abcdef0"}
    say_reach(_scheduled(_plan(**placed), told), said.append)
    ((line),) = said
    assert re.search("tells its verdict to .*:told, so its subnets must lead to SNS.* interface endpoint", line)
    for plan, home in ((_plan(**placed), HOME), (_plan(), told)):
        say_reach(_scheduled(plan, home), said.append)
    assert len(said) == 1


def test_an_at_that_is_past_cannot_be_resumed_and_the_fix_can_be_typed() -> None:
    once = Schedule(Session("aws", "us-east-1"), {"Name": "once", "ScheduleExpression": "at(2001-01-01T00:00:00)"})
    with pytest.raises(InputError, match="lies in the past") as refused:
        once.resume()
    assert "`launcher schedule update once --at TIME`" in refused.value.hint


def test_names_that_fold_into_one_have_keys_of_their_own() -> None:
    long = "support-assistant-for-the-german-market-in-production-"
    alike = ["my_recipe", "My-Recipe", "my recipe", "v1.5", "v1_5", "客服", "医療", long + "intents", long + "answers"]
    keys = [make_key(name) for name in [*alike, "my-recipe", "v1-5", "my-run"]]
    assert len(set(keys)) == len(keys)
    assert keys[-3:] == ["my-recipe", "v1-5", "my-run"]
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", key) and len(key) <= 47 for key in keys), keys


def test_values_are_compared_whole_and_shown_around_what_differs() -> None:
    topic = "arn:aws:sns:us-east-1:123456789012:" + "t" * 110
    old, new = ({"Target": {"Input": json.dumps({"told": topic + end})}} for end in ("-staging", "-production"))
    ((key, before, after),) = find_differences(old, new)
    assert (key, before, after) == ("request.told", topic + "-staging", topic + "-production")
    assert shorten(before, after) == ("..." + "t" * 39 + "-staging", "..." + "t" * 39 + "-production")
    assert shorten("x" * 150, "y" + "x" * 150) == ("x" * 120 + "...", "y" + "x" * 119 + "...")
    assert shorten("short", "shorter") == ("short", "shorter")


def test_who_is_not_promoted_is_advised_by_why() -> None:
    nobody = Champion(Line(NOWHERE, "medical", "s3://b/"), {"job": ""}, "")
    refused = {"decision": "refused", "base": {"verdict": "no detectable change"}}
    assert _advise(refused, nobody).startswith("There is no champion yet. More or better data")
    assert _advise(refused, replace(nobody, record={"job": "one"})).startswith("The champion stays one.")
    for verdict in ({"decision": "unjudged"}, {"decision": "refused", "base": {"verdict": "too few rows"}}):
        assert "15 rows or more to judge by" in _advise(verdict, nobody)


def test_a_base_from_a_folder_goes_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    plan = _plan(**{"model.id": str(tmp_path)})
    digest = plan.config.start_digest
    assert digest.startswith("model:")
    request = render(_scheduled(plan), LOCAL_SITE)
    (source,) = [
        channel["DataSource"]["S3DataSource"]
        for channel in request["InputDataConfig"]
        if channel["ChannelName"] == "model"
    ]
    assert source["S3Uri"].endswith(f"/data/model/{digest.partition(':')[2]}/")
    (tmp_path / "config.json").write_text("{ }")
    assert _plan(**{"model.id": str(tmp_path)}).config.start_digest != digest


def test_an_unknown_guard_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="schedule.guards names bleu"):
        load_recipe("tinyllama-chatdoctor", {"schedule.guards": "bleu"})


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        (("--cron", "0 3 ? * MON *"), "cron(0 3 ? * MON *)"),
        (("--rate", "1d"), "rate(1 day)"),
        (("--rate", "90m"), "rate(90 minutes)"),
        (("--at", "2030-01-31T03:00"), "at(2030-01-31T03:00:00)"),
        # as the hints of refused expressions write them
        (("--cron", "cron(0 3 ? * MON *)"), "cron(0 3 ? * MON *)"),
        (("--rate", " rate(12 hours)"), "rate(12 hours)"),
        (("--at", "at(2030-01-31T03:00:00)"), "at(2030-01-31T03:00:00)"),
    ],
)
def test_flags_are_put_into_the_frame_of_aws(words: tuple[str, ...], expression: str) -> None:
    assert make_expression(make_parser().parse_args(["schedule", "create", *words])) == expression


@pytest.mark.parametrize(
    ("expression", "timezone", "words"),
    [
        ("cron(0 3 31 2 ? *)", "UTC", "never fires|no such day|never"),
        ("cron(0 3 * * MON)", "UTC", "five|5 fields|six"),
        ("cron(0 3 ? * MON *)", "Europe/Berln", "no time zone"),
        ("at(2001-01-01T00:00:00)", "UTC", "past|never"),
        ("rate(30 seconds)", "UTC", "seconds"),
    ],
)
def test_a_time_that_never_comes_is_refused_before_anything_is_asked(
    expression: str, timezone: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as refused:
        create_schedule(_plan(), expression, timezone)
    assert refused.value.hint
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--spot",),
        ("--smoke",),
        ("--no-smoke",),
        ("--max-runtime", "2h"),
        ("--max-wait", "3h"),
        ("--max-cost", "5"),
        ("--keep-alive", "10m"),
        ("--train", ""),
        ("--set", "lora.r=8"),
    ],
)
def test_a_flag_of_a_recipe_is_refused_where_an_update_names_none(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schedule", "update", "weekly", *words]) == 2
    assert "Name the schedule, then the recipe." in capsys.readouterr().err


def test_retries_out_of_bounds_are_refused_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    for count in ("0", "7"):
        words = ["schedule", "create", "qwen2.5-1.5b-medical", "--rate", "1d", "--retries", count]
        assert main(words) == 2
        assert f"{count} retries are not between 1 and 3" in capsys.readouterr().err


def test_retries_stay_between_one_and_three() -> None:
    assert [check_retries(count) for count in (1, 2, 3)] == [1, 2, 3]
    with pytest.raises(InputError, match="between 1 and 3"):
        check_retries(4)


def test_a_wrong_clock_and_a_missing_group_are_explained() -> None:
    from launcher.aws.errors import explain

    expired = explain("creating", {"Code": "InvalidSignatureException", "Message": "Signature expired: 2026 is now"})
    assert "clock" in expired.hint
    assert expired.exit_code == 3
    gone = explain(
        "creating", {"Code": "ResourceNotFoundException", "Message": "Schedule group launcher does not exist."}
    )
    assert "bootstrap --schedules" in gone.hint


def test_a_scheduled_job_belongs_to_its_schedule() -> None:
    from launcher.job_names import is_scheduled, run_of

    assert run_of(f"weekly-{SAMPLE_ID}") == "weekly"
    assert run_of("weekly-d32c5kddcf5bb8c3") == "weekly"
    assert run_of("weekly-20260101-030000") == "weekly"
    assert is_scheduled(f"weekly-{SAMPLE_ID}")
    assert not is_scheduled("weekly-20260101-030000")
    assert not is_scheduled(Path("a-very-ordinaryrunname").name)
