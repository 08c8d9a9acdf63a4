"""Decodes blocks of positions one after the other, for the row loop.

A block is drafted, corrected in rounds and committed, as described by a `Phase`; `first_row` decodes grid row 0 in
blocks of k_h positions. Images proceed at their own speed.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.decode.acceptance import auto_correct
from ssd_jax.decode.cost import PREFILL, Stretch, Stretches
from ssd_jax.decode.state import first_token, gather, scatter
from ssd_jax.decode.verifier import Cache, Progress, Verifier
from ssd_jax.sampling.choice import choose
from ssd_jax.sequence.layout import Grid

AUTO: Final = "auto"
"""As a number of rounds: until a pass changes nothing."""

Rounds = int | Literal["auto"]

MASKS = ("raster", "row")
"""What an input may see of its own block during correction: all earlier positions, or only its own grid row."""


class Phase(NamedTuple):
    """One kind of block.

    Attributes:
        length: X, positions of a block, and the window of its passes.
        end: the first position after the last block.
        rounds: verification rounds before the commit pass, or "auto".
        joint: rounds in which all positions may change; later ones do not change the first grid row of a full block.
        row_mask: whether rounds use the row mask.
        remember: (row, hidden, positions) -> row, the hidden states that later drafts need.
        draft: (row, tokens, base) -> log q of the block that starts at `base`.
    """

    length: int
    end: int
    rounds: Rounds
    joint: Rounds
    row_mask: bool
    remember: Callable[[Float[Array, "G C D"], Float[Array, "G X D"], Int32[Array, "B X"]], Float[Array, "G C D"]]
    draft: Callable[[Float[Array, "G C D"], Int32[Array, "B tokens"], Int32[Array, " B"]], Float32[Array, "B X V"]]


@flax.struct.dataclass
class State:
    """Attributes:
    tokens: final up to `base`, then the block's drafts once it has begun.
    base: first position of the block.
    stage: number of rounds of the block so far; 0 before it has begun.
    log_q: log q from which the block's tokens were drawn; of no meaning before it has begun, X = 0 before the first.
    row: hidden states of a grid row.
    passes, trace: as in `Decoded`.
    cache: up to date for every committed token but the newest.
    """

    tokens: Int32[Array, "B tokens"]
    base: Int32[Array, " B"]
    stage: Int32[Array, " B"]
    log_q: Float32[Array, "B X V"]
    row: Float[Array, "G C D"]
    passes: Int32[Array, " B"]
    trace: Int32[Array, "B tokens"]
    cache: Cache


def first_row_stretches(grid: Grid, horizontal: int, rounds: Rounds = 1) -> Stretches:
    """Pass cost of the prefill and the blocks of grid row 0, each with one verification round and a commit pass, or,
    with "auto", at least one pass."""
    length = min(horizontal, grid.cols - 1)
    blocks = -(-(grid.cols - 1) // horizontal)
    verify = Stretch(blocks, length, length, drafts=blocks, horizontal=length, sources=1)
    return (PREFILL, verify) if rounds == AUTO else (PREFILL, verify, Stretch(blocks, length, outputs=0))


def first_row(verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid, rounds: Rounds) -> State:
    """Token 0 from the prefill and the rest of grid row 0 in blocks of k_h; `row` then has its hidden states."""
    tokens, trace, V = first_token(verifier, hidden, grid.size)
    one = trace[:, 0]
    row = jnp.pad(hidden, ((0, 0), (0, grid.cols - 1), (0, 0)))
    length = min(verifier.horizontal, max(grid.cols - 1, 1))

    def remember(
        row: Float[Array, "G C D"], hidden: Float[Array, "G X D"], positions: Int32[Array, "B X"]
    ) -> Float[Array, "G C D"]:
        positions = jnp.tile(positions, (row.shape[0] // positions.shape[0], 1))
        batch = jnp.arange(row.shape[0], dtype=jnp.int32)[:, None]
        return row.at[batch, positions].set(hidden, mode="drop")  # positions of grid row 0 are its columns

    def draft(
        row: Float[Array, "G C D"], tokens: Int32[Array, "B tokens"], base: Int32[Array, " B"]
    ) -> Float32[Array, "B X V"]:
        source = jnp.minimum(base - 1, grid.cols - 1)[:, None]  # a position of grid row 0, hence a column
        h = jnp.take_along_axis(row, jnp.tile(source, (row.shape[0] // source.size, 1))[..., None], axis=1)
        offsets = tuple((0, right) for right in range(1, length + 1))
        return verifier.draft(h, gather(tokens, source), source, offsets)[:, :, 0]

    phase = Phase(length, grid.cols, rounds, rounds, False, remember, draft)
    nothing = jnp.zeros((*one.shape, 0, V), jnp.float32)
    return run(verifier, grid, phase, State(tokens, one, jnp.zeros_like(one), nothing, row, one, trace, cache))


def run(verifier: Verifier, grid: Grid, phase: Phase, state: State) -> State:
    """Drafts, corrects and commits blocks until every image has reached the phase's end, at its own speed."""
    B, _, V = state.log_q.shape
    nothing = jnp.zeros((B, phase.length, V), jnp.float32)
    state = dataclasses.replace(state, log_q=nothing, stage=jnp.zeros_like(state.stage))
    body = partial(_pass, verifier, grid, phase)

    def progress(s: State) -> Progress:
        committed = jnp.arange(grid.size, dtype=jnp.int32)[None] < s.base[:, None]
        return Progress(s.base < phase.end, s.passes, s.tokens, jnp.where(committed, s.trace, 0))

    return verifier.loop(body, state, progress)


def _pass(verifier: Verifier, grid: Grid, phase: Phase, s: State) -> State:
    """Drafts of the blocks that begin, and one verifier pass: a round for some images, the commit pass for others, only
    padding for finished ones."""
    s = _drafted(verifier, grid, phase, s)
    positions = s.base[:, None] + jnp.arange(phase.length, dtype=jnp.int32)[None]
    live, inside = s.base < phase.end, positions < phase.end
    verifying = live if phase.rounds == AUTO else live & (s.stage < phase.rounds)
    inputs = jnp.where(inside, positions - 1, grid.size)
    drafts = gather(s.tokens, positions)
    committed = jnp.where(verifying, s.base, grid.size) if phase.row_mask else None
    hidden, cache = verifier.verify(s.cache, gather(s.tokens, inputs), inputs, committed)
    passes = s.passes + live.astype(jnp.int32)

    def correct() -> tuple[Int32[Array, "B X"], Float32[Array, "B X V"]]:
        log_p = verifier.log_p_at(hidden, positions)
        tokens = auto_correct(verifier, drafts, log_p, s.log_q, positions, passes)
        return tokens, jnp.where(verifying[:, None, None], log_p, s.log_q)

    with jax.named_scope("accept"):
        # A real branch: a commit pass needs neither the output head nor noise.
        corrected, log_q = jax.lax.cond(jnp.any(verifying), correct, lambda: (drafts, s.log_q))
    may_change = inside & verifying[:, None]
    if phase.joint != AUTO and phase.joint != phase.rounds:
        full = s.base + phase.length <= phase.end
        frozen = full[:, None] & (s.stage >= phase.joint)[:, None] & (positions < s.base[:, None] + grid.cols)
        may_change &= ~frozen
    if phase.rounds == AUTO:
        commit = live & ~jnp.any(may_change & (corrected != drafts), axis=1)
    else:
        commit = live & ~verifying
    target = jnp.where(may_change, positions, grid.size)
    return State(
        tokens=scatter(s.tokens, target, corrected),
        base=jnp.where(commit, jnp.minimum(s.base + phase.length, phase.end), s.base),
        stage=jnp.where(commit, 0, s.stage + 1),
        log_q=log_q,
        row=phase.remember(s.row, hidden, jnp.where(inside, positions, grid.size)),
        passes=passes,
        trace=scatter(s.trace, target, passes),
        cache=cache,
    )


def _drafted(verifier: Verifier, grid: Grid, phase: Phase, s: State) -> State:
    """The state with drafts for the images that begin a block."""
    which = (s.stage == 0) & (s.base < phase.end)
    positions = s.base[:, None] + jnp.arange(phase.length, dtype=jnp.int32)[None]
    target = jnp.where(which[:, None] & (positions < phase.end), positions, grid.size)

    def draft() -> tuple[Int32[Array, "B tokens"], Float32[Array, "B X V"], Int32[Array, "B tokens"]]:
        log_q = verifier.constrain(phase.draft(s.row, s.tokens, s.base), positions)
        tokens = scatter(s.tokens, target, choose(log_q, verifier.noise(positions)))
        return tokens, jnp.where(which[:, None, None], log_q, s.log_q), scatter(s.trace, target, s.passes)

    with jax.named_scope("draft"):
        tokens, log_q, trace = jax.lax.cond(jnp.any(which), draft, lambda: (s.tokens, s.log_q, s.trace))
    return dataclasses.replace(s, tokens=tokens, log_q=log_q, trace=trace)
