"""Where a schedule lives: its role, queue and topic, and the rights that its jobs will need at their end."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest
from botocore.stub import ANY, Stubber

from launcher.aws.schedules import STACK, Home, find_home
from launcher.aws.session import Session
from launcher.errors import SiteError
from launcher.recipe import Recipe, load_recipe
from launcher.request import Site
from launcher.retraining.gate_rights import say_rights

HOME = Home("arn:aws:iam::123456789012:role/r", "arn:aws:sqs:us-east-1:123456789012:q")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SITE = Site("123456789012", "us-east-1", "b", "arn:aws:iam::123456789012:role/trainer")
POINTER = "s3://b/launcher/champions/medical/champion.manifest"
TOPIC = "arn:aws:sns:us-east-1:123456789012:mine"
WISHES = {"schedule.promote": "if-better", "schedule.notify_topic": TOPIC}


def _recipe(**overrides: Any) -> Recipe:
    return load_recipe("qwen2.5-1.5b-medical", overrides)


def _iam(decisions: dict[str, str]) -> Any:
    """Simulations in this order, each for one action with its decision; "refused" for a caller who may not ask."""
    client = botocore.session.get_session().create_client(
        "iam", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    stubber = Stubber(client)
    for action, decision in decisions.items():
        if decision == "refused":
            stubber.add_client_error("simulate_principal_policy", "AccessDenied", "no")
            continue
        resource = "arn:aws:s3:::" + POINTER.removeprefix("s3://") if action == "s3:PutObject" else TOPIC
        params = {"PolicySourceArn": SITE.role, "ActionNames": [action], "ResourceArns": [resource]}
        answer = {"EvaluationResults": [{"EvalActionName": action, "EvalDecision": decision}]}
        stubber.add_response("simulate_principal_policy", answer, {**params, "ContextEntries": ANY})
    stubber.activate()
    return client


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ({"s3:PutObject": "implicitDeny", "sns:Publish": "allowed"}, "s3:PutObject on .*bootstrap --promotion"),
        (
            {"s3:PutObject": "allowed", "sns:Publish": "implicitDeny"},
            "sns:Publish on .*:mine.*leave .*notify_topic empty",
        ),
        ({"s3:PutObject": "refused"}, "nobody has looked whether .*trainer may move the champion's pointer"),
    ],
)
def test_a_right_that_the_job_would_lack_at_its_end_is_told_when_a_schedule_is_made(
    decisions: dict[str, str], words: str
) -> None:
    said: list[str] = []
    say_rights(_recipe(**WISHES), SITE, POINTER, HOME, lambda: _iam(decisions), said.append)
    (line,) = said
    assert re.search(words, line), line


def test_rights_are_asked_for_only_where_a_job_needs_them() -> None:
    said: list[str] = []
    allowed = _iam({"s3:PutObject": "allowed", "sns:Publish": "allowed"})
    stacks = Home(HOME.role, HOME.queue, TOPIC)
    say_rights(_recipe(**WISHES), SITE, POINTER, HOME, lambda: allowed, said.append)
    say_rights(_recipe(), SITE, POINTER, HOME, lambda: pytest.fail("asked"), said.append)
    mine = _recipe(**{"schedule.notify_topic": TOPIC})
    say_rights(mine, SITE, POINTER, stacks, lambda: pytest.fail("asked"), said.append)
    assert said == []
    others = Home(HOME.role, HOME.queue, "arn:aws:sns:us-east-1:123456789012:stacks")
    say_rights(mine, SITE, POINTER, others, lambda: _iam({"sns:Publish": "allowed"}), said.append)
    assert said == [f"verdicts go to {TOPIC}; failed jobs and firings that made no job are told to {others.topic}"]


def _session_with(outputs: dict[str, str] | None, refusal: str = "ValidationError") -> Session:
    """One whose CloudFormation answers with these outputs, or that there is no such stack."""
    client = botocore.session.get_session().create_client(
        "cloudformation", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    stubber = Stubber(client)
    if outputs is None:
        words = "Stack with id launcher-schedule does not exist" if refusal == "ValidationError" else "not allowed"
        stubber.add_client_error("describe_stacks", refusal, words)
    else:
        listed = [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()]
        stack = {"StackName": STACK, "CreationTime": NOW, "StackStatus": "CREATE_COMPLETE", "Outputs": listed}
        stubber.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": STACK})
    stubber.activate()
    return Session("aws", "us-east-1", _clients={"cloudformation": client})


def test_role_queue_and_topic_come_from_the_stack_unless_they_are_named() -> None:
    outputs = {"GroupName": "launcher", "RoleArn": "r", "QueueArn": "q", "TopicArn": "t"}
    assert find_home(_session_with(outputs)) == Home("r", "q", "t")
    assert find_home(_session_with(outputs), role="mine") == Home("mine", "q", "t")
    with pytest.raises(SiteError, match="made the group team, and schedules are looked for in launcher") as refused:
        find_home(_session_with({**outputs, "GroupName": "team"}))
    assert "bootstrap --schedules" in refused.value.hint
    del outputs["QueueArn"]
    with pytest.raises(SiteError, match="no output 'QueueArn'"):
        find_home(_session_with(outputs))
    with pytest.raises(SiteError, match="no stack launcher-schedule") as refused:
        find_home(_session_with(None))
    assert "bootstrap --schedules" in refused.value.hint


def test_an_update_tells_the_stack_s_topic_and_keeps_another_only_where_it_cannot_look() -> None:
    """An update brings the role and the queue that are deployed, and the topic that is told by now."""
    own = {"role": "mine", "queue": "too", "told": "old"}
    outputs = {"GroupName": "launcher", "RoleArn": "r", "QueueArn": "q", "TopicArn": "t"}
    assert find_home(_session_with(outputs), **own) == Home("mine", "too", "t")
    # without a stack it was the recipe's own, which has taken it out
    assert find_home(_session_with(None), **own) == Home("mine", "too", "")
    assert find_home(_session_with(None, "AccessDenied"), **own) == Home("mine", "too", "old")
