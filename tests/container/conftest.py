"""Fixtures of the training container's tests: train.py as SageMaker starts it, and tokenizers of each family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from container_src import sft

TRAIN = Path(sft.__file__).parent.parent / "train.py"
TEXTS = ["What helps against a headache?", "Rest, water and a dark room.", "yes no maybe 0123456789"] * 4
# What the Hub answers by the owner in a model's id: status, X-Error-Code, X-Error-Message. A name that holds that of a
# family ("empty" holds MPT's) is taken for a model of it where the Hub has no config.json.
HUB_ANSWERS = {
    "stale": (401, "", "Invalid credentials in Authorization header"),
    "stale-and-named": (401, "RepoNotFound", "Invalid credentials in Authorization header"),
    "hidden": (401, "RepoNotFound", "Invalid username or password."),
    "wordless": (401, "", ""),
    "gated": (401, "GatedRepo", "You must have access to it and be authenticated."),
    "licensed": (403, "GatedRepo", "You are not in the authorized list."),
    "forbidden": (403, "", "Not allowed."),
    "disabled": (403, "", "Access to this resource is disabled."),
    "missing": (404, "RepoNotFound", "Repository not found"),
    "unrevised": (404, "RevisionNotFound", "Invalid rev id"),
    "opened": (404, "EntryNotFound", "Entry not found"),
    "lost": (404, "", ""),
    "crowded": (429, "", "Rate limit"),
    "broken": (500, "", "Internal Error"),
    "resting": (503, "", ""),
    "behind": (520, "", ""),
}
SECRETS = {"hub-token": "hf_of_the_test"}


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


class Hub(ThreadingHTTPServer):
    """The Hub and, to POST, Secrets Manager."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        # what it was sent as Authorization, by owner
        self.tokens: dict[str, set[str]] = defaultdict(set)


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        owner = next(part for part in self.path.split("/") if part in HUB_ANSWERS)
        self.server.tokens[owner].add(self.headers.get("Authorization", "none"))
        status, code, message = HUB_ANSWERS[owner]
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", message)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["SecretId"]
        found = {"SecretString": SECRETS[name]} if name in SECRETS else {"__type": "ResourceNotFoundException"}
        content = json.dumps(found).encode()
        self.send_response(200 if name in SECRETS else 400)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


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


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Small models of a family with adapters that do something."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from container_src.sft.architectures import find_architecture, shrink
    from container_src.sft.config import TrainConfig

    def make(name: str, **lora: Any) -> Any:
        known = find_architecture(name)
        assert known is not None
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shrink(known)), attn_implementation="sdpa")
        base.requires_grad_(False)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": TrainConfig().target_modules, **lora}
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.05)
        return model

    return make
