"""The base model, quantised and frozen, and the adapters on it."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architectures import find_tied, holds_tokenizer
from .config import TrainConfig
from .data import Encoded
from .earlier_adapter import AdapterError, find_doubt, folder_with_adapter, read_adapter, refuse_misfit
from .failure import JobError
from .fast_conditions import choose_arithmetic
from .log import say, warn
from .paths import Paths


class ModelError(JobError):
    """A model, tokenizer or adapter that cannot be used as the recipe asks."""


@dataclass(frozen=True)
class Base:
    """Where the base is loaded from, and by which name the adapter will know it."""

    source: str
    name: str
    revision: str | None = None


def find_base(config: TrainConfig, paths: Paths) -> Base:
    """The base's channel where there is one, else the recipe's folder or Hub id."""
    if paths.base_model is not None:
        return Base(str(_folder_with_config(paths.base_model)), config.model_name_or_path)
    return Base(config.model_name_or_path, config.model_name_or_path, config.model_revision or None)


def _folder_with_config(folder: Path) -> Path:
    found = sorted(folder.rglob("config.json"), key=lambda path: len(path.parts))
    if not found:
        raise ModelError(
            f"The model channel {folder} holds no config.json. Put a saved model's files into it, unpacked."
        )
    return found[0].parent


@contextlib.contextmanager
def _refusals(base: Base) -> Iterator[None]:
    """Say which model it was; the cause is kept and classified."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeError(f"The model {base.source} could not be loaded: {error}") from error


def load_tokenizer(base: Base, config: TrainConfig) -> Any:
    from transformers import AutoTokenizer

    if Path(base.source).is_dir() and not holds_tokenizer(Path(base.source)):
        raise _no_tokenizer(base)
    try:
        with _refusals(base):
            tokenizer = AutoTokenizer.from_pretrained(
                base.source, revision=base.revision or "main", trust_remote_code=False
            )
    except TypeError as error:
        if "NoneType" not in str(error):
            raise
        raise _no_tokenizer(base) from error  # how the library says that it found none of its files
    if tokenizer.eos_token is None:
        raise ModelError(f"The tokenizer of {base.source} has no end token, so the model could not learn to stop.")
    tokenizer.padding_side = "right"
    if config.pad_token:
        tokenizer.add_special_tokens({"pad_token": config.pad_token})
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _no_tokenizer(base: Base) -> ModelError:
    return ModelError(
        f"{base.source} holds no tokenizer. Put its files, such as tokenizer.json or tokenizer.model, beside its "
        "config.json."
    )


def check_ids(rows: Iterable[Encoded], vocabulary: int, base: Base) -> None:
    """On a GPU an id past the embedding's end is an assertion deep in a kernel."""
    largest = max((max(row.input_ids) for row in rows), default=0)
    if largest >= vocabulary:
        raise ModelError(
            f"The tokenizer of {base.source} makes token {largest} of the rows, and the model's embedding ends at "
            f"{vocabulary - 1}: tokens were added without resizing it. Use the tokenizer that the model came with, or "
            "call resize_token_embeddings and save the model again."
        )


def safe_pad_id(tokenizer: Any, vocabulary: int) -> int:
    """An id for padding that the embedding has: a pad token added by the recipe may lie past its end.

    Padding is masked by its place, so any id serves, and the embedding (which would be saved with the adapter, twice
    130 MB for a 1B model) need not grow.
    """
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id < vocabulary else tokenizer.eos_token_id)


def choose_dtype(config: TrainConfig) -> Any:
    """The arithmetic of the frozen base: the recipe's where this machine has it."""
    import torch

    if not torch.cuda.is_available():
        return torch.float32  # half precision is emulated on most CPUs, and float16 lacks operations
    # is_bf16_supported() counts emulation: a T4 would say yes and run many times slower
    chosen = choose_arithmetic(config.compute_dtype, torch.cuda.get_device_capability()[0] >= 8)
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[chosen]


def say_dtype(config: TrainConfig, dtype: Any) -> None:
    name = str(dtype).removeprefix("torch.")
    other = f", since this machine has no {config.compute_dtype}" if config.compute_dtype not in ("auto", name) else ""
    say(f"Arithmetic: {name}{other}.")


def load_base(base: Base, config: TrainConfig) -> Any:
    """The base on its device, frozen, in 4 bits where the recipe asks for it and this machine can."""
    dtype = choose_dtype(config)
    say_dtype(config, dtype)
    model = _load_quantised(base, config, dtype) if config.load_in_4bit else _load(base, dtype)
    model.requires_grad_(False)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        # not re-entrant: that variant wants inputs with gradients, which a frozen embedding does not give
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _load(base: Base, dtype: Any, **quantisation: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with _refusals(base):
        return AutoModelForCausalLM.from_pretrained(
            base.source,
            revision=base.revision or "main",
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            device_map=_device_map(),
            **{_dtype_keyword(): dtype},
            **quantisation,
        )


def _load_quantised(base: Base, config: TrainConfig, dtype: Any) -> Any:
    import torch

    problem = _find_problem_with_4bit(config)
    if not problem:
        try:
            return _load(base, dtype, quantization_config=_quantisation(config, dtype))
        except torch.OutOfMemoryError:
            raise  # unquantised it would need more
        except (ImportError, RuntimeError) as error:
            if not _is_from_bitsandbytes(error):
                raise
            problem = f"4 bits failed ({error})"
            _check_may_fall_back(config, problem, error)
    warn(f"{problem}: the base is loaded unquantised, in {str(dtype).removeprefix('torch.')}.")
    return _load(base, dtype)


def _find_problem_with_4bit(config: TrainConfig) -> str:
    """Why the base cannot be quantised and may be loaded without, or ""; raises where the recipe wants 4 bits only."""
    import torch

    try:
        import bitsandbytes
    except (ImportError, OSError, RuntimeError) as error:
        problem = f"bitsandbytes does not load here ({error})"
        _check_may_fall_back(config, problem, error)
        return problem
    version = tuple(int(part) for part in bitsandbytes.__version__.split(".")[:2])
    if torch.cuda.is_available() or version >= (0, 46):
        return ""
    return f"bitsandbytes {bitsandbytes.__version__} cannot quantise on a CPU (0.46 can)"


def _check_may_fall_back(config: TrainConfig, problem: str, error: Exception) -> None:
    if not config.allow_unquantised:
        raise ModelError(
            f"The base cannot be held in 4 bits: {problem}. Use an image from the launcher's table of known images, or "
            "set allow_unquantised = true to train on the unquantised base, which takes about four times its memory."
        ) from error


def _is_from_bitsandbytes(error: BaseException) -> bool:
    """Whether bitsandbytes or its kernels raised it, and not, say, the Hub."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ImportError) or any("bitsandbytes" in frame.filename for frame in frames)


def _dtype_keyword() -> str:
    """transformers renamed it in 4.56 and warns about the old one."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _device_map() -> dict[str, int] | None:
    import torch

    return {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else None


def _quantisation(config: TrainConfig, dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=config.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def attach_adapters(model: Any, base: Base, config: TrainConfig, paths: Paths) -> Any:
    """New adapters, or those of an earlier job to continue from. They are kept in float32 whatever the base is in."""
    from peft import get_peft_model

    if paths.adapter is not None:
        say(f"Continuing from the adapter in {paths.adapter}; its own rank, alpha, modules and biases hold.")
        adapted = _load_adapters(model, base, config.model_name_or_path, folder_with_adapter(paths.adapter))
    else:
        check_targets(model, config)
        check_untied(model.config.to_dict(), config)
        adapted = get_peft_model(model, _lora(config))
    # peft puts the folder that the base was loaded from, which ends with the job
    adapted.peft_config["default"].base_model_name_or_path = base.name
    return adapted


def _load_adapters(model: Any, base: Base, name: str, folder: Path) -> Any:
    from peft import PeftModel

    earlier = read_adapter(folder)
    refuse_misfit(earlier, name, model.config.to_dict())
    if doubt := find_doubt(earlier, name):
        warn(f"{doubt[0].upper()}{doubt[1:]}.")
    try:
        with _refusals(base):
            return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise AdapterError(
            f"The adapter to continue from was made for another base than {name}: {earlier.base or 'unknown'}. "
            "Name an adapter of this model, or the model that it was made for."
        ) from error


def _lora(config: TrainConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        bias=config.lora_bias,
        task_type="CAUSAL_LM",
    )


def check_targets(model: Any, config: TrainConfig) -> None:
    """peft passes over a target that does not exist as long as another does: fewer adapters than the recipe says."""
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = [name for name in config.target_modules if name not in present]
    if missing:
        linear = {
            name.rpartition(".")[2] for name, module in model.named_modules() if "Linear" in type(module).__name__
        }
        raise ModelError(
            f"lora_target_modules names {', '.join(missing)}, which this model does not have. "
            f"It has {', '.join(sorted(linear))}."
        )


def check_untied(model: Mapping[str, Any], config: TrainConfig) -> None:
    if tied := find_tied(model, config.target_modules):
        raise ModelError(
            f"lora_target_modules names {' and '.join(tied)}, but embed_tokens and lm_head of this model are one "
            "matrix: the adapter could not be merged. Leave them out; the projections are what QLoRA trains."
        )


def describe_quantisation(model: Any) -> str:
    """How the frozen base is held, for the manifest."""
    return "4 bits" if getattr(model, "is_loaded_in_4bit", False) else str(model.dtype).removeprefix("torch.")
