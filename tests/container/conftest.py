"""Fixtures of the training container's tests: train.py as SageMaker starts it, and tokenizers of each family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from container_src import sft

TRAIN = Path(sft.__file__).parent.parent / "train.py"
TEXTS = ["What helps against a headache?", "Rest, water and a dark room.", "yes no maybe 0123456789"] * 4


@pytest.fixture(scope="session")
def make_base() -> Callable[..., Path]:
    """A folder laid out as /opt/ml, with 22 training rows of unequal length and a few evaluation rows."""

    def make(base: Path, evaluated: int = 5) -> Path:
        for channel, count in (("train", 22), ("eval", evaluated)):
            folder = base / "input" / "data" / channel
            folder.mkdir(parents=True)
            rows = [_make_row(number) for number in range(count)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{channel}.jsonl").write_text(text, encoding="utf-8")
        return base

    return make


def _make_row(number: int) -> dict[str, str]:
    sign, organ = ("pain", "rash", "swelling")[number % 3], ("knee", "elbow")[number % 2]
    return {
        "prompt": f"Question {number}: what helps against {sign} of the {organ}?\nAnswer:",
        "completion": f" Rest the {organ}." + " Cool it." * (number % 4),
    }


@pytest.fixture(scope="session")
def start_training() -> Callable[..., subprocess.Popen[str]]:
    """Start train.py as the toolkit does: hyperparameters in argv, the base folder in the environment."""

    def start(base: Path, **hyperparameters: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(TRAIN), *_make_argv(hyperparameters)],
            cwd=base,
            env={**os.environ, "SAGEMAKER_BASE_DIR": str(base)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


TOGETHER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import train
for base, argv in json.loads(sys.argv[2]):
    os.environ["SAGEMAKER_BASE_DIR"] = base
    print("job in", base, "ends with", train.main(argv), flush=True)
"""


@pytest.fixture(scope="session")
def train_together() -> Callable[..., str]:
    """Run train.py's main for each base folder, one after the other in one process: imports take most of a job."""

    def run(jobs: dict[Path, dict[str, Any]], **environ: str) -> str:
        asked = [(str(base), _make_argv(hyperparameters)) for base, hyperparameters in jobs.items()]
        done = subprocess.run(
            [sys.executable, "-c", TOGETHER, str(TRAIN.parent), json.dumps(asked)],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def _make_argv(hyperparameters: dict[str, Any]) -> list[str]:
    return [text for name, value in hyperparameters.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    """A real tokenizer with a chat template for each family."""
    from container_src.sft.stand_in import FAMILIES, make_tokenizer

    return {family: make_tokenizer(TEXTS, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def spacing_tokenizer() -> Any:
    """One that puts a space before every text, as Llama's does; "\\n" is a byte of its own there."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", *"abcdefghijklmnopqrstuvwxyz:.?"]
    pieces += ["\u2581y", "\u2581ye", "\u2581yes", "ye", "yes"]
    merges = [("\u2581", "y"), ("\u2581y", "e"), ("\u2581ye", "s"), ("y", "e"), ("ye", "s")]
    core = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merges,
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
