"""Submit every shipped recipe to the local endpoint and show what each run left, side by side.

    python tests/bench/recipes.py [--steps 20] [--out runs]

Without a GPU these are stand-ins: the table shows that each recipe runs to its end, not how good it is. With one it is
the comparison of the experiments: peak memory, time, loss and perplexity before and after tuning.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from launcher import load_recipe, make_plan, submit
from launcher.recipe import shipped_recipes

DEADLINE_S = 3600
COLUMNS = (
    "recipe", "outcome", "steps", "held as", "peak GiB", "seconds", "loss", "base loss", "eval loss", "base perplexity",
    "eval perplexity", "verdict",
)  # fmt: skip


def run_recipes(folder: Path, steps: int) -> list[list[str]]:
    jobs = {}
    for name, path in shipped_recipes().items():
        overrides: dict[str, Any] = {"compute.instance": "local"}
        if steps:
            overrides["training.max_steps"] = steps
        run = f"{name.replace('.', '-').replace('_', '-')}-{time.strftime('%H%M%S')}"
        jobs[name] = submit(make_plan(load_recipe(path, overrides), run))
    rows = []
    for name, job in jobs.items():
        job.wait(DEADLINE_S)
        adapter = job.fetch(folder / name)
        rows.append(describe(name, adapter.folder))
    return rows


def describe(name: str, folder: Path) -> list[str]:
    manifest, metrics = (
        json.loads((folder / file).read_text(encoding="utf-8")) for file in ("manifest.json", "metrics.json")
    )
    numbers = (
        "peak_memory_gib", "seconds", "loss", "base_loss", "eval_loss", "base_perplexity", "eval_perplexity",
    )  # fmt: skip
    return [
        name,
        manifest["outcome"],
        str(manifest["steps_done"]),
        manifest["base_model"]["held_as"],
        *(f"{metrics[key]:.3f}" for key in numbers),
        metrics["verdict"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run every shipped recipe on the local endpoint.")
    parser.add_argument("--steps", type=int, default=0, help="instead of the recipe's, or of a stand-in's 20")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the adapters go")
    args = parser.parse_args()
    rows = run_recipes(args.out, args.steps)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
