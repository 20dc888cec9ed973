"""What the last job of a run means for the next submit."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import botocore.session
import pytest
from botocore.stub import Stubber

from launcher.aws.session import Session
from launcher.aws.site import LOCAL_SITE
from launcher.errors import RunError
from launcher.job import Status, make_status
from launcher.plan import Plan, make_plan
from launcher.recipe import load_recipe
from launcher.request import checkpoint_uri
from launcher.runs import Previous, decide, has_checkpoint


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(load_recipe("qwen2.5-1.5b-medical"), "mine", now=datetime(2026, 1, 2, tzinfo=UTC))


def previous(plan: Plan, status: Status, **changes: str) -> Previous:
    same = Previous(
        name="mine-20260101-000000",
        status=status,
        recipe_digest=plan.config.recipe_digest,
        data_digest=plan.config.data_digest,
        checkpoints="s3://b/launcher/checkpoints/mine/20260101-000000/",
    )
    return dataclasses.replace(same, **changes)


def test_a_first_submit_starts(plan: Plan) -> None:
    assert decide(plan, None, fresh=False, has_checkpoint=False).action == "start"


@pytest.mark.parametrize("status", [status for status in Status if not status.is_over])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_live_job_refuses_the_submit_even_afresh(plan: Plan, status: Status, fresh: bool) -> None:
    with pytest.raises(RunError, match="has a live job: mine-20260101-000000") as caught:
        decide(plan, previous(plan, status), fresh=fresh, has_checkpoint=True)
    assert "launcher stop mine-20260101-000000" in caught.value.hint


@pytest.mark.parametrize("status", [Status.STOPPED, Status.FAILED])
def test_an_unfinished_checkpoint_of_the_same_is_gone_on_with(plan: Plan, status: Status) -> None:
    decision = decide(plan, previous(plan, status), fresh=False, has_checkpoint=True)
    assert decision.action == "resume"
    assert decision.previous is not None
    resumed = plan.resuming(decision.previous.checkpoints)
    assert checkpoint_uri(resumed, LOCAL_SITE) == decision.previous.checkpoints
    assert resumed.job_name == plan.job_name


@pytest.mark.parametrize(("field", "word"), [("recipe_digest", "the recipe"), ("data_digest", "the data")])
def test_an_unfinished_checkpoint_of_another_recipe_or_data_is_refused(plan: Plan, field: str, word: str) -> None:
    before = previous(plan, Status.STOPPED, **{field: "other"})
    with pytest.raises(RunError, match=f"{word} changed since") as caught:
        decide(plan, before, fresh=False, has_checkpoint=True)
    assert "--fresh" in caught.value.hint
    assert decide(plan, before, fresh=True, has_checkpoint=True).action == "start"


def test_a_job_that_left_no_checkpoint_is_started_again(plan: Plan) -> None:
    decision = decide(plan, previous(plan, Status.FAILED, data_digest="other"), fresh=False, has_checkpoint=False)
    assert decision.action == "start"


def test_a_finished_run_says_so_unless_something_changed(plan: Plan) -> None:
    finished = decide(plan, previous(plan, Status.COMPLETED), fresh=False, has_checkpoint=True)
    assert finished.action == "finished"
    assert "is finished" in finished.why
    changed = decide(plan, previous(plan, Status.COMPLETED, data_digest="other"), fresh=False, has_checkpoint=True)
    assert (changed.action, "the data changed" in changed.why) == ("start", True)


def test_states_aws_has_not_thought_of_yet_are_unknown() -> None:
    assert make_status({"TrainingJobStatus": "InProgress", "SecondaryStatus": "Teleporting"}) is Status.UNKNOWN
    assert make_status({"TrainingJobStatus": "Failed", "SecondaryStatus": "Teleporting"}) is Status.FAILED


def test_every_state_in_botocores_model_is_known() -> None:
    import botocore.session

    shapes = botocore.session.get_session().get_service_model("sagemaker")
    for secondary in shapes.shape_for("SecondaryStatus").enum:
        primary = {"Completed": "Completed", "Failed": "Failed", "Stopped": "Stopped"}.get(secondary, "InProgress")
        if secondary in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
            primary = "Stopped"
        status = make_status({"TrainingJobStatus": primary, "SecondaryStatus": secondary})
        assert status is not Status.UNKNOWN, secondary


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ((), False),
        (("outcome.json",), False),
        (("tmp-checkpoint-5/checkpoint-5/complete.json",), False),
        (("checkpoint-5/adapter_model.safetensors",), False),
        (("outcome.json", "checkpoint-5/adapter_model.safetensors", "checkpoint-5/complete.json"), True),
    ],
)
def test_only_a_finished_save_is_a_checkpoint(plan: Plan, left: tuple[str, ...], found: bool) -> None:
    session = Session("aws", "us-east-1")
    client = botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    session._clients["s3"] = client
    prefix = "launcher/checkpoints/mine/20260101-000000/"
    with Stubber(client) as stub:
        contents = [{"Key": prefix + name, "Size": 1} for name in left]
        stub.add_response("list_objects_v2", {"Contents": contents}, {"Bucket": "b", "Prefix": prefix})
        assert has_checkpoint(session, previous(plan, Status.FAILED)) is found


SAME_RESULT = (
    {"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": 8},
    {"training.save_total_limit": 1, "training.save_steps": 7, "training.logging_steps": 3},
    {"training.gradient_checkpointing": True, "training.fast_step": "off"},
    {"training.report_to": "tensorboard", "output.adapter_folder": "lora_adapters"},
    {"training.per_device_eval_batch_size": 1},
)
OTHER_RESULT = (
    {"training.per_device_train_batch_size": 1},
    {"training.learning_rate": 1e-5},
    {"data.max_length": 512},
)


def plan_with(settings: dict[str, object]) -> Plan:
    return make_plan(load_recipe("qwen2.5-1.5b-medical", settings), "mine", now=datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize("settings", SAME_RESULT)
def test_what_does_not_change_the_result_does_not_keep_a_run_from_going_on(
    plan: Plan, settings: dict[str, object]
) -> None:
    before = previous(plan, Status.FAILED)
    assert decide(plan_with(settings), before, fresh=False, has_checkpoint=True).action == "resume"


@pytest.mark.parametrize("settings", OTHER_RESULT)
def test_what_changes_the_result_does(plan: Plan, settings: dict[str, object]) -> None:
    with pytest.raises(RunError, match="the recipe changed since"):
        decide(plan_with(settings), previous(plan, Status.FAILED), fresh=False, has_checkpoint=True)
