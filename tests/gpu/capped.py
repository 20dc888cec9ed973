"""Run a script with a part of the GPU's memory, as if it were a smaller one.

python tests/gpu/capped.py GIB SCRIPT [ARGUMENT ...]
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch


def main() -> None:
    gib, *sys.argv = sys.argv[1:]
    torch.cuda.set_per_process_memory_fraction(float(gib) * 2**30 / torch.cuda.mem_get_info()[1])
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
