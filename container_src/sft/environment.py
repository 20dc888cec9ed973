"""The process around the training: variables that libraries read when they are imported, and importing them quickly."""

from __future__ import annotations

import gc
import socket
import time
import warnings
from collections.abc import Mapping, MutableMapping
from importlib import import_module, metadata
from pathlib import Path
from urllib.parse import urlsplit

from .config import TrainConfig
from .hub_token import load_hub_token
from .log import say
from .paths import CONTAINER_BASE, Paths

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
)
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
HUB_TIMEOUT_S = 10.0
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
# the root volume of a training host is small; /tmp lies on the instance's own disk
CACHES = {
    "HF_HOME": "/tmp/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",
    "TRITON_CACHE_DIR": "/tmp/triton",
}


def prepare_environment(config: TrainConfig, paths: Paths, environ: MutableMapping[str, str]) -> None:
    """Set what must be set before torch and transformers are imported; what the user set stays."""
    wanted = dict(QUIET)
    if not environ.get("SAGEMAKER_BASE_DIR") and Path(CONTAINER_BASE).is_dir():
        wanted |= CACHES
    if not _needs_hub(config, paths) or not _reaches_hub(environ):
        wanted["HF_HUB_OFFLINE"] = "1"
    else:
        load_hub_token(config, environ)
    if not has_gpu():
        # bitsandbytes compiles its kernels for the CPU otherwise: 2 s of imports, then a C++ compiler
        wanted["TORCHDYNAMO_DISABLE"] = "1"
        if config.smoke:
            # a stand-in's tensors are tiny: more threads only wait for each other, badly so on a busy machine
            wanted["OMP_NUM_THREADS"] = "1"
    if config.report_to == "tensorboard":
        wanted["TENSORBOARD_LOGGING_DIR"] = str(paths.output / "tensorboard")  # newer versions take no argument for it
    for name, value in wanted.items():
        environ.setdefault(name, value)
    _take_one_gpu(environ)


def _needs_hub(config: TrainConfig, paths: Paths) -> bool:
    return not config.smoke and paths.base_model is None and not Path(config.model_name_or_path).is_dir()


def _reaches_hub(environ: Mapping[str, str]) -> bool:
    """Whether the Hub answers. Without a network its client tries each of a model's files again and again: 50 s."""
    hub = urlsplit(environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if any(environ.get(name) for name in PROXIES):
        return True  # only the proxy knows
    try:
        port = hub.port or (443 if hub.scheme == "https" else 80)
        socket.create_connection((hub.hostname, port), timeout=HUB_TIMEOUT_S).close()
    except OSError as error:
        say(f"The Hub does not answer ({error}): only what is cached here can be loaded.")
        return False
    return True


def has_gpu() -> bool:
    """Whether the NVIDIA driver is loaded; torch must not be imported to answer this."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def process_count(environ: MutableMapping[str, str]) -> int:
    return int(environ.get("WORLD_SIZE", "1"))


def _take_one_gpu(environ: MutableMapping[str, str]) -> None:
    """One process drives one GPU. Trainer would spread over all by DataParallel: slow, and another batch size."""
    if process_count(environ) > 1 or not has_gpu():
        return
    visible = environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    environ["CUDA_VISIBLE_DEVICES"] = visible[0]
    if len(visible) > 1:
        say(f"One process uses one GPU: {visible[0]} of {','.join(visible)}. torchrun starts one process for each.")


def import_libraries() -> float:
    """Import everything heavy at once; returns the seconds it took."""
    started = time.monotonic()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    # job.py says it in the job's own words
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    # thousands of modules are made and none is dropped: the collector only walks them again and again (1.5 of 12 s)
    gc.disable()
    try:
        for name in ("torch", "transformers", "peft", "trl"):
            import_module(name)
        import_module(".trainer", package=__package__)
    finally:
        gc.freeze()
        gc.enable()
    return time.monotonic() - started


def library_versions() -> dict[str, str]:
    """What is installed, for the manifest."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
