"""A whole optimizer step as one packed row, or a few, replayed as a CUDA graph.

Steps down and goes on when memory runs out or a graph cannot be captured: a step begins with no gradients and changes
no weight, so it is simply begun again. What this machine refuses at the beginning, where kernels are compiled and held
against the model, gives way to the plain path; the same in a later step ends the job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Iterator
from typing import Any

import torch  # noqa: TID253

from . import reference, slots
from .agreement import describe_refusal, find_difference, load_ops
from .attention import BlockAttention, FlashAttention
from .data import Encoded
from .decoder import Decoder, find_obstacle
from .fast_conditions import NoFastStep, find_reason
from .gpu_room import free_bytes, shape_of
from .log import say, warn
from .memory_plan import OVERHEAD, ROOM, Load, Setting, choose_setting, estimate_bytes, whole_tiles
from .out_of_memory import is_out_of_memory, shorten
from .packing import Layout, choose_buckets, find_bucket, pack, split_by_tokens

BUCKETS = 8
# a bucket's graph takes as long to capture as its shorter padding saves in about so many steps
STEPS_PER_BUCKET = 8
# a new attempt must be estimated at no more than this share of what did not fit
STEP_DOWN = 0.85


def find_reason_against(model: Any, config: Any, dtype: Any, processes: int) -> str:
    """Why a job's steps must take the plain path, or ""."""
    has_gpu = torch.cuda.is_available()
    ask = functools.partial(getattr, model.get_base_model().config)
    ampere = has_gpu and torch.cuda.get_device_capability()[0] >= 8
    if reason := find_reason(config, ask, str(dtype).removeprefix("torch."), processes, has_gpu, ampere):
        return reason
    if has_gpu:
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton is not installed"
    return find_obstacle(model)


class FastStep:
    """Runs the job's steps; made at the first of them, when the optimizer exists and the memory left is known."""

    def __init__(self, model: Any, steps: list[list[Encoded]], seed: int, dtype: Any) -> None:
        self._model = model
        self._steps = steps
        self._seed = seed
        self._dtype = dtype
        self._cuda = torch.cuda.is_available()
        self._graphless = False
        self.load = Load(
            tokens=max(sum(len(row.input_ids) for row in rows) for rows in steps),
            rows=max(len(rows) for rows in steps),
            longest=whole_tiles(max(len(row.input_ids) for rows in steps for row in rows)),
        )
        self._longest = self.load.longest
        self.setting: Any = None
        self._decoder: Decoder | None = None
        self._graphs: dict[Layout, tuple[Any, Any, Any]] = {}
        self._buckets: list[int] = []

    def _choose(self, room: int | None) -> Setting:
        if not self._cuda:
            return Setting(self.load.tokens, resident=True, checkpointing=False, graph=False)
        room = int(ROOM * free_bytes()) if room is None else room
        setting = choose_setting(shape_of(self._model), self.load, room)
        if setting is None:
            raise NoFastStep("no way to pack a step fits the memory that is left")
        return dataclasses.replace(setting, graph=not self._graphless)

    def run(self, rows: list[Encoded], number: int, scale: Any = None) -> Any:
        """Leaves a step's gradients in the parameters; returns its summed loss and how many tokens were right.

        The gradients come times `scale`, a tensor of one number, the loss does not.
        """
        while True:
            try:
                return self._run(rows, number, scale)
            except RuntimeError as error:
                captures = self._is_failed_capture(error)
                full = is_out_of_memory(error) or (captures and is_out_of_memory(error.__context__))
                if not full and not captures:
                    raise
                problem = shorten(error)
                if not full:
                    warn(f"A CUDA graph could not be captured ({problem}); going on without graphs.")
                    self._graphless = True
            self._step_down(problem)

    def _run(self, rows: list[Encoded], number: int, scale: Any) -> Any:
        decoder = self._decoder or self._begin_or_refuse(rows)
        setting: Setting = self.setting
        trained = sum(row.trained for row in rows)
        sums = torch.zeros(2, device=decoder.device)
        decoder.begin_step()
        if scale is not None:
            decoder.grad_scale.copy_(scale)
        for part, group in enumerate(split_by_tokens(rows, setting.tokens)):
            layout = self._layout_for(group)
            numbers = pack(group, layout, self._longest, trained, _step_seed(self._seed, number, part))
            sums += self._run_row(layout, torch.tensor(numbers))
        decoder.adapters.end_step()
        return sums

    def _run_row(self, layout: Layout, numbers: Any) -> Any:
        decoder = self._decoder
        assert decoder is not None  # _run has begun it
        if layout not in self._graphs:
            return decoder.run(layout.split(numbers.to(decoder.device)))
        graph, place, sums = self._graphs[layout]
        # pinned, so that the host goes on at once: nothing in a step waits for the GPU
        place.copy_(numbers.pin_memory(), non_blocking=True)
        graph.replay()
        return sums

    def _layout_for(self, rows: list[Encoded]) -> Layout:
        tokens = sum(len(row.input_ids) for row in rows)
        if not self._cuda:
            return Layout(tokens, len(rows))
        return self._layout_of(find_bucket(self._buckets, tokens))

    def _begin_or_refuse(self, rows: list[Encoded]) -> Decoder:
        ops = load_ops() if self._cuda else reference
        try:
            return self._begin(rows, ops)
        except ops.REFUSALS as error:
            if is_out_of_memory(error) or self._is_failed_capture(error):
                raise
            raise NoFastStep(describe_refusal(error)) from error

    def _is_failed_capture(self, error: Exception) -> bool:
        captures = self.setting is not None and self.setting.graph
        return captures and isinstance(error, RuntimeError) and "captur" in str(error).lower()

    def _begin(self, rows: list[Encoded], ops: Any) -> Decoder:
        """Weights, buckets and graphs for the present setting; the largest bucket first, so that it fits or not now."""
        self.setting = self.setting or self._choose(room=None)
        parts = self._parts()
        attention = self._choose_attention(parts, ops)
        decoder = Decoder(self._model, attention, ops, self._dtype, self._longest, self.setting.resident)
        decoder.checkpointing = self.setting.checkpointing
        decoder.begin_step()
        self._decoder = decoder
        if problem := find_difference(self._model, decoder, rows, self._longest, self._dtype):
            raise NoFastStep(problem)
        if self._cuda:
            lengths = [sum(part) for part in parts]
            self._buckets = choose_buckets(lengths, min(BUCKETS, 1 + len(lengths) // STEPS_PER_BUCKET))
            self._prepare_buckets(decoder, ops)
        say(f"Fast step: {self.setting}, {attention.name} attention.")
        return decoder

    def _parts(self) -> list[list[int]]:
        """The examples' lengths in every packed row of the job."""
        parts = (part for step in self._steps for part in split_by_tokens(step, self.setting.tokens))
        return [[len(row.input_ids) for row in part] for part in parts]

    def _choose_attention(self, parts: list[list[int]], ops: Any) -> Any:
        shape = shape_of(self._model)
        scale = shape.head**-0.5
        if not self._cuda:
            return BlockAttention(scale)
        count = max(map(len, parts))
        if slots.pays(parts, count, self._longest):
            attention = slots.SlotAttention(slots.Cudnn(scale), ops, count, self._longest)
            kinds = (shape.heads, shape.kv_heads, shape.kv_heads)
            if slots.can_run(attention, scale, kinds, shape.head, self._dtype):
                return attention
        return FlashAttention(scale, self._longest)

    def _prepare_buckets(self, decoder: Decoder, ops: Any) -> None:
        pool, tried = None, set[int]()
        for bucket in self._buckets:
            layout = self._layout_of(bucket)
            place = torch.tensor(pack([], layout, self._longest, 1, 0), device=decoder.device)
            row = layout.split(place)
            tile = ops.tile_rows(bucket)
            if first := tile not in tried:
                # compiles and loads the kernels, as a capture may not, and finds out whether the largest fits
                decoder.run(row)
                tried.add(tile)
            if not self.setting.graph:
                return
            if first:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()  # a graph's memory is its own
            graph = torch.cuda.CUDAGraph()
            with _sound_generator(), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                sums = decoder.run(layout.split(place))
            pool = pool or graph.pool()
            self._graphs[layout] = (graph, place, sums)
        decoder.begin_step()  # the trial left gradients

    def _layout_of(self, bucket: int) -> Layout:
        return Layout(bucket, self.load.ends(bucket))

    def _step_down(self, problem: str) -> None:
        """Begin again in less memory, or without graphs where they are what failed."""
        self.forget()
        if self._graphless and self.setting.graph:
            self.setting = dataclasses.replace(self.setting, graph=False)
            return
        failed = estimate_bytes(self.setting, shape_of(self._model), self.load) - OVERHEAD
        self.setting = self._choose(room=OVERHEAD + int(STEP_DOWN * failed))
        warn(f"Out of memory ({problem}). Going on from the same state with {self.setting}.")

    @property
    def begun(self) -> bool:
        return self._decoder is not None

    def forget(self) -> None:
        """Give everything back; the adapters' weights stay in the parameters."""
        self._graphs.clear()
        self._decoder = None
        self._buckets = []
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _sound_generator() -> Iterator[None]:
    """A capture that fails leaves the GPU's random generator unusable to everyone: give it a fresh state then."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    spare = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(spare)
        raise


def _step_seed(seed: int, number: int, part: int) -> int:
    """The dropout's seed for a packed row: 32 bits that follow from the recipe's seed and the step alone."""
    return (seed * 0x9E3779B1 + number * 0x85EBCA77 + part * 0xC2B2AE3D) % 2**32
