"""The same train.py under the versions of each AWS image: a job of every feature, one whose steps are run in both ways,
and one killed and resumed.

    python tests/container/stacks.py /tmp/stacks

Makes a virtual environment per image (with a CPU build of torch: the images' own torch comes with gigabytes of CUDA),
keeps it for the next time, and prints a table. The versions are those of the launcher's table of images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kill_drill import TRAIN, write_rows

from launcher.images import image_named

TORCH = "torch==2.13.0"
# what the images' own lists leave open; the oldest cannot quantise on a CPU, which the job says
BITSANDBYTES = {"2.8.0": "0.50.2", "2.5.1": "0.45.5", "2.11.0": "0.50.2"}
JOB = {
    "smoke": True,
    "max_steps": 8,
    "max_length": 64,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "padding": "max_length",
    "pad_token": "[PAD]",
    "gradient_checkpointing": True,
    "logging_steps": 1,
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "early_stopping_patience": 3,
    "adapter_folder": "lora_adapters",
    "report_to": "tensorboard",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
}
# the packed step and the plain one; without dropout, which draws other masks for packed rows
STEPS = {
    "smoke": True,
    "max_steps": 4,
    "max_length": 64,
    "learning_rate": 5e-3,
    "lora_dropout": 0,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
}
AGREEMENT = 1e-4
FILES = (
    "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "manifest.json", "metrics.json", "evaluation.json", "lora_adapters/adapter_config.json",
    "tensorboard/**/events.out.tfevents.*",
)  # fmt: skip


def make_environment(folder: Path, version: str) -> Path:
    """The environment's Python, installed on the first call."""
    python = folder / version / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / version)], check=True)
    pins = {**image_named(version).pins, "bitsandbytes": BITSANDBYTES[version]}
    wanted = [f"{name}=={pin}" for name, pin in pins.items() if name != "torch"]
    # torch first, so that nothing else chooses a build with CUDA
    for packages in ([TORCH], [TORCH, *wanted, "tensorboard"]):
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python


def train(python: Path, base: Path, settings: dict[str, Any]) -> str:
    """The log of a job that ended well."""
    write_rows(base)
    argv = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [str(python), str(TRAIN), *argv],
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"The job failed:\n{done.stdout}")
    return done.stdout


def run_job(python: Path, base: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    log = train(python, base, JOB)
    missing = [pattern for pattern in FILES if not any(base.glob(f"model/{pattern}"))]
    if missing:
        raise SystemExit(f"The artifact lacks {', '.join(missing)}:\n{log}")
    manifest, metrics = (
        json.loads((base / "model" / name).read_text(encoding="utf-8")) for name in ("manifest.json", "metrics.json")
    )
    if metrics["loss"] >= metrics["first_loss"]:
        raise SystemExit(f"The loss did not fall:\n{log}")
    return log, manifest, metrics


def hold_steps_together(python: Path, folder: Path) -> str:
    """Packed steps and evaluations against plain ones: each step's loss and norm of the gradient, base and tuned."""
    found, scores = {}, {}
    for way in ("on", "off"):
        log = train(python, folder / way, {**STEPS, "fast_step": way})
        lines = (folder / way / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found[way] = [json.loads(line) for line in lines if '"loss"' in line]
        metrics = json.loads((folder / way / "model" / "metrics.json").read_text(encoding="utf-8"))
        scores[way] = [metrics["base_loss"], metrics["eval_loss"]]
        if "No packed evaluation" in log:
            raise SystemExit(f"An evaluation was not packed:\n{log}")
        if ("Fast step: packed rows" in log) != (way == "on"):
            raise SystemExit(f"fast_step = {way} was not what ran:\n{log}")
    pairs = [
        (one[key], other[key])
        for one, other in zip(found["on"], found["off"], strict=True)
        for key in ("loss", "grad_norm")
    ]
    pairs += zip(*scores.values(), strict=True)
    apart = max(abs(one - other) / abs(other) for one, other in pairs)
    if apart > AGREEMENT or len(pairs) != 2 * STEPS["max_steps"] + 2:
        raise SystemExit(f"Packed and plain steps differ by {apart:.1e}: {pairs}")
    return f"packed steps and evaluations as plain ones, apart by {apart:.1e} at most"


def resume(python: Path) -> str:
    """The drill's last line, under the environment's own versions."""
    drill = Path(__file__).parent / "kill_drill.py"
    root = str(TRAIN.parent.parent)
    done = subprocess.run(
        [str(python), str(drill), "2"],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"The kill drill failed:\n{done.stdout}")
    return done.stdout.splitlines()[-1]


def try_image(version: str, folder: Path) -> None:
    began = time.monotonic()
    python = make_environment(folder, version)
    with tempfile.TemporaryDirectory(prefix="stack-") as base:
        log, manifest, metrics = run_job(python, Path(base) / "job")
        steps = hold_steps_together(python, Path(base))
    drilled = resume(python)
    held = manifest["versions"]
    names = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
    _say(f"image {version}: {', '.join(f'{name} {held[name]}' for name in names)}")
    _say(f"  base held as {manifest['base_model']['held_as']}, {manifest['trainable_parameters']:,} trained")
    _say(f"  loss {metrics['first_loss']:.4f} to {metrics['loss']:.4f}, against the base: {metrics['verdict']}")
    _say(f"  {steps}")
    _say(f"  {drilled}")
    for line in log.splitlines():
        if line.startswith(("[warning]", "Optimizer:", "Arguments")):
            _say(f"  {line}")
    _say(f"  {time.monotonic() - began:.0f} s")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the same train.py under each image's versions.")
    parser.add_argument("folder", type=Path, help="where the environments are made and kept")
    parser.add_argument("--image", action="append", choices=sorted(BITSANDBYTES), help="only this one; repeatable")
    args = parser.parse_args()
    for version in args.image or BITSANDBYTES:
        try_image(version, args.folder)


if __name__ == "__main__":
    main()
