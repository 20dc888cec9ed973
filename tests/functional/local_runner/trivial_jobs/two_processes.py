"""Adds up the ranks of a gloo group."""

import os
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(total)
if dist.get_rank() == 0:
    model = Path(os.environ["SAGEMAKER_BASE_DIR"], "model")
    (model / "sum.txt").write_text(f"{dist.get_world_size()} processes, sum {total.item()}")
dist.destroy_process_group()
