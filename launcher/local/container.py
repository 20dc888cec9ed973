"""The inside of a training container, on this machine: the /opt/ml tree, the environment, the command."""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Document = dict[str, Any]

CHANNELS = "/opt/ml/input/data"
BUNDLE_HYPERPARAMETER = "sagemaker_submit_directory"
DEFAULT_CHECKPOINT_PATH = "/opt/ml/checkpoints"

# The user's own variables stay outside; these find programs, certificates, devices and the model cache.
INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "HF_HOME",
    "HF_HUB_CACHE",
    # The way to the Hub, by which the launcher has found the model before the job was started.
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
)

# AWS's images have a bash without a trap as PID 1, which the kernel shields from SIGTERM: no child sees it.
# The trap that does nothing plays the kernel's part, and unlike an ignored signal is not inherited.
DEFAULT_ENTRYPOINT = ("/bin/bash", "-c", 'trap : TERM; eval "$@"; exit $?', "bash")
DEFAULT_ARGUMENTS = ("train",)
LINK_PREFIX = "launcher-job-"


@dataclass(frozen=True)
class Tree:
    """What is /opt/ml in a container."""

    base: Path

    @property
    def config(self) -> Path:
        return self.base / "input" / "config"

    @property
    def model(self) -> Path:
        return self.base / "model"

    @property
    def output(self) -> Path:
        return self.base / "output"

    @property
    def output_data(self) -> Path:
        return self.output / "data"

    @property
    def failure(self) -> Path:
        return self.output / "failure"

    @property
    def temporary(self) -> Path:
        return self.base / "tmp"

    def channel(self, name: str) -> Path:
        return self.base / "input" / "data" / name

    def checkpoints(self, document: Document) -> Path | None:
        """The folder that is synchronised; None when the request names a path outside /opt/ml."""
        path = document.get("CheckpointConfig", {}).get("LocalPath", DEFAULT_CHECKPOINT_PATH)
        parts = Path(path).parts
        if parts[:3] != ("/", "opt", "ml") or len(parts) < 4 or ".." in parts:
            return None
        return self.base.joinpath(*parts[3:])


def make_tree(base: Path) -> Tree:
    """The folders, but `code`: the toolkit leaves the bundle packed when it finds something there."""
    tree = Tree(base)
    for folder in (tree.config, base / "input" / "data", tree.model, tree.output_data, tree.temporary):
        folder.mkdir(parents=True)
    (base / "checkpoints").mkdir()
    return tree


def write_config(tree: Tree, document: Document, bundle: Path | None) -> None:
    """The three files that the toolkit reads. The bundle's address becomes its path on this machine."""
    hyperparameters = dict(document.get("HyperParameters", {}))
    if bundle:
        # From here the toolkit unpacks a local file and needs no endpoint, which may be gone by then.
        hyperparameters[BUNDLE_HYPERPARAMETER] = json.dumps(str(bundle))
    _write_json(tree.config / "hyperparameters.json", hyperparameters)
    _write_json(tree.config / "inputdataconfig.json", _describe_channels(document))
    _write_json(tree.config / "resourceconfig.json", _describe_host(document))


def find_bundle_uri(document: Document) -> str | None:
    """The s3:// address of sourcedir.tar.gz; the SDK sends hyperparameters as JSON, others as they are.

    A job in network isolation names the file in a channel instead, which is fetched from where the channel lies.
    """
    value = document.get("HyperParameters", {}).get(BUNDLE_HYPERPARAMETER, "").strip('"')
    for channel in document.get("InputDataConfig", ()):
        if value.startswith(f"{CHANNELS}/{channel['ChannelName']}/"):
            value = channel["DataSource"].get("S3DataSource", {}).get("S3Uri", "")
    return value if value.startswith("s3://") else None


def wait_left_s(document: Document) -> float:
    """What is left of MaxWaitTimeInSeconds, which counts a spot job's waiting and running together."""
    limit_s: float = document.get("StoppingCondition", {}).get("MaxWaitTimeInSeconds", math.inf)
    return float(document["CreationTime"]) + limit_s - time.time()


def make_command(document: Document) -> list[str]:
    algorithm = document["AlgorithmSpecification"]
    arguments = algorithm.get("ContainerArguments", ())
    if entrypoint := algorithm.get("ContainerEntrypoint"):
        return [*entrypoint, *arguments]
    return [*DEFAULT_ENTRYPOINT, *(arguments or DEFAULT_ARGUMENTS)]


def make_environment(
    tree: Tree, document: Document, endpoint_url: str, temporary: Path, own: Mapping[str, str]
) -> dict[str, str]:
    """Defaults, then the request's Environment, then what the toolkit cannot do without."""
    environment = _image_defaults()
    environment |= {name: own[name] for name in own if name in INHERITED or name.startswith("LC_")}
    environment |= document.get("Environment", {})
    if document.get("EnableNetworkIsolation"):
        environment["HF_HUB_OFFLINE"] = "1"
    environment |= _job_identity(document)
    environment |= _toolkit_needs(tree, temporary)
    environment |= _road_to_endpoint(endpoint_url, environment)
    environment["PATH"] = _path_with_toolkit_first(environment)
    return environment


def _image_defaults() -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "UTF-8",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        # One host, which need not be able to look up its own name.
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _job_identity(document: Document) -> dict[str, str]:
    region = document["TrainingJobArn"].split(":")[3]
    return {
        "TRAINING_JOB_NAME": document["TrainingJobName"],
        "TRAINING_JOB_ARN": document["TrainingJobArn"],
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
    }


def _toolkit_needs(tree: Tree, temporary: Path) -> dict[str, str]:
    return {
        "SAGEMAKER_BASE_DIR": str(tree.base),
        # As the PyTorch images set it: without it a failure has no text and torch_distributed is ignored.
        "SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main",
        # Else the toolkit tries for 15 minutes to resolve algo-1.
        "SM_STUDIO_LOCAL_MODE": "true",
        "TMPDIR": str(temporary),
        # A requirements.txt would be installed into the environment that runs this.
        "PIP_NO_INDEX": "1",
    }


def _road_to_endpoint(endpoint_url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Code in the container that speaks to AWS speaks to the endpoint, and never to the user's account."""
    no_proxy = ",".join(filter(None, (environment.get("NO_PROXY"), "127.0.0.1", "localhost")))
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "S3_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def _path_with_toolkit_first(environment: Mapping[str, str]) -> str:
    """`train` and `torchrun` are called by bare name, and must be those of this environment."""
    return os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH") or os.defpath))


def _describe_channels(document: Document) -> dict[str, dict[str, str]]:
    return {channel["ChannelName"]: _describe_channel(channel) for channel in document.get("InputDataConfig", [])}


def _describe_channel(channel: Document) -> dict[str, str]:
    source = channel["DataSource"].get("S3DataSource", {})
    described = {
        "TrainingInputMode": "File",
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": channel.get("RecordWrapperType", "None"),
    }
    if "ContentType" in channel:
        described["ContentType"] = channel["ContentType"]
    return described


def _describe_host(document: Document) -> Document:
    host, group = "algo-1", "homogeneousCluster"
    instance_type = find_instance_type(document)
    return {
        "current_host": host,
        "current_instance_type": instance_type,
        "current_group_name": group,
        "hosts": [host],
        "instance_groups": [{"instance_group_name": group, "instance_type": instance_type, "hosts": [host]}],
        "network_interface_name": "lo",
    }


def find_instance_type(document: Document) -> str:
    """The one asked for, or the first choice where the request has a list of them."""
    resources = document.get("ResourceConfig", {})
    choices = [resources, *resources.get("InstancePreferences", ()), *resources.get("InstanceGroups", ())]
    return next((choice["InstanceType"] for choice in choices if "InstanceType" in choice), "local")


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


@contextmanager
def short_link(folder: Path) -> Iterator[Path]:
    """A short name for a folder: a socket's path inside it may not exceed 107 bytes, and workers of a
    DataLoader make such sockets in TMPDIR."""
    _remove_dead_links()
    link = Path(tempfile.gettempdir(), f"{LINK_PREFIX}{secrets.token_hex(4)}")
    link.symlink_to(folder)
    try:
        yield link
    finally:
        link.unlink(missing_ok=True)


def _remove_dead_links() -> None:
    """Those of runners that were killed, whose folders are gone."""
    for link in Path(tempfile.gettempdir()).glob(f"{LINK_PREFIX}*"):
        if link.is_symlink() and not link.exists():
            with suppress(FileNotFoundError, PermissionError):
                link.unlink()
