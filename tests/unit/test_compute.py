"""What may stand together in [compute], and what the plan says of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from launcher.aws.shapes import check_request, load_service
from launcher.aws.site import LOCAL_SITE
from launcher.compute import MAX_RUNTIME_S, NVIDIA, drop_without_quota
from launcher.errors import RecipeError
from launcher.images import image_named, make_uri
from launcher.instances import INSTANCES
from launcher.plan import Plan, make_plan
from launcher.recipe import load_recipe
from launcher.recipe_sections import Compute
from launcher.request import ISOLATED_BUNDLE, make_request

KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
NETWORK = {"compute.subnets": "subnet-01234567", "compute.security_groups": "sg-01234567"}


def plan_with(**overrides: Any) -> Plan:
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    return make_plan(load_recipe("qwen2.5-1.5b-medical", given), "mine", now=datetime(2026, 1, 2, tzinfo=UTC))


def in_compute(**keys: Any) -> dict[str, Any]:
    return {f"compute.{key}": value for key, value in keys.items()}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (in_compute(instance="ml.g5.xlarge,ml.g5.xlarge"), "each of them once"),
        (in_compute(instance=[f"ml.g{n}.xlarge" for n in range(6)]), "has 6 types; AWS takes up to 5"),
        (in_compute(instance="ml.g5.xlarge,ml.g6.xlarge", spot=True), "on demand only, never for spot"),
        (in_compute(instance="ml.g5.xlarge,ml.g6.12xlarge"), "ml.g6.12xlarge has 4 GPUs and ml.g5.xlarge has 1"),
        (in_compute(instance="ml.g5.xlarge,ml.g99.xlarge"), "lists ml.g99.xlarge, whose GPUs are not known"),
        (in_compute(instance="ml.g5.xlarge,local"), "'local', which is not a SageMaker instance type"),
        (in_compute(instance=[]), "'', which is not a SageMaker instance type"),
        (
            {**in_compute(instance="ml.p3.2xlarge,ml.g5.xlarge"), "output.kms_key": KEY},
            "ml.g5.xlarge brings its own disk and the others do not",
        ),
        (in_compute(spot=True, max_runtime="2h", max_wait="1h"), "less than the 7200 s of max_runtime"),
        (in_compute(max_wait="1h"), "for spot jobs only"),
        (in_compute(on_demand_after_wait=True), "for spot jobs only"),
        (in_compute(spot=True, keep_alive="20m"), "Spot capacity cannot be kept alive"),
        (in_compute(keep_alive="7h"), "lives at most 21,600 s"),
        (in_compute(keep_alive=-1), "is -1 s"),
        (in_compute(subnets="subnet-01234567"), "compute.security_groups is empty"),
        (in_compute(security_groups="sg-01234567"), "compute.subnets is empty"),
        (in_compute(subnets="vpc-01234567", security_groups="sg-01234567"), "'vpc-01234567', which is not the id"),
        (in_compute(subnets="subnet-01234567", security_groups=["sg-01234567"] * 6), "6 ids; AWS takes up to 5"),
        (in_compute(volume_kms_key=KEY), "ml.g5.xlarge brings its own encrypted disk"),
        (in_compute(count=0), "compute.count is 0"),
        *[
            (in_compute(instance=name), f"compute.instance is {name}, which has no NVIDIA GPU")
            for name in ("ml.t3.medium", "ml.m5.xlarge", "ml.trn1.2xlarge", "ml.inf2.xlarge", "ml.c7i-flex.large")
        ],
        (in_compute(instance="ml.g5.xlarge,ml.m5.xlarge"), "ml.m5.xlarge, which has no NVIDIA GPU"),
        (in_compute(instance="ml.p2.xlarge"), "ml.p2.xlarge, which cannot run this training: CUDA 12"),
        (in_compute(instance="ml.p6e-gb200.36xlarge"), "ml.p6e-gb200.36xlarge, which cannot run this training: its pr"),
        (in_compute(instance="ml.g6.4xlarge", volume_kms_key=KEY), "ml.g6.4xlarge brings its own encrypted disk"),
        (in_compute(max_runtime="60d"), "compute.max_runtime is 5,184,000 s; SageMaker runs a job for at most 28 days"),
    ],
)
def test_what_cannot_stand_together_is_refused_with_a_fix(given: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("qwen2.5-1.5b-medical", given)
    assert says in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("version", ["2.9.0", "2.11.0"])
def test_a_gpu_that_the_image_has_no_kernels_for_is_refused_before_it_is_billed(version: str) -> None:
    image = image_named(version)
    for given in ({"image.version": version}, {"image.uri": make_uri(image, "eu-west-1")}):
        for types in ("ml.p3.2xlarge", "ml.g5.xlarge,ml.p3.2xlarge"):
            with pytest.raises(RecipeError, match=f"{version} cannot run on ml.p3.2xlarge: .* the V100") as caught:
                load_recipe("qwen2.5-1.5b-medical", {**in_compute(instance=types), **given})
            assert 'image.version = "2.5.1"' in caught.value.hint
        load_recipe("qwen2.5-1.5b-medical", {**in_compute(instance="ml.g4dn.xlarge"), **given})
    load_recipe("qwen2.5-1.5b-medical", in_compute(instance="ml.p3.2xlarge"))
    own = {"image.uri": "000000000000.dkr.ecr.eu-west-1.amazonaws.com/mine:1"}
    load_recipe("qwen2.5-1.5b-medical", {**in_compute(instance="ml.p3.2xlarge"), **own})


def test_every_type_of_aws_with_an_nvidia_gpu_passes_and_28_days_do() -> None:
    types = load_service("sagemaker").shape_for("TrainingInstanceType").enum
    refused = {name.split(".")[1] for name in types if not NVIDIA.match(name)}
    assert {name[0] for name in refused} == set("cmrt")  # processors alone, and Trainium
    assert {"ml.g5.xlarge", "ml.g7e.2xlarge", "ml.p6-b200.48xlarge"} <= {name for name in types if NVIDIA.match(name)}
    assert load_recipe("qwen2.5-1.5b-medical", in_compute(max_runtime="28d")).compute.max_runtime_s == MAX_RUNTIME_S


def test_of_every_type_of_aws_with_an_nvidia_gpu_it_is_known_what_it_holds() -> None:
    types = load_service("sagemaker").shape_for("TrainingInstanceType").enum
    assert {name for name in types if NVIDIA.match(name)} == set(INSTANCES)
    for known in INSTANCES.values():
        assert known.gpus in (1, 2, 4, 8) or known.useless
        assert 12 <= known.gpu_memory_gb < 300 and known.memory_gb >= 16
        # of them all only p2 and p3 (but for p3dn) have no disk of their own
        assert known.nvme or known.gpu in ("K80", "V100")


@pytest.mark.parametrize(
    ("instance", "gpus"),
    [("ml.p6-b200.48xlarge", 8), ("ml.g6.24xlarge", 4), ("ml.g7e.12xlarge", 2), ("ml.g6.16xlarge", 1)],
)
def test_a_job_has_as_many_processes_as_its_instance_has_gpus(instance: str, gpus: int) -> None:
    plan = plan_with(compute__instance=instance, output__kms_key=KEY)
    request = make_request(plan, LOCAL_SITE)
    check_request(request)
    assert plan.gpus == gpus
    assert ("sagemaker_torch_distributed_enabled" in request["HyperParameters"]) == (gpus > 1)
    assert "VolumeKmsKeyId" not in request["ResourceConfig"]  # a disk of its own, for which AWS refuses one
    assert not any("not known" in note for note in plan.notes)


def test_a_type_that_nobody_knows_says_what_it_may_waste_and_gets_no_key_by_guess() -> None:
    plan = plan_with(compute__instance="ml.g99.xlarge", output__kms_key=KEY)
    assert "VolumeKmsKeyId" not in make_request(plan, LOCAL_SITE)["ResourceConfig"]
    gpus, disk = (note for note in plan.notes if "not known here" in note)
    assert gpus.startswith("how many GPUs ml.g99.xlarge has") and "all of them are billed" in gpus
    assert "compute.volume_kms_key" in disk
    named = plan_with(compute__instance="ml.g99.xlarge", output__kms_key=KEY, compute__volume_kms_key=KEY)
    assert make_request(named, LOCAL_SITE)["ResourceConfig"]["VolumeKmsKeyId"] == KEY
    on_p3 = plan_with(compute__instance="ml.p3.2xlarge", output__kms_key=KEY)
    assert make_request(on_p3, LOCAL_SITE)["ResourceConfig"]["VolumeKmsKeyId"] == KEY


def test_several_types_go_out_as_preferences_in_their_order() -> None:
    plan = plan_with(compute__instance="ml.g6.xlarge, ml.g5.xlarge")
    request = make_request(plan, LOCAL_SITE)
    check_request(request)
    assert request["ResourceConfig"] == {
        "InstanceCount": 1,
        "VolumeSizeInGB": 100,
        "InstancePreferences": [{"InstanceType": "ml.g6.xlarge"}, {"InstanceType": "ml.g5.xlarge"}],
    }
    assert dict(plan.rows())["instance"] == "ml.g6.xlarge (1 x L4 of 24 GB), else ml.g5.xlarge"
    assert any("first of ml.g6.xlarge, ml.g5.xlarge" in note for note in plan.notes)


@pytest.mark.parametrize("types", ["ml.g5.xlarge", "ml.g5.xlarge,ml.g6.xlarge"])
def test_a_shown_recipe_says_the_types_as_they_were_given(types: str) -> None:
    recipe = load_recipe("qwen2.5-1.5b-medical", {"compute.instance": types})
    assert recipe.value("compute.instance") == types


def test_a_type_without_quota_enough_is_dropped_and_an_unknown_quota_is_not_one() -> None:
    compute = Compute(instances=("ml.g5.xlarge", "ml.g6.xlarge", "ml.g6e.xlarge"), count=2)
    kept, dropped = drop_without_quota(compute, {"ml.g5.xlarge": 1, "ml.g6.xlarge": 2})
    assert (kept, dropped) == (("ml.g6.xlarge", "ml.g6e.xlarge"), ("ml.g5.xlarge",))


def test_a_warm_pool_is_asked_for_and_its_cost_is_said() -> None:
    plan = plan_with(compute__keep_alive="20m")
    assert make_request(plan, LOCAL_SITE)["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 1200
    assert any("1,200 s more are billed" in note for note in plan.notes)


def test_a_closed_network_is_in_the_request_and_traffic_of_one_instance_is_noted() -> None:
    plan = plan_with(**NETWORK, **in_compute(encrypt_traffic=True))
    request = make_request(plan, LOCAL_SITE)
    assert request["VpcConfig"] == {"Subnets": ["subnet-01234567"], "SecurityGroupIds": ["sg-01234567"]}
    assert request["EnableInterContainerTrafficEncryption"] is True
    assert any("this job has one" in note for note in plan.notes)


def test_an_isolated_job_gets_its_code_as_a_channel() -> None:
    plan = plan_with(compute__network_isolation=True, model__s3="s3://models/base")
    request = make_request(plan, LOCAL_SITE)
    check_request(request)
    channels = {item["ChannelName"]: item["DataSource"]["S3DataSource"]["S3Uri"] for item in request["InputDataConfig"]}
    assert channels["code"].endswith("/sourcedir.tar.gz")
    assert channels["model"] == "s3://models/base/"
    assert request["HyperParameters"]["sagemaker_submit_directory"] == f'"{ISOLATED_BUNDLE}"'


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (NETWORK, "these subnets must lead to huggingface.co, else use model.s3"),
        ({"model.s3": "s3://other/base"}, "reads only launcher/ of its bucket, not s3://other/base/"),
        ({"model.adapter": "s3://b/team/a/", "output.prefix": "/team/b/"}, "reads only team/b/ of its bucket"),
    ],
)
def test_what_the_job_must_reach_is_noted(given: dict[str, Any], says: str) -> None:
    assert any(says in note for note in plan_with(**given).notes)
    assert not any(says in note for note in plan_with(**given, **{"compute.instance": "local"}).notes)


@pytest.mark.parametrize(
    "given",
    [
        {},
        NETWORK | {"model.s3": "s3://launcher-123456789012-eu-west-1/launcher/models/base"},
        NETWORK | {"model.smoke": True},
        {"model.s3": "s3://other/base", "compute.role": "mine"},
        {"model.s3": "s3://mine/base", "output.prefix": ""},
    ],
)
def test_and_not_where_it_can_reach_it(given: dict[str, Any]) -> None:
    assert not any("huggingface.co" in note or "reads only" in note for note in plan_with(**given).notes)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "cuts the job off from the Hub"),
        ({"model.s3": "s3://models/base", "secrets.hf_token": "hub"}, "cuts the job off from Secrets Manager"),
    ],
)
def test_isolation_with_the_hub_or_a_secret_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        plan_with(compute__network_isolation=True, **given)
    assert "model.s3" in caught.value.hint


def test_isolation_leaves_nothing_to_install_from(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("einops\n")
    with pytest.raises(RecipeError, match="nothing to install"):
        plan_with(
            compute__network_isolation=True,
            model__s3="s3://models/base",
            code__files=[str(tmp_path / "requirements.txt")],
        )


def test_neither_where_it_runs_nor_the_secrets_name_makes_another_recipe(write_rows: Callable[..., Path]) -> None:
    plain = plan_with()
    other = plan_with(secrets__hf_token="hub", compute__keep_alive="20m", **NETWORK)
    assert plain.config.recipe_digest == other.config.recipe_digest
