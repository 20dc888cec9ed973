"""Submit every shipped recipe to the local endpoint and show what each run left, side by side.

    python tests/bench/recipes.py [--steps 20] [--out runs]

Without a GPU these are stand-ins: the table shows that each recipe runs to its end, not how good it is. With one it is
the comparison of the experiments: peak memory, time, loss and perplexity before and after tuning.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from launcher import compare, load_recipe, make_plan, submit
from launcher.recipe import shipped_recipes
from launcher.results.comparison import HEAD, Comparison, load_results

DEADLINE_S = 3600


def run_recipes(folder: Path, steps: int) -> Comparison:
    jobs = {}
    for name, path in shipped_recipes().items():
        overrides: dict[str, Any] = {"compute.instance": "local"}
        if steps:
            overrides["training.max_steps"] = steps
        run = f"{name.replace('.', '-').replace('_', '-')}-{time.strftime('%H%M%S')}"
        jobs[name] = submit(make_plan(load_recipe(path, overrides), run))
    found = []
    for name, job in jobs.items():
        job.wait(DEADLINE_S)
        found.append(load_results(job.fetch(folder / name).folder, name))
    return compare(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run every shipped recipe on the local endpoint.")
    parser.add_argument("--steps", type=int, default=0, help="instead of the recipe's, or of a stand-in's 20")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the adapters go")
    args = parser.parse_args()
    found = run_recipes(args.out, args.steps)
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for row in found.rows():
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
