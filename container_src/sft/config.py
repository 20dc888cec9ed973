"""The one schema of a training job's hyperparameters; stdlib only, since the launcher reads it too.

Every field is one hyperparameter, one command-line option of train.py and one key of a recipe. A field's `section` and
`key` say where a recipe writes it: `lora_r` is `r` in `[lora]`, `learning_rate` is itself in `[training]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

CHANNEL_ROOT = "/opt/ml/input/data"
LORA_TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


class ConfigError(ValueError):
    """A hyperparameter that cannot be used; the message names it and says what would do."""


def _in(section: str, default: Any, help: str, key: str | None = None) -> Any:
    return field(default=default, metadata={"section": section, "key": key, "help": help})


@dataclass(frozen=True)
class TrainConfig:
    """Flat and scalar, because SageMaker passes each field as one string in argv."""

    # model
    model_name_or_path: str = _in("model", "Qwen/Qwen2.5-1.5B", "Hub id or folder of the base model", key="id")
    model_revision: str = _in("model", "", "Hub revision of the base model; empty for the newest", key="revision")
    model_family: str = _in(
        "model", "", "a model whose shape a stand-in copies, when id is not known offline", key="family"
    )
    load_in_4bit: bool = _in("model", True, "quantise the frozen base to 4 bits (QLoRA)")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = _in("model", "nf4", "4-bit data type")
    bnb_4bit_use_double_quant: bool = _in("model", True, "quantise the quantisation constants too")
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = _in(
        "model",
        "auto",
        "arithmetic of the frozen base; auto takes bfloat16 where the GPU has it, else float16, on a CPU float32",
    )
    allow_unquantised: bool = _in(
        "model", False, "where 4 bits cannot be had on a GPU, load the base unquantised and say so, instead of failing"
    )
    smoke: bool = _in("model", False, "train a small, randomly initialised stand-in of the same family")
    # data
    train_data_path: str = _in("job", f"{CHANNEL_ROOT}/train", "folder or file of training rows")
    eval_data_path: str = _in("job", f"{CHANNEL_ROOT}/eval", "folder or file of evaluation rows")
    test_data_path: str = _in("job", f"{CHANNEL_ROOT}/test", "folder or file of rows for the final evaluation")
    adapter_path: str = _in("job", f"{CHANNEL_ROOT}/adapter", "adapter to continue from, if the folder exists")
    base_model_path: str = _in("job", f"{CHANNEL_ROOT}/model", "base model from a channel, if the folder exists")
    publication_path: str = _in("job", f"{CHANNEL_ROOT}/publication", "which publication the rows are, if it exists")
    champion_path: str = _in("job", f"{CHANNEL_ROOT}/champion", "the recipe's champion, if the folder exists")
    max_length: int = _in("data", 1024, "tokens a row may have; longer rows are cut and counted")
    loss_on: Literal["auto", "all", "completion"] = _in(
        "data", "auto", "tokens that are trained; auto is completion where a row has one, else all of the text"
    )
    padding: Literal["longest", "max_length"] = _in(
        "data", "longest", "pad a batch to its longest row or to max_length"
    )
    pad_token: str = _in("data", "", "token used for padding; empty for the tokenizer's own, else its end token")
    # lora
    lora_r: int = _in("lora", 16, "rank of the adapters", key="r")
    lora_alpha: int = _in("lora", 32, "scale of the adapters", key="alpha")
    lora_dropout: float = _in("lora", 0.05, "dropout before the adapters", key="dropout")
    lora_target_modules: str = _in(
        "lora", LORA_TARGETS, "comma-separated modules that get an adapter", key="target_modules"
    )
    lora_bias: Literal["none", "all", "lora_only"] = _in("lora", "none", "which biases are trained", key="bias")
    # training
    per_device_train_batch_size: int = _in("training", 2, "rows a GPU sees at once")
    per_device_eval_batch_size: int = _in(
        "training", 4, "rows a GPU evaluates at once; where steps are fast, rows are packed instead"
    )
    gradient_accumulation_steps: int = _in("training", 4, "micro-batches in one optimizer step")
    learning_rate: float = _in("training", 2e-4, "peak learning rate")
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup", "polynomial"] = _in(
        "training", "cosine", "shape of the learning rate"
    )
    warmup_ratio: float = _in("training", 0.0, "share of the steps that warm up")
    warmup_steps: int = _in("training", 0, "steps that warm up; wins over warmup_ratio")
    num_train_epochs: float = _in("training", 1.0, "passes over the training rows when max_steps is -1")
    max_steps: int = _in("training", -1, "optimizer steps; -1 to go by epochs")
    optim: Literal["paged_adamw_32bit", "paged_adamw_8bit", "adamw_torch", "adamw_8bit"] = _in(
        "training", "paged_adamw_32bit", "optimizer"
    )
    weight_decay: float = _in("training", 0.0, "decoupled weight decay")
    max_grad_norm: float = _in("training", 0.3, "gradients are clipped to this norm")
    gradient_checkpointing: bool = _in("training", False, "recompute activations: slower steps, far less memory")
    fast_step: Literal["auto", "on", "off"] = _in(
        "training",
        "auto",
        "a step's rows packed into one, with fused kernels and CUDA graphs; auto on GPUs from Ampere on, where the "
        "architecture is known, on also on a CPU; the step's arithmetic is the same",
    )
    logging_steps: int = _in("training", 10, "steps between metric lines")
    eval_strategy: Literal["steps", "epoch", "no"] = _in("training", "steps", "when to evaluate")
    eval_steps: int = _in("training", 50, "steps between evaluations")
    load_best_model_at_end: bool = _in(
        "training", False, "keep the adapter with the lowest eval loss instead of the last"
    )
    early_stopping_patience: int = _in(
        "training", 0, "stop after so many evaluations without a lower eval loss; 0 for never"
    )
    early_stopping_threshold: float = _in("training", 0.0, "by how much the eval loss must fall to count as lower")
    save_strategy: Literal["steps", "epoch"] = _in("training", "steps", "when to save a checkpoint")
    save_steps: int = _in("training", 100, "steps between checkpoints")
    save_total_limit: int = _in("training", 3, "checkpoints kept")
    seed: int = _in("training", 42, "seed of initialisation, order and dropout")
    report_to: Literal["none", "tensorboard"] = _in("training", "none", "also write TensorBoard files to the output")
    hf_token_secret: str = _in(
        "secrets",
        "",
        "secret in AWS Secrets Manager with the Hub token of a gated model; the request holds its name alone",
        key="hf_token",
    )
    adapter_folder: str = _in("output", "", "folder of the artifact that holds the adapter a second time")
    # schedule
    promote: Literal["by-hand", "if-better"] = _in(
        "schedule", "by-hand", "if-better: a scheduled job makes its own adapter the champion when it is better"
    )
    guards: str = _in(
        "schedule", "token_accuracy,base_loss", "comma-separated measures that must not get worse, or none"
    )
    notify_topic: str = _in("schedule", "", "SNS topic that a scheduled job tells its verdict")
    # set by the launcher for each job
    output_dir: str = _in("job", "/opt/ml/model", "where the adapter goes")
    checkpoint_dir: str = _in("job", "/opt/ml/checkpoints", "where checkpoints go")
    max_runtime_s: int = _in("job", 0, "seconds after which SageMaker ends the job; 0 when it will not")
    recipe_name: str = _in("job", "", "name of the recipe, for the manifest")
    recipe_digest: str = _in("job", "", "digest of everything in the recipe that changes the result")
    data_digest: str = _in("job", "", "digest of all channels together")
    source_digest: str = _in("job", "", "digest of the bundle")
    start_digest: str = _in("job", "", "digests of the channels that training starts from: model, adapter")
    adapter_source: str = _in("job", "", "where the adapter to continue from lay, for the manifest")
    git_revision: str = _in("job", "", "revision of the checkout that submitted")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _check_type(item.name, getattr(self, item.name), type_of(item.name))
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be above 0")
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be 0 or more")
        self._check_together()

    def _check_together(self) -> None:
        if self.max_steps == 0 or self.max_steps < -1:
            raise ConfigError(f"max_steps is {self.max_steps}; use a number of steps, or -1 to go by num_train_epochs")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout is {self.lora_dropout}; it must be at least 0 and below 1")
        if not 0 <= self.warmup_ratio <= 1:
            raise ConfigError(f"warmup_ratio is {self.warmup_ratio}; it must lie between 0 and 1")
        if self.eval_strategy == "no" and (self.load_best_model_at_end or self.early_stopping_patience):
            raise ConfigError(
                'eval_strategy is "no", but load_best_model_at_end and early_stopping_patience go by the eval loss'
            )
        if self.adapter_folder and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.adapter_folder):
            raise ConfigError(f"adapter_folder is {self.adapter_folder!r}; it must be the plain name of a folder")
        if self.adapter_folder.lower() in ARTIFACT_FOLDERS or self.adapter_folder.lower().endswith(ARTIFACT_SUFFIXES):
            raise ConfigError(
                f"adapter_folder is {self.adapter_folder!r}, which may be the name of something else in the artifact; "
                "use another, such as lora_adapters"
            )
        self._check_rate()
        if self.max_length < 2:
            raise ConfigError(
                f"max_length is {self.max_length}; a row's first token is never trained, so use 2 or more"
            )
        if not self.target_modules:
            raise ConfigError("lora_target_modules is empty; name at least one module, such as q_proj")
        if unknown := set(self.guarded) - set(GUARDS):
            raise ConfigError(f"guards names {', '.join(sorted(unknown))}; use {', '.join(GUARDS)}, or none")
        if self.notify_topic and not TOPIC.fullmatch(self.notify_topic):
            raise ConfigError(
                f"notify_topic is {self.notify_topic!r}; it must be the ARN of a standard topic, such as "
                "arn:aws:sns:eu-central-1:123456789012:my-topic"
            )

    def _check_rate(self) -> None:
        if self.seed > SEED_LIMIT:
            raise ConfigError(f"seed is {self.seed}; it must be at most {SEED_LIMIT}, the largest that numpy takes")
        if self.lr_scheduler_type == "polynomial" and self.learning_rate <= POLYNOMIAL_END:
            raise ConfigError(
                f"learning_rate is {self.learning_rate}; lr_scheduler_type = polynomial ends at {POLYNOMIAL_END}, so "
                "it must be above that"
            )
        if self.lr_scheduler_type == "constant" and (self.warmup_steps or self.warmup_ratio):
            asked = "warmup_steps" if self.warmup_steps else "warmup_ratio"
            raise ConfigError(
                f"{asked} is {getattr(self, asked)}, but lr_scheduler_type = constant never warms up; use "
                "constant_with_warmup, or leave the warm-up out"
            )

    def find_doubt(self, steps: int) -> str:
        """What is allowed in a job of so many steps (-1: nobody knows yet) and hardly meant, or ""."""
        if not self.warmup_steps > steps > 0:
            return ""
        return (
            f"warmup_steps is {self.warmup_steps}, and the job has {steps} steps: the learning rate never reaches "
            f"{self.learning_rate:g}"
        )

    @property
    def target_modules(self) -> list[str]:
        return [name.strip() for name in self.lora_target_modules.split(",") if name.strip()]

    @property
    def guarded(self) -> list[str]:
        return [name.strip() for name in self.guards.split(",") if name.strip() not in ("", "none")]

    @property
    def effective_batch_size(self) -> int:
        """Rows in one optimizer step on one GPU."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")
GUARDS = ("token_accuracy", "base_loss")
# Sections that say where a job runs and what becomes of its adapter, and keys that say what a job says, keeps or needs
# on its way: none of them changes what is trained, so an unfinished run goes on under others.
NOT_SHAPING = (
    "job", "schedule", "secrets", "output",
    "training.per_device_eval_batch_size", "training.gradient_checkpointing", "training.fast_step",
    "training.logging_steps", "training.report_to",
    "training.save_strategy", "training.save_steps", "training.save_total_limit",
)  # fmt: skip
# Names in the artifact that are not the recipe's to give: the stand-in's base, TensorBoard's files, the tokenizer's.
ARTIFACT_FOLDERS = ("base", "tensorboard", "additional_chat_templates")
ARTIFACT_SUFFIXES = (".json", ".jsonl", ".safetensors", ".jinja", ".txt", ".model", ".md", ".part", ".tiktoken")
SEED_LIMIT = 2**32 - 1
POLYNOMIAL_END = 1e-7
POSITIVE = (
    "lora_r", "lora_alpha", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "learning_rate", "num_train_epochs", "logging_steps", "eval_steps", "save_steps",
    "save_total_limit", "max_grad_norm",
)  # fmt: skip
NOT_NEGATIVE = (
    "warmup_steps", "weight_decay", "seed", "max_runtime_s", "early_stopping_patience", "early_stopping_threshold",
)  # fmt: skip


def type_of(name: str) -> Any:
    """The declared type of a hyperparameter."""
    return _types()[name]


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(TrainConfig)


def section_of(name: str) -> tuple[str, str]:
    """Where a recipe writes this hyperparameter: ("lora", "r") for lora_r."""
    metadata = TrainConfig.__dataclass_fields__[name].metadata
    return metadata["section"], metadata["key"] or name


def find_shaping(config: TrainConfig) -> dict[str, Any]:
    """The settings that change what is trained, as digests take them. Rows in a step count, not how they are split."""
    shaping = {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if is_shaping(item.name)}
    del shaping["per_device_train_batch_size"], shaping["gradient_accumulation_steps"]
    return {**shaping, "effective_batch_size": config.effective_batch_size}


def is_shaping(name: str) -> bool:
    section, key = section_of(name)
    return section not in NOT_SHAPING and f"{section}.{key}" not in NOT_SHAPING


def _check_type(name: str, value: Any, wanted: Any) -> None:
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(get_args(wanted))}")
    elif not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{name} is {value!r}; it must be of type {wanted.__name__}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be a finite number")


def coerce(name: str, value: Any) -> Any:
    """A recipe's or a user's value as this field's type, where that loses nothing: 3 for a float, "true" for a bool."""
    wanted = type_of(name)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and wanted is not str and get_origin(wanted) is not Literal:
        return _parse(name, value, wanted)
    return value


def _parse(name: str, text: str, wanted: Any) -> Any:
    # bools arrive as "True" and numbers as text: SageMaker passes argv strings
    try:
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return wanted(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{name} is {text!r}; it must be of type {wanted.__name__}") from error


def encode(config: TrainConfig) -> dict[str, str | int | float | bool]:
    """The hyperparameters to send: every field whose value is not an empty string."""
    return {name: value for name, value in dataclasses.asdict(config).items() if value != ""}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(message)


def parse_args(argv: list[str]) -> TrainConfig:
    """train.py's command line -> config. Unknown options are refused: a misspelt one would change the result unseen."""
    parser = _Parser(prog="train.py", allow_abbrev=False, description="QLoRA supervised fine-tuning")
    for item in dataclasses.fields(TrainConfig):
        parser.add_argument(f"--{item.name}", default=None, help=item.metadata["help"], metavar="VALUE")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    return TrainConfig(**{name: coerce(name, value) for name, value in given.items()})
