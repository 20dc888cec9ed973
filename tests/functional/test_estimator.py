"""The HuggingFace estimator sends our request: in every variant the SDK would have sent the same."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import Stubber

from launcher.aws import estimator
from launcher.aws.session import Session
from launcher.aws.site import LOCAL_SITE
from launcher.errors import CloudError, LauncherError, RunError
from launcher.plan import Plan, make_plan
from launcher.recipe import load_recipe
from launcher.request import make_request

KMS = "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012"
OWN_IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1"
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "spot": {"compute.spot": True},
    "several gpus": {"compute.instance": "ml.g5.12xlarge"},
    "several instances": {"compute.count": 2},
    "older image": {"image.version": "2.5.1"},
    "newer image": {"image.version": "2.11.0"},
    "own image": {"image.uri": OWN_IMAGE},
    "no shim": {"compute.signal_shim": False},
    "key": {"output.kms_key": KMS},
    "key on a disk": {"output.kms_key": KMS, "compute.instance": "ml.p3.2xlarge"},
    "several types": {"compute.instance": "ml.g5.xlarge,ml.g6.xlarge,ml.g6e.xlarge", "output.kms_key": KMS},
    "warm pool": {"compute.keep_alive": "20m"},
    "volume key": {"compute.volume_kms_key": KMS, "compute.instance": "ml.p3.2xlarge"},
    "closed network": {
        "compute.subnets": ["subnet-0123456789abcdef0", "subnet-01234567"],
        "compute.security_groups": "sg-01234567",
        "compute.encrypt_traffic": True,
        "compute.count": 2,
    },
    "isolated": {"compute.network_isolation": True, "model.s3": "s3://models/base"},
    "secret": {"secrets.hf_token": "hub-token"},
    "unquantised": {"model.load_in_4bit": False},
    "base in s3": {"model.s3": "s3://models/base"},
    "no prefix": {"output.prefix": ""},
}


def make(overrides: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
    plan = make_plan(load_recipe("qwen2.5-1.5b-medical", overrides), "mine", now=datetime(2026, 1, 2, tzinfo=UTC))
    return plan, make_request(plan, LOCAL_SITE)


@pytest.fixture
def session() -> Session:
    return Session("aws", "us-east-1", credentials=("key", "secret"))


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_sdk_would_send_the_same_and_ours_goes_out(session: Session, overrides: dict[str, Any]) -> None:
    plan, request = make(overrides)
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{plan.job_name}"
    with Stubber(session.client("sagemaker")) as stubber:
        stubber.add_response("create_training_job", {"TrainingJobArn": arn}, expected_params=request)
        estimator.start_job(plan, LOCAL_SITE, request, session)
        stubber.assert_no_pending_responses()


def test_any_difference_stops_the_submit(session: Session) -> None:
    plan, request = make({})
    request["ResourceConfig"]["VolumeSizeInGB"] = 7
    with Stubber(session.client("sagemaker")), pytest.raises(LauncherError, match="VolumeSizeInGB: ours 7") as caught:
        estimator.start_job(plan, LOCAL_SITE, request, session)
    assert caught.value.exit_code == 1


def test_what_aws_refuses_is_explained(session: Session) -> None:
    plan, request = make({})
    limit = "The account-level limit 'ml.g5.xlarge for training job usage'"
    with Stubber(session.client("sagemaker")) as stubber, pytest.raises(CloudError, match=limit) as caught:
        stubber.add_client_error("create_training_job", "ResourceLimitExceeded", limit)
        estimator.start_job(plan, LOCAL_SITE, request, session)
    assert "Service Quotas" in caught.value.hint


def test_importing_the_sdk_leaves_no_trace(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    import sys

    hook = sys.excepthook
    estimator.preload()
    plan, request = make({})
    with Stubber(session.client("sagemaker")) as stubber:
        arn = "arn:aws:sagemaker:us-east-1:123456789012:training-job/x"
        stubber.add_response("create_training_job", {"TrainingJobArn": arn})
        estimator.start_job(plan, LOCAL_SITE, request, session)
    assert sys.excepthook is hook
    assert capfd.readouterr() == ("", "")


def test_what_the_sdk_refuses_is_an_error_of_ours_and_starts_nothing(session: Session) -> None:
    plan, request = make({})
    compute = dataclasses.replace(plan.recipe.compute, instances=("ml.m5.xlarge",))  # as if our own check had a hole
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, compute=compute))
    with Stubber(session.client("sagemaker")), pytest.raises(RunError, match="refuses this job: Unsupported") as caught:
        estimator.start_job(plan, LOCAL_SITE, request, session)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.exit_code == 2
