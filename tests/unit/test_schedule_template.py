"""infra/schedule.yaml: clean by cfn-lint, and what the launcher and the scheduler look for in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.account.bootstrap import LIMITS
from launcher.account.templates import load_template

TEMPLATE = Path(__file__).parents[2] / "infra" / "schedule.yaml"

EITHER_TOPIC = {"Fn::If": ["MakesTopic", {"Ref": "Notices"}, {"Ref": "NoticeTopicArn"}]}


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    from cfnlint.decode import cfn_yaml

    return dict(cfn_yaml.load(str(TEMPLATE)))


def test_cfn_lint_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run([linter, str(TEMPLATE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_outputs_are_those_that_create_reads(template: dict[str, Any]) -> None:
    assert set(template["Outputs"]) == {"GroupName", "RoleArn", "QueueArn", "TopicArn", "SchedulesPolicyArn"}


def test_the_role_is_trusted_from_the_group_alone_and_may_do_four_things_alone(template: dict[str, Any]) -> None:
    role = template["Resources"]["SchedulerRole"]["Properties"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"]["StringEquals"]["aws:SourceArn"]["Fn::Sub"].endswith(":schedule-group/${GroupName}")
    statements = role["Policies"][0]["PolicyDocument"]["Statement"]
    actions = [statement["Action"] for statement in statements]
    assert actions == ["sagemaker:CreateTrainingJob", "sagemaker:AddTags", "iam:PassRole", "sqs:SendMessage"]
    assert statements[2]["Condition"]["StringEquals"] == {"iam:PassedToService": "sagemaker.amazonaws.com"}


def test_schedules_keep_to_the_limits_of_the_people_who_write_them(template: dict[str, Any]) -> None:
    """Condition for condition; what they evaluate to stands in test_permissions."""
    (own, *_) = template["Resources"]["SchedulerRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    training = load_template("training")
    (theirs, *_) = training["Resources"]["LauncherPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert own["Condition"] == theirs["Condition"]
    for name in LIMITS:
        ours, given = dict(template["Parameters"][name]), dict(training["Parameters"][name])
        assert {**ours, "Description": ""} == {**given, "Description": ""}


def test_a_job_may_tell_of_verdicts_and_nothing_else(template: dict[str, Any]) -> None:
    (statement,) = template["Resources"]["VerdictsPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Action"] == "sns:Publish"
    assert statement["Resource"] == EITHER_TOPIC


def test_people_may_pass_the_scheduler_its_role_and_touch_schedules_of_the_group_alone(
    template: dict[str, Any],
) -> None:
    policy = template["Resources"]["SchedulesPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    schedules, listing, passing, queue = policy
    assert schedules["Resource"]["Fn::Sub"].endswith(":schedule/${GroupName}/*")
    assert listing["Action"] == "scheduler:ListSchedules"
    assert passing["Condition"]["StringEquals"] == {"iam:PassedToService": "scheduler.amazonaws.com"}
    calls = ("GetQueueUrl", "GetQueueAttributes", "ReceiveMessage", "ChangeMessageVisibility")
    assert set(queue["Action"]) == {f"sqs:{call}" for call in calls}  # what history asks, and nothing that removes
    assert queue["Resource"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}


def test_failures_and_dead_letters_reach_the_topic(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    pattern = resources["JobsThatFail"]["Properties"]["EventPattern"]
    assert pattern["detail"]["TrainingJobStatus"] == ["Failed", "Stopped"]
    assert resources["JobsThatFail"]["Properties"]["Targets"][0]["Arn"] == {"Ref": "Notices"}
    alarm = resources["DeadLettersAlarm"]["Properties"]
    assert alarm["AlarmActions"] == [EITHER_TOPIC]
    # by the letters that lie there it would tell of the first alone, for as long as they stay
    assert (alarm["MetricName"], alarm["Statistic"]) == ("NumberOfMessagesSent", "Sum")
    # beside the training stack's topic and rule a second one would tell everything twice
    assert {resources[name]["Condition"] for name in ("Notices", "NoticesPolicy", "JobsThatFail")} == {"MakesTopic"}
