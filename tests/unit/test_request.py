"""The request: valid by botocore's own model, complete, and free of what must not be in it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from container_src.sft.config import parse_args
from launcher.aws import estimator
from launcher.aws.session import Session, check_region
from launcher.aws.shapes import check_request
from launcher.aws.site import LOCAL_SITE, find_site, offline_site
from launcher.errors import InputError, RecipeError, RunError, SiteError
from launcher.images import IMAGES, make_uri
from launcher.plan import Plan, make_plan
from launcher.recipe import load_recipe, shipped_recipes
from launcher.request import make_request

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def plan_with(overrides: dict[str, object] | None = None, name: str = "mine", recipe: str | None = None) -> Plan:
    return make_plan(load_recipe(recipe or "qwen2.5-1.5b-medical", overrides or {}), name, now=NOW)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_makes_a_valid_request(name: str) -> None:
    plan = make_plan(load_recipe(name), now=NOW)
    check_request(make_request(plan, offline_site(plan.recipe)))


def test_the_request_names_the_job_its_channels_and_its_folders() -> None:
    request = make_request(plan_with(), LOCAL_SITE)
    root = f"s3://{LOCAL_SITE.bucket}/launcher"
    assert request["TrainingJobName"] == "mine-20260102-030405"
    uris = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in request["InputDataConfig"]
    }
    assert set(uris) == {"train", "eval"}
    assert uris["train"].startswith(f"{root}/data/train/")
    assert uris["train"].endswith("/")
    assert request["CheckpointConfig"]["S3Uri"] == f"{root}/checkpoints/mine/20260102-030405/"
    assert request["OutputDataConfig"]["S3OutputPath"] == f"{root}/output"


def test_a_changed_eval_set_leaves_the_train_channel_alone(write_rows) -> None:
    first = write_rows("eval.jsonl", [{"text": "one"}])
    before = plan_with({"data.eval": str(first)})
    second = write_rows("eval2.jsonl", [{"text": "two"}])
    after = plan_with({"data.eval": str(second)})
    keys = [{channel.name: channel.key for channel in plan.channels} for plan in (before, after)]
    assert keys[0]["train"] == keys[1]["train"]
    assert keys[0]["eval"] != keys[1]["eval"]


def test_hyperparameters_survive_the_way_to_train_py() -> None:
    plan = plan_with({"lora.r": 8, "training.learning_rate": 3e-4, "model.load_in_4bit": False})
    encoded = make_request(plan, LOCAL_SITE)["HyperParameters"]
    argv: list[str] = []
    for key, value in encoded.items():
        if not key.startswith("sagemaker_"):
            argv += [f"--{key}", str(json.loads(value))]  # as the training toolkit passes them
    assert parse_args(argv) == plan.config


def test_paths_that_are_the_containers_own_are_not_sent() -> None:
    sent = make_request(plan_with(), LOCAL_SITE)["HyperParameters"]
    assert not {"train_data_path", "eval_data_path", "output_dir", "checkpoint_dir", "adapter_path"} & set(sent)


def test_spot_waits_at_least_as_long_as_it_runs() -> None:
    condition = make_request(plan_with({"compute.spot": True}), LOCAL_SITE)["StoppingCondition"]
    assert condition["MaxWaitTimeInSeconds"] >= condition["MaxRuntimeInSeconds"]


def test_the_shim_can_be_turned_off() -> None:
    assert "ContainerEntrypoint" in make_request(plan_with(), LOCAL_SITE)["AlgorithmSpecification"]
    without = make_request(plan_with({"compute.signal_shim": False}), LOCAL_SITE)
    assert "ContainerEntrypoint" not in without["AlgorithmSpecification"]


def test_a_disk_key_is_left_out_where_the_disk_is_the_instances_own() -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    on_nvme = make_request(plan_with({"output.kms_key": key}), LOCAL_SITE)
    on_ebs = make_request(plan_with({"output.kms_key": key, "compute.instance": "ml.p3.2xlarge"}), LOCAL_SITE)
    assert on_nvme["OutputDataConfig"]["KmsKeyId"] == key
    assert "VolumeKmsKeyId" not in on_nvme["ResourceConfig"]
    assert on_ebs["ResourceConfig"]["VolumeKmsKeyId"] == key


def test_several_gpus_keep_the_rows_of_a_step() -> None:
    plan = plan_with({"compute.instance": "ml.g5.12xlarge"})
    assert plan.gpus == 4
    assert plan.config.effective_batch_size * plan.gpus == 8
    assert json.loads(make_request(plan, LOCAL_SITE)["HyperParameters"]["sagemaker_torch_distributed_enabled"]) is True


def test_a_batch_that_cannot_be_split_over_the_gpus_is_refused() -> None:
    with pytest.raises(RecipeError, match="6 rows a step cannot be split evenly over 4 GPUs"):
        plan_with(
            {
                "compute.instance": "ml.g5.12xlarge",
                "training.per_device_train_batch_size": 3,
                "training.gradient_accumulation_steps": 2,
            }
        )


def test_a_job_name_at_the_limit_is_valid_and_one_more_is_refused() -> None:
    plan = plan_with(name="a" * 47)
    assert len(plan.job_name) == 63
    check_request(make_request(plan, LOCAL_SITE))
    with pytest.raises(RunError, match="48 characters"):
        plan_with(name="a" * 48)


@pytest.mark.parametrize("name", ["Mine", "my_run", "-a", "a--b-", "a b", ""])
def test_a_name_aws_would_refuse_is_refused_with_one_that_works(name: str) -> None:
    with pytest.raises(RunError) as caught:
        plan_with(name=name)
    assert plan_with(name=caught.value.hint.rsplit(" ", 1)[1].rstrip(".")).run


def test_a_request_aws_would_refuse_is_refused_with_its_field() -> None:
    request = make_request(plan_with(), LOCAL_SITE)
    request["TrainingJobName"] = "a" * 64
    request["HyperParameters"] = {f"key{index}": "x" for index in range(101)}
    with pytest.raises(InputError) as caught:
        check_request(request)
    assert "trainingJobName" in caught.value.message
    assert "hyperParameters" in caught.value.message


def test_our_image_table_is_the_sdks_in_every_region() -> None:
    estimator.preload()
    from sagemaker import image_uris

    config = image_uris.config_for_framework("huggingface")["training"]["versions"]
    for image in (image for image in IMAGES if image.in_sdk):
        entry = config[image.transformers][f"pytorch{image.version}"]
        for region in entry["registries"]:
            theirs = image_uris.retrieve(
                "huggingface",
                region,
                version=image.transformers,
                py_version=image.python,
                base_framework_version=f"pytorch{image.version}",
                instance_type="ml.g5.xlarge",
                image_scope="training",
                container_version=entry["container_version"]["gpu"],
            )
            assert make_uri(image, region) == theirs


def test_the_git_revision_is_found_only_in_a_checkout(tmp_path: Path) -> None:
    from launcher.plan import find_git_revision

    assert find_git_revision(tmp_path) == ""


def test_a_misspelt_type_is_refused_with_the_one_that_was_meant_and_not_with_all_of_them() -> None:
    with pytest.raises(InputError, match=r"did you mean ml\.g5\.xlarge\?") as caught:
        check_request(make_request(plan_with({"compute.instance": "ml.g5.xlrge"}), LOCAL_SITE))
    assert len(caught.value.message) < 300
    with pytest.raises(InputError, match=r"\[Pipe, File, FastFile\]"):  # a short set is shown
        request = make_request(plan_with(), LOCAL_SITE)
        request["AlgorithmSpecification"]["TrainingInputMode"] = "Flie"
        check_request(request)


def test_a_region_that_is_none_is_refused_before_anything_is_sent() -> None:
    recipe = load_recipe(None, {"compute.region": "eu-wst-1", "compute.instance": "ml.g5.xlarge"})
    for look in (offline_site, lambda recipe: find_site(Session("aws", "eu-wst-1"), recipe)):
        with pytest.raises(SiteError, match="eu-wst-1 is not a region of AWS") as caught:
            look(recipe)
        assert "eu-west-1" in caught.value.hint
    for region in ("ap-southeast-7", "cn-north-1", "us-gov-west-1"):
        check_region(region)
