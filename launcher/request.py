"""make_request(plan, site): the CreateTrainingJob request, the one truth for `plan --json`, submit and schedules."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from container_src.sft import config as sft
from launcher import images
from launcher.compute import volume_key
from launcher.data.channels import Channel
from launcher.plan import Plan, wait_s
from launcher.signal_shim import ENTRYPOINT

ENTRY_POINT = "train.py"
ISOLATED_BUNDLE = "/opt/ml/input/data/code/sourcedir.tar.gz"
TOOLKIT_LOG_LEVEL = 30  # at 20 the toolkit prints its whole environment, 200 lines, before the first line of ours
METRICS = {
    "train:loss": "loss",
    "train:learning_rate": "learning_rate",
    "train:grad_norm": "grad_norm",
    "train:mean_token_accuracy": "mean_token_accuracy",
    "train:tokens_per_second": "tokens_per_second",
    "train:samples_per_second": "samples_per_second",
    "train:steps_per_second": "steps_per_second",
    "eval:loss": "eval_loss",
    "eval:mean_token_accuracy": "eval_mean_token_accuracy",
}


@dataclass(frozen=True)
class Site:
    """Where a plan is carried out: an account, its region, its bucket, the role a job assumes."""

    account: str
    region: str
    bucket: str
    role: str


def make_request(plan: Plan, site: Site) -> dict[str, Any]:
    recipe, compute = plan.recipe, plan.recipe.compute
    request: dict[str, Any] = {
        "TrainingJobName": plan.job_name,
        "AlgorithmSpecification": _algorithm(plan, site),
        "RoleArn": site.role,
        "InputDataConfig": [_channel(channel, plan, site) for channel in plan.channels],
        "OutputDataConfig": {"S3OutputPath": s3_uri(plan, site, "output").rstrip("/")},
        "ResourceConfig": _resources(plan),
        "StoppingCondition": {"MaxRuntimeInSeconds": compute.max_runtime_s},
        "HyperParameters": _hyperparameters(plan, site),
        "CheckpointConfig": {"S3Uri": checkpoint_uri(plan, site), "LocalPath": "/opt/ml/checkpoints"},
        "ProfilerConfig": {"DisableProfiler": True},
        "Tags": [{"Key": "launcher:run", "Value": plan.run}, {"Key": "launcher:recipe", "Value": recipe.name}],
    }
    if recipe.output.kms_key:
        request["OutputDataConfig"]["KmsKeyId"] = recipe.output.kms_key
    if compute.spot:
        request["EnableManagedSpotTraining"] = True
        request["StoppingCondition"]["MaxWaitTimeInSeconds"] = wait_s(recipe)
    return request | _network(plan, site, request["InputDataConfig"])


def _resources(plan: Plan) -> dict[str, Any]:
    compute = plan.recipe.compute
    resources: dict[str, Any] = {"InstanceCount": compute.count, "VolumeSizeInGB": compute.volume_gb}
    if len(compute.instances) > 1:
        resources["InstancePreferences"] = [{"InstanceType": name} for name in compute.instances]
    else:
        resources["InstanceType"] = compute.instance
    if key := volume_key(compute, plan.recipe.output.kms_key):
        resources["VolumeKmsKeyId"] = key
    if compute.keep_alive_s:
        resources["KeepAlivePeriodInSeconds"] = compute.keep_alive_s
    return resources


def _network(plan: Plan, site: Site, channels: list[dict[str, Any]]) -> dict[str, Any]:
    compute = plan.recipe.compute
    network: dict[str, Any] = {}
    if compute.subnets:
        network["VpcConfig"] = {
            "Subnets": list(compute.subnets),
            "SecurityGroupIds": list(compute.security_groups),
        }
    if compute.encrypt_traffic:
        network["EnableInterContainerTrafficEncryption"] = True
    if compute.network_isolation:
        network["EnableNetworkIsolation"] = True
        # without a network the toolkit cannot fetch the bundle itself
        network["InputDataConfig"] = [*channels, _s3_channel("code", s3_uri(plan, site, plan.source_key))]
    return network


def s3_uri(plan: Plan, site: Site, key: str) -> str:
    return f"s3://{site.bucket}/{full_key(plan, key)}"


def full_key(plan: Plan, key: str) -> str:
    prefix = plan.recipe.output.prefix.strip("/")
    return f"{prefix}/{key}" if prefix else key


def channel_uri(channel: Channel, plan: Plan, site: Site) -> str:
    return channel.s3_uri or s3_uri(plan, site, channel.key)


def checkpoint_uri(plan: Plan, site: Site) -> str:
    return plan.checkpoints or s3_uri(plan, site, plan.checkpoint_key)


def image_uri(plan: Plan, site: Site) -> str:
    return images.make_uri(plan.image, site.region) if plan.image else plan.recipe.image.uri


def _algorithm(plan: Plan, site: Site) -> dict[str, Any]:
    algorithm: dict[str, Any] = {
        "TrainingImage": image_uri(plan, site),
        "TrainingInputMode": "File",
        "MetricDefinitions": [
            {"Name": name, "Regex": rf"\[metrics\].* {key}=([0-9.eE+-]+)"} for name, key in METRICS.items()
        ],
        "EnableSageMakerMetricsTimeSeries": True,
    }
    if plan.recipe.compute.signal_shim:
        algorithm["ContainerEntrypoint"] = list(ENTRYPOINT)
    return algorithm


def _channel(channel: Channel, plan: Plan, site: Site) -> dict[str, Any]:
    return _s3_channel(channel.name, channel_uri(channel, plan, site))


def _s3_channel(name: str, uri: str) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": uri,
                "S3DataDistributionType": "FullyReplicated",
            }
        },
    }


def _hyperparameters(plan: Plan, site: Site) -> dict[str, str]:
    """JSON-encoded, as the training toolkit decodes them. One-letter keys and lists never occur in the schema."""
    values: dict[str, Any] = {
        **sft.encode(_without_channel_defaults(plan.config)),
        "sagemaker_program": ENTRY_POINT,
        "sagemaker_submit_directory": ISOLATED_BUNDLE
        if plan.recipe.compute.network_isolation
        else s3_uri(plan, site, plan.source_key),
        "sagemaker_container_log_level": TOOLKIT_LOG_LEVEL,
        "sagemaker_job_name": plan.job_name,
        "sagemaker_region": site.region,
    }
    if plan.is_distributed:
        values["sagemaker_torch_distributed_enabled"] = True
        values["sagemaker_instance_type"] = plan.recipe.compute.instance
    return {key: json.dumps(value) for key, value in values.items()}


def _without_channel_defaults(config: sft.TrainConfig) -> sft.TrainConfig:
    """Paths that are the container's own stay out of the request: empty values are not sent."""
    defaults = {
        item.name: ""
        for item in dataclasses.fields(config)
        if item.name.endswith(("_path", "_dir"))
        and getattr(config, item.name) == item.default
        and item.name != "model_name_or_path"
    }
    return dataclasses.replace(config, **defaults)  # type: ignore[arg-type]
