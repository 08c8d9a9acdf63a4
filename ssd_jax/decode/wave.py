"""The wave loop: commits tokens along a slanted front, upper neighbours first."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ssd_jax.decode import drafting
from ssd_jax.decode.base import Decoder, register
from ssd_jax.decode.cost import PREFILL, Count, Stretch, Stretches
from ssd_jax.decode.drafting import Seen
from ssd_jax.decode.schedule import Schedule, count_passes, slanted
from ssd_jax.decode.state import Decoded, first_token, gather, scatter
from ssd_jax.decode.verifier import Cache, Progress, Verifier
from ssd_jax.errors import UserError, require_one_of, require_whole
from ssd_jax.sampling.choice import choose
from ssd_jax.sequence.layout import Grid

DRAFTERS = ("random", "above", "spatial")
"""Drafters that need no token of a grid row to draft it, below grid row 0; the others look to the left."""

STEEPEST = 10_000
"""The most passes between neighbours."""

State = tuple[
    Int32[Array, ""],
    Int32[Array, "B tokens"],
    Float[Array, "G C D"],
    Int32[Array, " B"],
    Int32[Array, "B tokens"],
    Cache,
]
"""Line of the schedule, tokens, h of the newest grid row, passes, trace, cache."""


@register
@dataclasses.dataclass(frozen=True)
class Wave(Decoder):
    """Corrects many grid rows at once, with a deadline for every token (ours; not lossless).

    The token at grid row r and column c is final in pass

        2 + floor(down * r + right * c)

    (token 0 in the prefill), which for the last one is the number of passes. A grid row is drafted at once, `depth`
    passes before its first token is final, but not before the row above it. Every pass redraws the tokens that have at
    most `depth` passes left, with `ar`'s own noise: the match coupling of the raster loop, but a token is final at its
    deadline, not when everything before it is. With down = C and right = 1 no two tokens become final in one pass, and
    the image is `ar`'s.

    With right = 0 entire grid rows are committed at once, as in SSD: a token's left neighbour may change in the same
    pass in which the token becomes final. On a slanted front, right > 0, fewer tokens are committed together; with
    right = 1/2 every other one has a final left neighbour, with right >= 1 each does. The one above always is final.

    The cache may be out of date for a token that is not final: a grid row is fed when it has been drafted, and its
    tokens, which that pass corrects, are fed again when their last `depth` passes begin. The keys and values of a final
    token are recomputed once, in the next pass. Where tokens become final in raster order, down >= right * (C - 1), the
    cache is then up to date up to the first token of the last pass. Elsewhere tokens of the row above may still change.

    Attributes:
        down: passes by which a grid row is behind the one above it, at least 1.
        right: passes by which a column is behind the one to its left.
        depth: passes that correct a token, fewer if its grid row was drafted later than that; in addition, all of a row
            is corrected once when it has been drafted.
        drafter: "random" | "above" | "spatial", as for `Raster`; the last needs draft heads.
    """

    down: int | float = 1.5
    right: int | float = 0.5
    depth: int = 3
    drafter: str = "spatial"

    def __post_init__(self):
        for name, least in (("down", 1), ("right", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= STEEPEST:
                raise UserError(f"{name} must be a number between {least} and {STEEPEST}, not {value!r}.")
        require_whole("depth", self.depth, 1)
        require_one_of("drafter", self.drafter, DRAFTERS)

    @property
    def heads(self) -> tuple[int, int]:
        """See `Decoder`."""
        return drafting.HEADS.get(self.drafter, (0, 0))

    def schedule(self, grid: Grid) -> Schedule:
        """The tokens that every pass feeds and corrects."""
        return slanted(grid, self.down, self.right, self.depth)

    def passes(self, grid: Grid) -> int:
        """Number of passes of an image, the prefill included."""
        return count_passes(grid, self.down, self.right)

    def check(self, grid: Grid) -> None:
        """See `Decoder.check`."""
        if self.passes(grid) > grid.size + 1:
            raise UserError(f"A wave of {self.passes(grid)} passes is too slow for an image of {grid.size} tokens.")

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`; every window is as wide as the widest. Drafts of grid row 0 are not counted."""
        del horizontal, passes
        if grid.size == 1:
            return (PREFILL,)
        plan = self.schedule(grid)
        drafts = dict(drafts=grid.rows - 1, vertical=1, sources=grid.cols) if self.drafter == "spatial" else {}
        return PREFILL, Stretch(self.passes(grid) - 1, plan.fed.shape[1], plan.live.shape[1], **drafts)

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch; all images proceed at the same speed."""
        plan, C = self.schedule(grid), grid.cols
        tokens, trace, V = first_token(verifier, hidden, grid.size)
        B, one = tokens.shape[0], trace[:, 0]

        def drafted(seen: Seen, count: int) -> Int32[Array, "B tokens"]:
            return drafting.refill(self.drafter, verifier, grid, V, seen, count)[0]

        start, newest = hidden, jnp.pad(hidden, ((0, 0), (C - 1, 0), (0, 0)))
        tokens = drafted(Seen(tokens, jnp.zeros_like(one), newest, one), C - 1)
        if grid.size == 1:
            return Decoded(tokens, one, trace, cache)
        fed_at, live_at, outputs, new, states_at, below = (
            jnp.asarray(table) for table in (plan.fed, plan.live, plan.outputs, plan.new, plan.states, plan.below)
        )

        def body(state: State) -> State:
            k, tokens, newest, passes, trace, cache = state
            fed, live = (jnp.broadcast_to(table[k], (B, table.shape[1])) for table in (fed_at, live_at))
            hidden, cache = verifier.verify(cache, gather(tokens, fed), fed, ends=plan.ends)
            passes = passes + 1
            log_p = verifier.log_p_at(hidden[:, outputs[k]], live)
            with jax.named_scope("accept"):
                tokens = scatter(tokens, live, choose(log_p, verifier.noise(live)))
                trace = scatter(trace, live, passes)

            with jax.named_scope("draft"):
                states = hidden[:, states_at[k]]
                # Token 0 is the prefill's.
                states = jnp.where((new[k] == 0) & (jnp.arange(C) == 0)[:, None], start, states)
                newest = jnp.where(new[k] >= 0, states, newest)
                last = jnp.broadcast_to(below[k] * C - 1, (B,))
                # A real branch: on wide grids most passes draft nothing.
                seen = Seen(tokens, last, newest, passes)
                tokens = jax.lax.cond(below[k] < grid.rows, lambda: drafted(seen, C), lambda: tokens)
            return k + 1, tokens, newest, passes, trace, cache

        state = (jnp.int32(0), tokens, newest, one, trace, cache)
        final = jnp.asarray(plan.final)[None]

        def progress(state: State) -> Progress:
            k, tokens, _, passes, trace, _ = state
            return Progress(k < len(plan.fed), passes, tokens, jnp.where(final <= passes[:, None], trace, 0))

        _, tokens, _, passes, trace, cache = verifier.loop(body, state, progress)
        return Decoded(tokens, passes, trace, cache)
