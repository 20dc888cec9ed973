"""Where a job reads and writes: /opt/ml in a container, SAGEMAKER_BASE_DIR where the same job runs outside one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .config import TrainConfig
from .failure import JobError

CONTAINER_BASE = "/opt/ml"


@dataclass(frozen=True)
class Paths:
    """None for an optional channel that the job was not given."""

    train: Path
    eval: Path | None
    test: Path | None
    adapter: Path | None
    base_model: Path | None
    publication: Path | None
    champion: Path | None
    output: Path
    checkpoints: Path


def base_folder(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("SAGEMAKER_BASE_DIR") or CONTAINER_BASE)


def output_folder(environ: Mapping[str, str]) -> Path:
    """Where the pid and the failure file go; not the model."""
    return base_folder(environ) / "output"


def write_pid(environ: Mapping[str, str]) -> None:
    """The container's entry point forwards SIGTERM to the process that this file names."""
    if environ.get("RANK", "0") == "0":
        folder = output_folder(environ)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pid").write_text(str(os.getpid()), encoding="utf-8")


def resolve_paths(config: TrainConfig, environ: Mapping[str, str]) -> Paths:
    """A path from the recipe wins; a default one may be moved by SageMaker's SM_* variables or the base folder."""

    def channel(field: str, variable: str) -> Path | None:
        path = _resolve(config, field, environ, variable)
        return path if path.exists() else None

    train = _resolve(config, "train_data_path", environ, "SM_CHANNEL_TRAIN")
    if not train.exists():
        raise JobError(
            f"There are no training rows: {train} does not exist. Give the job a train channel or train_data_path."
        )
    return Paths(
        train=train,
        eval=channel("eval_data_path", "SM_CHANNEL_EVAL"),
        test=channel("test_data_path", "SM_CHANNEL_TEST"),
        adapter=channel("adapter_path", "SM_CHANNEL_ADAPTER"),
        base_model=channel("base_model_path", "SM_CHANNEL_MODEL"),
        publication=channel("publication_path", "SM_CHANNEL_PUBLICATION"),
        champion=channel("champion_path", "SM_CHANNEL_CHAMPION"),
        output=_resolve(config, "output_dir", environ, "SM_MODEL_DIR"),
        checkpoints=_resolve(config, "checkpoint_dir", environ, ""),
    )


def _resolve(config: TrainConfig, field: str, environ: Mapping[str, str], variable: str) -> Path:
    value = getattr(config, field)
    if value == TrainConfig.__dataclass_fields__[field].default and environ.get(variable):
        return Path(environ[variable])
    return reroot(value, environ)


def reroot(path: str, environ: Mapping[str, str]) -> Path:
    """/opt/ml/x -> <base>/x; any other path as it is."""
    if path == CONTAINER_BASE or path.startswith(CONTAINER_BASE + "/"):
        return base_folder(environ) / path[len(CONTAINER_BASE) + 1 :]
    return Path(path)
