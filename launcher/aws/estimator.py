"""Start a job through the SageMaker SDK's HuggingFace estimator. When SDK v2 ends, only this file goes.

The SDK builds a request of its own from the estimator. It is held against ours field by field: the SDK is the second
opinion, and ours is what goes out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from launcher.aws.errors import explained
from launcher.aws.session import Session
from launcher.errors import LauncherError, RunError
from launcher.plan import Plan, wait_s
from launcher.request import ENTRY_POINT, TOOLKIT_LOG_LEVEL, Site, channel_uri, checkpoint_uri, image_uri, s3_uri


def start_job(plan: Plan, site: Site, request: dict[str, Any], session: Session) -> None:
    with _quiet_sdk(), _sdk_refusals(), explained(f"starting job {plan.job_name}"):
        sdk_session = _make_session(session, site, request)
        with _default_session(sdk_session.boto_session):
            estimator = _make_estimator(plan, site, request, sdk_session)
        # The function inside the telemetry: that one sends without a timeout, so that on a network that swallows
        # packets fit() would never return; and opting out by configuration has the SDK validate it 20 times, for 2 s.
        fit = type(estimator).fit.__wrapped__
        fit(estimator, _inputs(plan, site), job_name=plan.job_name, wait=False)


def preload() -> None:
    """Import the SDK; it takes over a second, and a thread can do it while channels are uploaded."""
    with _quiet_sdk():
        import sagemaker.huggingface  # noqa: F401  # only its import is wanted


@contextlib.contextmanager
def _quiet_sdk() -> Iterator[None]:
    """SDK v2 logs to stdout, warns of its own end and replaces sys.excepthook when imported."""
    os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    hook = sys.excepthook
    for name in ("sagemaker", "sagemaker.config"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:  # set before the import, or the SDK adds a handler of its own for stdout
            logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook = hook


@contextlib.contextmanager
def _sdk_refusals() -> Iterator[None]:
    """The SDK has tables of its own of images, types and versions, and says no with a ValueError."""
    try:
        yield
    except ValueError as error:
        raise RunError(
            f"The SageMaker SDK refuses this job: {error}",
            hint="Nothing was started. Change what it names; `launcher recipe show` says where each value came from.",
        ) from error


@contextlib.contextmanager
def _default_session(boto_session: Any) -> Iterator[None]:
    """An estimator makes a client of boto3's default session, whatever session it is given; ours has read the model."""
    import boto3

    before = boto3.DEFAULT_SESSION
    boto3.DEFAULT_SESSION = boto_session
    try:
        yield
    finally:
        boto3.DEFAULT_SESSION = before


def _make_session(session: Session, site: Site, request: dict[str, Any]) -> Any:
    import boto3
    import sagemaker

    class CheckedSession(sagemaker.Session):  # type: ignore[misc]  # the SDK has no types
        """Sends our request where the SDK would send its own, after comparing them."""

        def _initialize(self, boto_session: Any, sagemaker_client: Any, **unused: Any) -> None:
            """As the SDK's local mode does it: the SDK's own makes six clients that training does not use, and reads
            the user's configuration, which could change the request, or validates one for a second."""
            self.boto_session, self._region_name = boto_session, boto_session.region_name
            self.sagemaker_client, self.local_mode = sagemaker_client, False
            self.sagemaker_config: dict[str, Any] = {}

        def _intercept_create_request(self, sdk_request: Any, create: Callable[[Any], Any], func_name: str = "") -> Any:
            check_same_request(ours=request, theirs=sdk_request)
            return self.sagemaker_client.create_training_job(**request)

    return CheckedSession(
        boto_session=boto3.Session(botocore_session=session.botocore, region_name=session.region),
        sagemaker_client=session.client("sagemaker"),
        default_bucket=site.bucket,
    )


def _make_estimator(plan: Plan, site: Site, request: dict[str, Any], sdk_session: Any) -> Any:
    from sagemaker.huggingface import HuggingFace

    compute, output = plan.recipe.compute, plan.recipe.output
    optional: dict[str, Any] = {}
    if plan.image and plan.image.in_sdk:
        optional.update(pytorch_version=plan.image.version, transformers_version=plan.image.transformers)
    else:
        optional.update(image_uri=image_uri(plan, site))
    if compute.spot:
        optional.update(use_spot_instances=True, max_wait=wait_s(plan.recipe))
    if plan.is_distributed:
        optional.update(distribution={"torch_distributed": {"enabled": True}})
    if compute.subnets:
        optional.update(subnets=list(compute.subnets), security_group_ids=list(compute.security_groups))
    if compute.keep_alive_s:
        optional.update(keep_alive_period_in_seconds=compute.keep_alive_s)
    return HuggingFace(
        entry_point=ENTRY_POINT,
        source_dir=s3_uri(plan, site, plan.source_key),
        py_version=plan.image.python if plan.image else None,
        role=site.role,
        instance_type=compute.instance,
        instance_count=compute.count,
        volume_size=compute.volume_gb,
        max_run=compute.max_runtime_s,
        output_path=s3_uri(plan, site, "output").rstrip("/"),
        code_location=s3_uri(plan, site, "source").rstrip("/"),
        checkpoint_s3_uri=checkpoint_uri(plan, site),
        checkpoint_local_path="/opt/ml/checkpoints",
        output_kms_key=output.kms_key or None,
        volume_kms_key=request["ResourceConfig"].get("VolumeKmsKeyId"),
        encrypt_inter_container_traffic=compute.encrypt_traffic,
        enable_network_isolation=compute.network_isolation,
        container_log_level=TOOLKIT_LOG_LEVEL,
        disable_profiler=True,
        debugger_hook_config=False,
        enable_sagemaker_metrics=True,
        sagemaker_session=sdk_session,
        **optional,
        **_from_request(request),
    )


def _from_request(request: dict[str, Any]) -> dict[str, Any]:
    """What both requests take from one place: lists and texts, not decisions."""
    algorithm = request["AlgorithmSpecification"]
    own = {
        key: json.loads(value) for key, value in request["HyperParameters"].items() if not key.startswith("sagemaker_")
    }
    return {
        "hyperparameters": own,
        "metric_definitions": algorithm["MetricDefinitions"],
        "container_entry_point": algorithm.get("ContainerEntrypoint"),
        "tags": request["Tags"],
    }


def _inputs(plan: Plan, site: Site) -> dict[str, Any]:
    from sagemaker.inputs import TrainingInput

    return {channel.name: TrainingInput(channel_uri(channel, plan, site)) for channel in plan.channels}


def check_same_request(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Any difference is a bug: either the SDK would do something else, or we say something it cannot."""
    differences = list(iter_differences(_normal(_first_choice(ours)), _normal(theirs)))
    if differences:
        raise LauncherError(
            "The SageMaker SDK would send another request than the plan shows:\n  " + "\n  ".join(differences),
            hint="Nothing was started. Please report this, with `pip show sagemaker`.",
        )


def iter_differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from iter_differences(ours.get(key), theirs.get(key), f"{where}.{key}" if where else key)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from iter_differences(mine, other, f"{where}[{index}]")
    elif ours != theirs:
        yield f"{where}: ours {ours!r}, the SDK's {theirs!r}"


def _first_choice(request: dict[str, Any]) -> dict[str, Any]:
    """The same request with the first of its instance types alone: SDK v2 cannot name several."""
    resources = dict(request["ResourceConfig"])
    if preferences := resources.pop("InstancePreferences", None):
        resources |= preferences[0]
    return {**request, "ResourceConfig": resources}


def _normal(request: dict[str, Any]) -> dict[str, Any]:
    """Channels and tags are sets to SageMaker, whatever order they stand in."""
    return {
        **request,
        "InputDataConfig": sorted(request.get("InputDataConfig", []), key=lambda channel: str(channel["ChannelName"])),
        "Tags": sorted(request.get("Tags", []), key=lambda tag: str(tag["Key"])),
    }
