"""One evaluation, two ways, on one GPU: rows packed, as where the fast step runs, and padded, as the plain path has it.

    python tests/bench/evaluation.py                          Qwen2.5-1.5B, 512 rows of mixed lengths
    python tests/bench/evaluation.py --model llama2-7b --rows long
    python tests/bench/evaluation.py --tiny                   on a CPU, to see that it runs

Random weights of the real architecture and generated rows, the same for both ways; reaches for nothing. The first pass
compiles and is shown apart; of the next two the faster one counts. Memory is what a way adds to the loaded model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout is measured, whatever is installed

from generated import MODELS, PER_STEP, make_base, make_config, make_rows  # noqa: E402

from container_src.sft.evaluate import RowScores, score_rows  # noqa: E402

COUNT = 512


def measure(score: Callable[[], RowScores]) -> tuple[list[float], float, RowScores]:
    """Seconds of three passes, and the GiB that they add."""
    import torch

    cuda = torch.cuda.is_available()
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        found = score()
        seconds.append(time.perf_counter() - begun)
    return seconds, (torch.cuda.max_memory_allocated() - before) / 2**30 if cuda else 0.0, found


def load(args: argparse.Namespace, base: Path) -> tuple[Any, Any]:
    """The model with adapters that do something, and its arithmetic."""
    import torch

    from container_src.sft.model import attach_adapters, choose_dtype, find_base, load_base
    from container_src.sft.paths import resolve_paths

    config = make_config(base, args.tiny, compute_dtype=args.dtype)
    (base / "rows").mkdir()
    environ = {"SAGEMAKER_BASE_DIR": str(base / "job"), "SM_CHANNEL_TRAIN": str(base / "rows")}
    paths = resolve_paths(config, environ)
    place = find_base(config, paths)
    model = attach_adapters(load_base(place, config), place, config, paths)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.01)
    return model, choose_dtype(config)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of an evaluation, packed and padded.")
    parser.add_argument("--model", default="qwen2.5-1.5b", choices=MODELS)
    parser.add_argument("--rows", default="mixed", choices=["mixed", "long", "1k", "512"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--at-once", type=int, default=8, help="rows of a padded batch")
    parser.add_argument("--tiny", action="store_true", help="the family's stand-in, on a CPU too")
    args = parser.parse_args()
    from accelerate import Accelerator

    from container_src.sft.batches import Padding
    from container_src.sft.data import Encoded
    from container_src.sft.packed_scores import PackedScores

    with tempfile.TemporaryDirectory() as folder:
        make_base(args.model, args.tiny, Path(folder))
        model, dtype = load(args, Path(folder))
    vocabulary = model.get_base_model().config.vocab_size
    rows = [Encoded(row, row, False, True) for row in make_rows(args.rows, COUNT // PER_STEP, vocabulary)]
    kind = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}.get(str(dtype), "no")
    accelerator, packed = Accelerator(mixed_precision=kind), PackedScores(model, dtype, lambda: False, lambda: False)
    ways = {
        "packed": lambda: packed.score(rows),
        f"padded, {args.at_once} at once": lambda: score_rows(model, rows, Padding(0, 0), args.at_once, accelerator),
    }
    tokens, seconds, losses = sum(len(row.input_ids) for row in rows), [], []
    print(f"{args.model}, {len(rows)} {args.rows} rows, {tokens:,} tokens\n")
    print("| way | s | tokens/s | GiB more | loss | first pass s |\n|---|---|---|---|---|---|")
    for name, score in ways.items():
        passes, peak, found = measure(score)
        seconds.append(min(passes[1:]))
        losses.append(found.total.loss)
        cells = (name, f"{seconds[-1]:.2f}", f"{tokens / seconds[-1]:,.0f}", f"{peak:.2f}", f"{losses[-1]:.5f}")
        print(f"| {' | '.join(cells)} | {passes[0]:.1f} |")
    print(f"\npacked is {seconds[1] / seconds[0]:.1f} times as fast; losses {abs(losses[0] / losses[1] - 1):.1e} apart")


if __name__ == "__main__":
    main()
