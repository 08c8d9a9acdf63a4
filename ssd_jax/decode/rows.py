"""The row loop (SSD, arXiv 2606.20543): drafts a block of positions at once, corrects it in rounds, commits it.

Grid row 0 is decoded in blocks of k_h tokens, drafted by the horizontal draft heads at the last committed token; the
vertical heads then draft entire grid rows from the row above. A round verifies the block in one pass: every position
independently accepts its token or takes a residual draw. A commit pass then updates the cache and gives the states for
the next draft.

Not lossless for a fixed number of rounds: a position is corrected against neighbours that may still change. With
rounds="auto" a block is verified until a pass changes nothing, and that is lossless: after t rounds position i follows
p_i given the tokens that the earlier positions had one round before, whatever those are, so the first t positions are
final, and once a pass changes nothing no later pass would.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.decode.base import Decoder, register
from ssd_jax.decode.blocks import AUTO, MASKS, Phase, Rounds, first_row, first_row_stretches, run
from ssd_jax.decode.cost import Count, Stretch, Stretches, total
from ssd_jax.decode.state import Decoded, gather
from ssd_jax.decode.verifier import Cache, Verifier
from ssd_jax.errors import UserError, is_whole, require_one_of, require_whole
from ssd_jax.sequence.layout import Grid

MOST_ROUNDS = 10_000
"""The most rounds of a block; with more `ar` takes fewer passes."""


@register
@dataclasses.dataclass(frozen=True)
class SSD(Decoder):
    """Spatially speculative decoding by grid rows.

    Passes on an R x C grid with k_h horizontal heads, b = rounds and i = extra_rounds:

        1 + 2 ceil((C - 1) / k_h) + ceil((R - 1) / rows) (b + i + 1)

    (prefill; grid row 0, verify and commit per block; the other blocks' rounds and commit). With rows = 2 and an even R
    the last block has one row; it gets all b + i rounds. `ssd2` on 48 x 48: 1 + 2 * 10 + 24 * 5 = 141. With
    rounds="auto" the count depends on the image; the pass that changes nothing is the commit pass.

    Attributes:
        rounds: b, verification rounds per block of grid rows, or "auto". Grid row 0 has one per block, or "auto".
        extra_rounds: i, with the staged schedule: rounds on the second grid row after the first is final. They
            recompute the first row's keys and values before attending to them, so it needs no own commit pass.
        rows: k_v, grid rows per block, 1 or 2; as many vertical draft heads are needed.
        schedule: "joint" (all rounds on both grid rows) or "staged".
        mask: "raster", or "row": in rounds, extra ones included, an input sees only its own grid row of the block (see
            `sequence.masks.row`). Commit passes use the raster mask.
    """

    rounds: Rounds = 2
    extra_rounds: int = 0
    rows: int = 1
    schedule: str = "joint"
    mask: str = "raster"

    def __post_init__(self):
        if self.rounds != AUTO and not is_whole(self.rounds, 0):
            raise UserError(f'rounds must be a whole number of at least 0 or "auto", not {self.rounds!r}.')
        if self.rounds != AUTO:
            require_whole("rounds", self.rounds, 0, MOST_ROUNDS)
        require_whole("extra_rounds", self.extra_rounds, 0, MOST_ROUNDS)
        if not is_whole(self.rows, 1) or self.rows > 2:
            raise UserError(f"rows must be 1 or 2, not {self.rows!r}.")
        require_one_of("schedule", self.schedule, ("joint", "staged"))
        require_one_of("mask", self.mask, MASKS)
        if self.schedule == "staged" and (self.rows != 2 or self.rounds == AUTO):
            raise UserError("The staged schedule needs rows=2 and a fixed number of rounds.")
        if self.schedule == "joint" and self.extra_rounds:
            raise UserError('extra_rounds belong to the staged schedule; set schedule="staged" and rows=2.')
        if self.rounds == AUTO and self.mask == "row":
            raise UserError('rounds="auto" needs the raster mask.')

    @property
    def heads(self) -> tuple[int, int]:
        """See `Decoder`."""
        return 1, self.rows

    @property
    def adaptive(self) -> bool:
        """See `Decoder`."""
        return self.rounds == AUTO

    @property
    def lossless(self) -> bool:
        """See `Decoder`."""
        return self.rounds == AUTO

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`; passes of an adaptive one beyond the fewest count as rounds below grid row 0."""
        start = first_row_stretches(grid, horizontal, AUTO if self.adaptive else 1)
        blocks, X = -(-(grid.rows - 1) // self.rows), self.rows * grid.cols
        drafts = dict(drafts=blocks, vertical=self.rows, sources=grid.cols)
        if self.rounds == AUTO:
            rounds = blocks if passes is None else max(passes - total(start), blocks)
            return *start, Stretch(rounds, X, X, **drafts)
        rounds = blocks * (self.rounds + self.extra_rounds)
        return *start, Stretch(rounds, X, X, **drafts), Stretch(blocks, X, outputs=0)

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch."""
        state = first_row(verifier, cache, hidden, grid, AUTO if self.rounds == AUTO else 1)
        offsets = tuple((down, 0) for down in range(1, self.rows + 1))

        def draft(
            row: Float[Array, "G C D"], tokens: Int32[Array, "B tokens"], base: Int32[Array, " B"]
        ) -> Float32[Array, "B X V"]:
            columns = jnp.broadcast_to(jnp.arange(grid.cols, dtype=jnp.int32), (base.size, grid.cols))
            above = base[:, None] - grid.cols + columns
            log_q = verifier.draft(row, gather(tokens, above), columns, offsets)
            return log_q.reshape(log_q.shape[0], -1, log_q.shape[-1])

        phase = Phase(
            length=self.rows * grid.cols,
            end=grid.size,
            rounds=AUTO if self.rounds == AUTO else self.rounds + self.extra_rounds,
            joint=self.rounds,
            row_mask=self.mask == "row",
            remember=lambda row, hidden, positions: hidden[:, -grid.cols :],
            draft=draft,
        )
        state = run(verifier, grid, phase, state)
        return Decoded(state.tokens, state.passes, state.trace, state.cache)
