"""What a packed step takes on a GPU, and the ways to run it, the fastest first. Pure arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# a GPU's matrix units work on tiles of this many tokens; shorter buckets would save nothing
TILE = 64
# logits of so many tokens are held at a time
LOGITS_AT_ONCE = 1024
# packed rows of an evaluation: enough for the layers' unpacking to be a small part, few enough for the kernels that a
# step's beginning has compiled
SCORED_TOKENS = 4096
# kernels, matrix libraries' workspaces, graphs, and what the allocator cannot use
OVERHEAD = 512 * 2**20
# of the memory that is free at the first step; evaluations and the allocator's gaps want some too
ROOM = 0.94
# below this many tokens the matrix units starve
EFFICIENT_TOKENS = 1024
# flash attention's backward pass sums for each example over so many tokens more than it has
SUMMED_BESIDE = 128


@dataclass(frozen=True)
class Shape:
    """The sizes of a model and its adapters that memory and time hang on."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    rank: int

    @property
    def queries(self) -> int:
        return self.heads * self.head

    @property
    def qkv(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head

    @property
    def layer_weights(self) -> int:
        """Elements of one layer's widened weights."""
        return (
            self.qkv * (self.hidden + 3 * self.rank)
            + self.hidden * (self.queries + self.rank)
            + 2 * self.intermediate * (self.hidden + 2 * self.rank)
            + self.hidden * (self.intermediate + self.rank)
        )

    @property
    def layer_adapters(self) -> int:
        """Elements of one layer's adapters, all seven projections."""
        return self.rank * (
            3 * self.hidden + self.qkv + self.queries + self.hidden
            + 2 * self.hidden + 2 * self.intermediate + self.intermediate + self.hidden
        )  # fmt: skip


@dataclass(frozen=True)
class Load:
    """A job's fullest step: its tokens and rows, and those of the longest row in whole tiles."""

    tokens: int
    rows: int
    longest: int

    def ends(self, tokens: int) -> int:
        """Examples that a packed row of so many tokens has places for; its padding is cut into examples, too."""
        return self.rows + tokens // self.longest + 2


@dataclass(frozen=True)
class Setting:
    """One way to run a step. `tokens`: a packed row holds at most so many, or one example."""

    tokens: int
    resident: bool
    checkpointing: bool
    graph: bool = True

    def __str__(self) -> str:
        base = "the base resident" if self.resident else "the base laid out layer by layer"
        recomputes = ", activations recomputed" if self.checkpointing else ""
        graph = "CUDA graphs" if self.graph else "no CUDA graphs"
        return f"packed rows of up to {self.tokens:,} tokens, {base}{recomputes}, {graph}"


def estimate_bytes(setting: Setting, shape: Shape, load: Load) -> int:
    """What a step adds to the loaded model at its peak."""
    tokens = setting.tokens
    # masters, gradients, a copy to compute with, and AdamW's two states
    adapters = shape.layers * shape.layer_adapters * (4 + 4 + 2 + 8)
    weights = 2 * shape.layer_weights * (shape.layers if setting.resident else 1)
    if not setting.resident:
        weights += 2 * shape.hidden * shape.intermediate  # the part being unpacked
    saved = saved_bytes(shape, tokens)
    kept = shape.layers * 2 * shape.hidden * tokens + saved if setting.checkpointing else shape.layers * saved
    transient = _transient_bytes(shape, tokens, load.ends(tokens))
    return int(1.03 * (adapters + weights + kept + transient)) + OVERHEAD


def saved_bytes(shape: Shape, tokens: int) -> int:
    """What one layer's backward pass needs."""
    halves = 4 * shape.hidden + shape.qkv + shape.queries + 2 * shape.intermediate + 7 * shape.rank
    return tokens * (2 * halves + 4 * shape.heads + 8)


def _transient_bytes(shape: Shape, tokens: int, examples: int) -> int:
    """The larger of the logits in work and one layer's own gradients."""
    logits = 2 * shape.vocabulary * min(tokens, LOGITS_AT_ONCE) + 2 * tokens * 2 * shape.hidden
    # the gated product's gradient; then attention's, which it sums in float32 for every query head (in slots, of up
    # to half as many tokens again where they pay, with copies in place of the examples' tiles)
    wide = 2 * tokens * (shape.intermediate + 2 * shape.hidden)
    summed = 4 * shape.queries * (tokens + SUMMED_BESIDE * examples)
    attention = summed + 2 * tokens * (4 * shape.queries + shape.qkv + 2 * shape.hidden)
    return max(logits, wide, attention)


def scoring_bytes(shape: Shape, tokens: int) -> int:
    """What an evaluation of packed rows of so many tokens adds: nothing is kept from layer to layer."""
    weights = 2 * shape.layer_weights + 2 * shape.hidden * shape.intermediate
    adapters = 2 * shape.layers * shape.layer_adapters
    layer = saved_bytes(shape, tokens) + 2 * tokens * (3 * shape.hidden + shape.intermediate + shape.rank)
    logits = 2 * shape.vocabulary * min(tokens, LOGITS_AT_ONCE) + 2 * tokens * 2 * shape.hidden
    return int(1.03 * (weights + adapters + max(layer, logits)))


def choose_scored_tokens(shape: Shape, most: int, longest: int, room: int | None) -> int:
    """Tokens of an evaluation's packed row, as many as fit into so many free bytes; the longest example's at least."""
    while room is not None and most > longest and scoring_bytes(shape, most) > room:
        most //= 2
    return max(most, longest)


def iter_settings(load: Load) -> Iterator[Setting]:
    """Every way to run such steps, the fastest first. Limits are whole tiles, as the rows that keep to them are."""
    limits = [max(whole_tiles(load.tokens) + TILE, load.longest)]
    while limits[-1] > load.longest:
        limits.append(max(load.longest, limits[-1] // (2 * TILE) * TILE))
    settings = [
        Setting(tokens, resident, checkpointing)
        for tokens in limits
        for resident in (True, False)
        for checkpointing in (False, True)
    ]
    yield from sorted(settings, key=lambda setting: _relative_time(setting))


def whole_tiles(tokens: int) -> int:
    return -(-tokens // TILE) * TILE


def _relative_time(setting: Setting) -> float:
    passes = 4 if setting.checkpointing else 3
    # unpacking a layer's weights takes about as long as multiplying 150 tokens with them
    unpacking = 0.0 if setting.resident else passes * 150 / setting.tokens
    return (passes + unpacking) * (1 + EFFICIENT_TOKENS / 4 / setting.tokens)


def choose_setting(shape: Shape, load: Load, room: int) -> Setting | None:
    """The fastest way that fits into so many free bytes, or None."""
    return next((setting for setting in iter_settings(load) if estimate_bytes(setting, shape, load) <= room), None)
