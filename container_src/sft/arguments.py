"""The recipe as TRL's arguments, in whatever words the installed version has for them."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import Any

from .config import TrainConfig
from .failure import JobError
from .paths import Paths
from .steps import Schedule

# what other versions call an argument
RENAMED = {
    "max_length": "max_seq_length",
    "eval_strategy": "evaluation_strategy",
    "use_cpu": "no_cuda",
}
# arguments that a version may lack without any change to the result, and why
MAY_LACK = {
    "save_safetensors": "newer ones write nothing else",
    "average_tokens_across_devices": "our step averages by itself",
    "group_by_length": "our dataset sets the order",
    "logging_dir": "newer ones read it from the environment",
    "max_length": "rows come cut already",
    "completion_only_loss": "labels come made already",
    "assistant_only_loss": "labels come made already",
    "padding_free": "our collator pads",
    "loss_type": "our step computes the loss",
    "activation_offloading": "off is the only behaviour of those that lack it",
    "use_liger_kernel": "off is the only behaviour of those that lack it",
}


class VersionError(JobError):
    """The installed libraries cannot do what the recipe asks."""


def make_arguments(config: TrainConfig, schedule: Schedule, paths: Paths, dtype: Any, optimizer: str) -> Any:
    """Every argument that matters, since defaults differ between versions; what our step does itself is turned off."""
    import torch
    import trl

    wanted = {
        "output_dir": str(paths.checkpoints),
        # one batch is one step, see StepDataset
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": config.per_device_eval_batch_size,
        "gradient_accumulation_steps": 1,
        "max_steps": schedule.total,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": schedule.warmup_steps,
        "optim": optimizer,
        "weight_decay": config.weight_decay,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": config.max_grad_norm,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": config.seed,
        "data_seed": config.seed,
        # done by us: checkpointing in load_base, everything after a step in AfterStep
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_safetensors": True,
        "load_best_model_at_end": False,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "log_level": "error",
        "report_to": [config.report_to],
        "logging_dir": str(paths.output / "tensorboard"),
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "group_by_length": False,
        "average_tokens_across_devices": False,
        "auto_find_batch_size": False,
        "label_smoothing_factor": 0.0,
        "neftune_noise_alpha": None,
        "torch_compile": False,
        "use_liger_kernel": False,
        "ddp_find_unused_parameters": False,
        "push_to_hub": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": config.max_length,
        "packing": False,
        "padding_free": False,
        "completion_only_loss": False,
        "assistant_only_loss": False,
        "loss_type": "nll",
        "activation_offloading": False,
    }
    accepted = {item.name for item in dataclasses.fields(trl.SFTConfig)}
    return trl.SFTConfig(**fit_keywords(wanted, accepted))


def choose_optimizer(config: TrainConfig, fast: bool = False, kept: str = "") -> str:
    """The recipe's; bitsandbytes before 0.50 has none of its own for a CPU, and nothing pages there anyway.

    Or `kept`, whose states a checkpoint holds and another cannot read, where a run goes on on another kind of instance.
    Beside a fast step, AdamW in one fused kernel stands in for its paged twin: the same arithmetic on float32 states,
    which are small beside what the step keeps.
    """
    import torch

    if kept:
        return kept if torch.cuda.is_available() else kept.removesuffix("_fused")
    if fast and torch.cuda.is_available() and config.optim in ("paged_adamw_32bit", "adamw_torch"):
        return "adamw_torch_fused"
    if config.optim == "adamw_torch" or torch.cuda.is_available():
        return config.optim
    parts = version("bitsandbytes").split(".")
    return config.optim if (int(parts[0]), int(parts[1])) >= (0, 50) else "adamw_torch"


def fit_keywords(wanted: dict[str, Any], accepted: set[str]) -> dict[str, Any]:
    """The same arguments by the names that this version has; one that changes results is never dropped."""
    fitted = {}
    for name, value in wanted.items():
        known = name if name in accepted else RENAMED.get(name, name)
        if known in accepted:
            fitted[known] = value
        elif name not in MAY_LACK:
            raise VersionError(
                f"trl {version('trl')} with transformers {version('transformers')} has no argument {name}, which "
                "changes the result. Use an image from the launcher's table of known images."
            )
    return fitted
