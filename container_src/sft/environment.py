"""The process around the training: variables that libraries read when they are imported, and importing them quickly."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import MutableMapping
from importlib import import_module, metadata
from pathlib import Path

from .config import TrainConfig
from .log import say
from .paths import CONTAINER_BASE

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


def prepare_environment(config: TrainConfig, environ: MutableMapping[str, str]) -> None:
    """Set what must be set before torch and transformers are imported; what the user set stays."""
    wanted = dict(QUIET)
    if not environ.get("SAGEMAKER_BASE_DIR") and Path(CONTAINER_BASE).is_dir():
        wanted |= CACHES
    if config.smoke:
        wanted["HF_HUB_OFFLINE"] = "1"
    if not has_gpu():
        # bitsandbytes compiles its kernels for the CPU otherwise: 2 s of imports, then a C++ compiler
        wanted["TORCHDYNAMO_DISABLE"] = "1"
        if config.smoke:
            # a stand-in's tensors are tiny: more threads only wait for each other, badly so on a busy machine
            wanted["OMP_NUM_THREADS"] = "1"
    for name, value in wanted.items():
        environ.setdefault(name, value)
    _take_one_gpu(environ)


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
        for name in ("torch", "transformers", "bitsandbytes", "peft", "trl"):
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
