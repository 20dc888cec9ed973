"""Times a training loop in blocks of steps that do not wait for the GPU, then profiles a few more."""

from __future__ import annotations

import statistics
import time
from typing import Any

BLOCK = 10
PROFILED = 4


class Clock:
    """Times blocks of ten steps, then profiles four."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._began = time.perf_counter()
        self.marks: list[tuple[int, float]] = []
        self.first_step_s = 0.0
        self.gpu_ms = 0.0
        self.kernels = 0
        self.top: list[str] = []
        self._profiler: Any = None

    def callback(self) -> Any:
        import transformers

        clock = self

        class Marks(transformers.TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                clock.after(state.global_step)

        return Marks()

    def after(self, step: int) -> None:
        import torch

        cuda = torch.cuda.is_available()
        if step % BLOCK == 0 or step in (1, self._steps):
            if cuda:
                torch.cuda.synchronize()
            self.marks.append((step, time.perf_counter()))
        if step == 1:
            self.first_step_s = self.marks[0][1] - self._began
        if not cuda:
            return
        if step == self._steps:
            from torch.profiler import ProfilerActivity, profile

            self._profiler = profile(activities=[ProfilerActivity.CUDA])
            self._profiler.start()
        if step == self._steps + PROFILED:
            torch.cuda.synchronize()
            self._profiler.stop()
            found = self._profiler.key_averages()
            self.gpu_ms = sum(item.self_device_time_total for item in found) / PROFILED / 1e3
            self.kernels = sum(item.count for item in found) // PROFILED
            for item in sorted(found, key=lambda item: -item.self_device_time_total)[:25]:
                milliseconds = item.self_device_time_total / PROFILED / 1e3
                self.top.append(f"{milliseconds:8.2f} ms {item.count // PROFILED:6}  {item.key[:100]}")

    @property
    def wall_ms(self) -> float:
        spans = [
            (later - earlier) / (there - here)
            for (here, earlier), (there, later) in zip(self.marks[1:], self.marks[2:], strict=False)
        ]
        return 1e3 * statistics.median(spans) if spans else 0.0
