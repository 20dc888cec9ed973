"""One optimizer step, three ways, on one GPU: our trainer, plain TRL as the seed's recipe has it, and Unsloth.

    python tests/bench/training.py                                  Qwen2.5-1.5B, 60 steps of 8 rows
    python tests/bench/training.py --model llama2-7b --ways ours
    python tests/bench/training.py --rows long --ways ours          8 rows of 2,048 tokens a step
    python tests/bench/training.py --equal --steps 100              100 steps without dropout: the same losses?
    python tests/bench/training.py --cap-gib 24 --model llama2-7b --rows long --ways ours
    python tests/bench/training.py --tiny --equal --ways ours trl   on a CPU, to see that it runs
    python tests/bench/training.py --unsloth-packages DIR           with Unsloth and the versions it wants in DIR

Random weights of the real architecture and generated rows; reaches for nothing. Every way runs in a process of its own,
on the same rows in the same order and from the same adapters. Wall time is the median over steps 10 and up, taken in
blocks of ten, as the loops do not wait for the GPU within them; GPU time is what the profiler sums over four steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))  # this checkout is what is measured, whatever is installed

from generated import MODELS, PER_STEP, architecture_of, make_base, make_config, make_rows  # noqa: E402
from step_clock import BLOCK, PROFILED, Clock  # noqa: E402

from container_src.sft.architectures import count_parameters  # noqa: E402
from container_src.sft.config import TrainConfig  # noqa: E402

WAYS = ("ours", "trl", "unsloth")
PEAK_FLOPS = 790e12
EQUAL_WITHIN = 0.005


@dataclasses.dataclass
class Result:
    way: str
    wall_ms: float
    gpu_ms: float
    kernels: int
    tokens: float
    peak_gib: float
    reserved_gib: float
    setting: str
    first_step_s: float
    losses: list[float]
    predicted_gib: float = 0.0


def _make_config(args: argparse.Namespace, base: Path) -> TrainConfig:
    return make_config(
        base,
        args.tiny,
        lora_dropout=0.0 if args.equal else args.dropout,
        max_steps=args.steps + PROFILED,
        logging_steps=BLOCK,
        compute_dtype=args.dtype,
        gradient_checkpointing=args.checkpointing,
        fast_step="on" if args.tiny else args.fast,
    )


def run_ours(args: argparse.Namespace, base: Path) -> Result:
    """Through make_trainer, as a job does, on rows that are tokens already."""
    import torch
    import transformers

    from container_src.sft.batches import Padding
    from container_src.sft.checkpoint import Origin
    from container_src.sft.data import Encoded
    from container_src.sft.gpu_room import shape_of
    from container_src.sft.memory_plan import Setting, estimate_bytes
    from container_src.sft.model import attach_adapters, choose_dtype, find_base, load_base, load_tokenizer
    from container_src.sft.paths import resolve_paths
    from container_src.sft.steps import make_schedule, make_steps
    from container_src.sft.stop import Stopping
    from container_src.sft.trainer import make_trainer

    config = _make_config(args, base)
    clock = Clock(args.steps)
    (base / "rows").mkdir(exist_ok=True)
    paths = resolve_paths(dataclasses.replace(config, train_data_path=str(base / "rows")),
                          {"SAGEMAKER_BASE_DIR": str(base / "ours")})  # fmt: skip
    transformers.set_seed(0)
    place = find_base(config, paths)
    model = attach_adapters(load_base(place, config), place, config, paths)
    _same_adapters(model, base)
    rows = _ordered_rows(args)
    # our order is drawn from the seed; putting the rows where it draws them makes it the others' order
    drawn = [index for step in make_steps(len(rows), PER_STEP, len(rows) // PER_STEP, config.seed) for index in step]
    encoded: list[Any] = [None] * len(rows)
    for row, index in zip(rows, drawn, strict=True):
        encoded[index] = Encoded(row, row, False, True)
    schedule = make_schedule(config, len(rows), 1)
    trainer = make_trainer(
        model, load_tokenizer(place, config), Padding(0, 0), encoded, [], config, schedule, paths,
        Origin("", ""), Stopping(), choose_dtype(config),
    )  # fmt: skip
    trainer.add_callback(clock.callback())
    if args.setting:
        tokens = sum(map(len, rows[:PER_STEP])) if args.rows != "mixed" else 4096
        tokens = args.tokens or tokens
        trainer.runner._fast.setting = Setting(tokens, "R" in args.setting, "C" in args.setting)
    _reset_peak()
    loaded = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    trainer.train()
    fast = trainer.runner._fast
    lines = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    # we log the first step by itself, which TRL averages into the first ten, and the last few, which TRL leaves out
    losses = [(lines[0] + (BLOCK - 1) * lines[1]) / BLOCK, *lines[2:]][: config.max_steps // BLOCK]
    result = _result("ours", clock, args, losses, str(fast.setting) if fast else "plain path")
    if fast:
        result.predicted_gib = (loaded + estimate_bytes(fast.setting, shape_of(model), fast.load)) / 2**30
    return result


def run_trl(args: argparse.Namespace, base: Path) -> Result:
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    config = _make_config(args, base)
    clock = Clock(args.steps)
    cuda = torch.cuda.is_available()
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=_dtype(args),
        bnb_4bit_use_double_quant=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=_dtype(args) if cuda else torch.float32,
        quantization_config=quantised if cuda and not args.tiny else None,
        device_map={"": 0} if cuda else None,
    )
    model.config.use_cache = False
    lora = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=config.lora_dropout, bias="none", task_type="CAUSAL_LM",
        target_modules=config.target_modules,
    )  # fmt: skip
    trainer = _in_order(trl.SFTTrainer)(
        model=model,
        args=_trl_arguments(args, config, base, 2, 4, cuda),
        train_dataset=Dataset.from_dict(_columns(args)),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora,
        callbacks=[clock.callback()],
    )
    _same_adapters(trainer.model, base)
    _reset_peak()
    trainer.train()
    return _result("trl", clock, args, _losses(trainer), "2 x 4 rows, padded")


def run_unsloth(args: argparse.Namespace, base: Path) -> Result:
    """At its best: eight rows at once and no dropout, which its fused adapters want."""
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    from unsloth import FastLanguageModel  # isort: skip - it must come before the libraries that it changes
    import trl
    from datasets import Dataset

    config = _make_config(args, base)
    clock = Clock(args.steps)
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(base), max_seq_length=2048, dtype=_dtype(args), load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=config.target_modules,
        use_gradient_checkpointing="unsloth" if args.checkpointing else False, random_state=0,
    )  # fmt: skip
    trainer = _in_order(trl.SFTTrainer)(
        model=model,
        args=_trl_arguments(args, config, base, PER_STEP, 1, True),
        train_dataset=Dataset.from_dict(_columns(args)),
        processing_class=tokenizer,
        callbacks=[clock.callback()],
    )
    _same_adapters(trainer.model, base)
    _reset_peak()
    trainer.train()
    return _result("unsloth", clock, args, _losses(trainer), "8 x 1 rows, no dropout")


def _dtype(args: argparse.Namespace) -> Any:
    import torch

    return getattr(torch, args.dtype)


def _in_order(trainer: Any) -> Any:
    import torch

    class InOrder(trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return InOrder


def _trl_arguments(args: argparse.Namespace, config: TrainConfig, base: Path, size: int, times: int, cuda: bool) -> Any:
    import trl

    return trl.SFTConfig(
        output_dir=str(base / "trl"), max_steps=config.max_steps, per_device_train_batch_size=size,
        gradient_accumulation_steps=times, learning_rate=config.learning_rate, lr_scheduler_type="cosine",
        optim=config.optim, bf16=cuda and args.dtype == "bfloat16", fp16=cuda and args.dtype == "float16",
        use_cpu=not cuda, logging_steps=BLOCK, save_strategy="no", report_to="none",
        max_length=2048, packing=False, gradient_checkpointing=args.checkpointing, max_grad_norm=config.max_grad_norm,
        dataset_kwargs={"skip_prepare_dataset": True}, seed=0, disable_tqdm=True, average_tokens_across_devices=False,
        gradient_checkpointing_kwargs={"use_reentrant": False} if args.checkpointing else None,
    )  # fmt: skip


def _losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def _ordered_rows(args: argparse.Namespace) -> list[list[int]]:
    kind = "learnable" if args.equal else args.rows
    return make_rows(kind, args.steps + PROFILED, architecture_of(args.model, args.tiny)["vocab_size"])


def _columns(args: argparse.Namespace) -> dict[str, Any]:
    """Without labels, Trainer divides by a number of tokens that counts each row's first, which nothing predicts."""
    rows = _ordered_rows(args)
    return {"input_ids": rows, "labels": [[-100, *row[1:]] for row in rows]}


def _same_adapters(model: Any, base: Path) -> None:
    """The first way's fresh adapters for every way; their lower halves are drawn at random."""
    import torch

    file = base / "adapters.pt"
    found = {name: value for name, value in model.named_parameters() if "lora_" in name}
    if file.exists():
        saved = torch.load(file, weights_only=True)
        for name, parameter in found.items():
            parameter.data.copy_(saved[name])
    else:
        torch.save({name: value.detach().float().cpu() for name, value in found.items()}, file)


def _reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _result(way: str, clock: Clock, args: argparse.Namespace, losses: list[float], setting: str) -> Result:
    import torch

    cuda = torch.cuda.is_available()
    for line in clock.top if args.profile else ():
        print(line)
    return Result(
        way=way,
        wall_ms=clock.wall_ms,
        gpu_ms=clock.gpu_ms,
        kernels=clock.kernels,
        tokens=sum(map(len, _ordered_rows(args))) / (args.steps + PROFILED),
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0,
        reserved_gib=torch.cuda.max_memory_reserved() / 2**30 if cuda else 0.0,
        setting=setting,
        first_step_s=clock.first_step_s,
        losses=losses,
    )


def run_way(args: argparse.Namespace, way: str, base: Path) -> Result | None:
    """In a process of its own, whose last line is the result."""
    command = [sys.executable, __file__, "--one", way, "--base", str(base), *args.passed]
    environment = dict(os.environ)
    if way == "unsloth" and args.unsloth_packages:
        environment["PYTHONPATH"] = os.pathsep.join([str(args.unsloth_packages), str(REPOSITORY)])
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
    )
    lines = done.stdout.splitlines()
    found = [line.removeprefix("RESULT ") for line in lines if line.startswith("RESULT ")]
    shown = [line for line in lines if " ms " in line or line.startswith(("Fast step", "[warning]", "[metrics]"))]
    print("\n".join(shown if found else lines[-40:]), flush=True)
    return Result(**json.loads(found[-1])) if found else None


def print_table(args: argparse.Namespace, results: list[Result]) -> None:
    parameters = count_parameters(architecture_of(args.model, args.tiny))
    what = "rows to learn from, no dropout" if args.equal else f"{args.rows} rows, dropout {args.dropout}"
    print(f"\n{args.model}, {what}, {PER_STEP} rows a step, {parameters:,} parameters")
    print("| way | wall ms | GPU ms | kernels | tokens/s | peak GiB | predicted | reserved | of the floor | first s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for found in results:
        floor = 1e3 * 4 * parameters * found.tokens / PEAK_FLOPS
        speed = found.tokens / max(found.wall_ms, 1e-9) * 1e3
        memory = f"{found.peak_gib:.2f} | {found.predicted_gib:.2f} | {found.reserved_gib:.2f}"
        times = f"{found.wall_ms:.1f} | {found.gpu_ms:.1f} | {found.kernels} | {speed:,.0f}"
        last = f"{found.wall_ms / floor:.2f} | {found.first_step_s:.1f}"
        print(f"| {found.way}: {found.setting} | {times} | {memory} | {last} |")
    for found in results[1:] if results[0].way == "ours" else ():
        print(f"ours is {found.wall_ms / results[0].wall_ms:.1f} times as fast as {found.way}")


def compare_losses(args: argparse.Namespace, results: list[Result]) -> bool:
    """Whether every way's logged losses are the first way's, within a share of the first loss."""
    agrees = True
    for other in results[1:]:
        if not other.losses or len(results[0].losses) != len(other.losses):
            print(f"ours logged {len(results[0].losses)} losses and {other.way} {len(other.losses)}: not compared")
            agrees = False
            continue
        pairs = list(zip(results[0].losses, other.losses, strict=True))
        apart = [abs(ours - theirs) / other.losses[0] for ours, theirs in pairs]
        worst = math.nan if any(map(math.isnan, apart)) else max(apart)
        print(f"losses of ours and {other.way}: at most {worst:.5f} of the first loss apart")
        print(*(f"  {ours:.4f} {theirs:.4f}" for ours, theirs in pairs), sep="\n")
        # with dropout, masks differ; on random rows there is nothing to learn, so losses stay close all the same
        agrees &= worst <= (EQUAL_WITHIN if args.equal else 2 * EQUAL_WITHIN)
    return agrees


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-1.5b", choices=MODELS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", default="mixed", choices=["mixed", "long", "1k", "512"])
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"], help="arithmetic on a GPU")
    parser.add_argument("--equal", action="store_true", help="no dropout, a task to learn, losses must agree")
    parser.add_argument("--fast", default="auto", choices=["auto", "on", "off"], help="our trainer's fast_step")
    ways = "ours: base resident (R) or unpacked in each step (S), activations recomputed (C)"
    parser.add_argument("--setting", default="", choices=["R", "S", "RC", "SC"], help=ways)
    parser.add_argument("--tokens", type=int, default=0, help="with --setting: tokens of a packed row")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--profile", action="store_true", help="the longest kernels too")
    parser.add_argument("--cap-gib", type=float, default=0.0, help="let the process have so much of the GPU's memory")
    parser.add_argument("--unsloth-packages", type=Path, help="where Unsloth and the versions it wants lie")
    parser.add_argument("--tiny", action="store_true", help="the family's stand-in, on a CPU too")
    parser.add_argument("--base", type=Path, help="keep the generated model here, and reuse it")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return _run_one(args)
    args.passed = _passed_on(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        base = args.base or Path(scratch)
        base.mkdir(parents=True, exist_ok=True)
        (base / "adapters.pt").unlink(missing_ok=True)
        if not (base / "config.json").exists():
            make_base(args.model, args.tiny, base)
        asked = [way for way in WAYS if way in _importable(args)]  # ours first, which the others are held against
        results = [found for way in asked if (found := run_way(args, way, base)) is not None]
    print_table(args, results)
    if failed := [way for way in asked if way not in [found.way for found in results]]:
        print(f"{' and '.join(failed)} failed; the last lines are above.")
    return 0 if results and compare_losses(args, results) and not failed else 1


def _run_one(args: argparse.Namespace) -> int:
    import torch

    if args.cap_gib and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(args.cap_gib * 2**30 / total)
    result = {"ours": run_ours, "trl": run_trl, "unsloth": run_unsloth}[args.one](args, args.base)
    print("RESULT", json.dumps(dataclasses.asdict(result)))
    return 0


def _passed_on(argv: list[str]) -> list[str]:
    """What every way's process must know too."""
    dropped = argv[:]
    for option in ("--ways", "--base"):
        if option in dropped:
            start = dropped.index(option)
            end = next((n for n in range(start + 1, len(dropped)) if dropped[n].startswith("--")), len(dropped))
            del dropped[start:end]
    return dropped


def _importable(args: argparse.Namespace) -> list[str]:
    here = args.unsloth_packages or importlib.util.find_spec("unsloth")
    missing = [] if here else [way for way in args.ways if way == "unsloth"]
    for way in missing:
        print(f"{way} is not installed here, and left out.")
    return [way for way in args.ways if way not in missing]


if __name__ == "__main__":
    sys.exit(main())
