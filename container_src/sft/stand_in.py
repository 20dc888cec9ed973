"""The stand-in for a base model: its family's shape, shrunk, with random weights and a tokenizer made from the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .architectures import STAND_IN_VOCABULARY, find_architecture, shrink
from .config import TrainConfig
from .data import Row
from .model import Base, ModelError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BARS = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


class Family(NamedTuple):
    """How a family's tokenizer spells what is not text."""

    template: str
    eos: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    others: tuple[str, ...] = ()

    @property
    def specials(self) -> list[str]:
        return list(dict.fromkeys(token for token in (self.pad, self.eos, self.bos, self.unk, *self.others) if token))


LLAMA = Family(BARS, eos="</s>", bos="<s>", unk="<unk>")
FAMILIES = {
    "qwen2": Family(CHATML, eos="<|endoftext|>", pad="<|endoftext|>", others=("<|im_start|>", "<|im_end|>")),
    "gemma": Family(
        TURNS, eos="<eos>", bos="<bos>", pad="<pad>", unk="<unk>", others=("<start_of_turn>", "<end_of_turn>")
    ),
    "llama": LLAMA,
}


def make_stand_in(base: Base, config: TrainConfig, rows: list[Row], folder: Path) -> Base:
    """A model and tokenizer in a folder, loaded from there like any other. The same rows and seed give the same one."""
    small = shrink(_find_config(base, config))
    tokenizer = save_tokenizer(base, config, rows, folder)
    _save_random_weights({**small, **_special_ids(tokenizer)}, config.seed, folder)
    # relative to the artifact, into which the base is saved too: without it the adapter would fit nothing
    return Base(str(folder), "base")


def save_tokenizer(base: Base, config: TrainConfig, rows: list[Row], folder: Path) -> Any:
    """The stand-in's tokenizer alone, which needs no torch."""
    tokenizer = make_tokenizer(_iter_texts(rows), shrink(_find_config(base, config))["model_type"])
    tokenizer.save_pretrained(folder)
    return tokenizer


def _find_config(base: Base, config: TrainConfig) -> dict[str, Any]:
    known = find_architecture(config.model_family or config.model_name_or_path)
    if known is not None:
        return known
    file = Path(base.source) / "config.json"
    if not file.is_file():
        raise ModelError(
            f"The architecture of {config.model_name_or_path} is not known offline, so there is no stand-in for it. "
            "Set model.family to one of the shipped recipes' models, or use a model folder."
        )
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _iter_texts(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield from (row.fields[key] for key in ("text", "prompt", "completion") if key in row.fields)
        yield from (message["content"] for message in row.fields.get("messages", ()))


def make_tokenizer(texts: Iterable[str], model_type: str) -> Any:
    """Byte-level pairs learnt from the texts, with the family's own special tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES.get(model_type, LLAMA)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=STAND_IN_VOCABULARY,
        special_tokens=family.specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    _put_start_in_front(core, family)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=family.eos,
        bos_token=family.bos,
        pad_token=family.pad,
        unk_token=family.unk,
        additional_special_tokens=list(family.others),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = family.template
    return tokenizer


def _put_start_in_front(core: Any, family: Family) -> None:
    from tokenizers.processors import TemplateProcessing

    if family.bos:
        core.post_processor = TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, core.token_to_id(family.bos))]
        )


def _special_ids(tokenizer: Any) -> dict[str, int | None]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def _save_random_weights(config: dict[str, Any], seed: int, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    model.save_pretrained(folder, safe_serialization=True)
