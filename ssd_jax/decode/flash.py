"""FlashAR's loop: draws one anti-diagonal of the grid per pass, with a vertical branch."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ssd_jax.decode.base import Decoder, register
from ssd_jax.decode.cost import PREFILL, Count, Stretch, Stretches
from ssd_jax.decode.state import Decoded, first_token, gather, scatter
from ssd_jax.decode.verifier import Cache, Progress, Verifier
from ssd_jax.errors import UserError, require_whole
from ssd_jax.sampling.choice import choose
from ssd_jax.sequence.diagonals import diagonals
from ssd_jax.sequence.layout import Grid

State = tuple[Int32[Array, ""], Int32[Array, "B tokens"], Int32[Array, " B"], Int32[Array, "B tokens"], Cache]
"""How many diagonals are drawn after the first, or rounds made; tokens, passes, trace, cache."""


@register
@dataclasses.dataclass(frozen=True)
class Flash(Decoder):
    """Draws whole anti-diagonals (FlashAR, arXiv 2605.09430; not lossless).

    Pass 1 + c draws all tokens with grid row + column = c, each from the states of its left and upper neighbours, which
    pass c drew and this pass is fed (the first is the prefill): R + C - 1 passes. The tokens of a diagonal are drawn
    independently of each other, and attend to the diagonals before theirs where `ar` attends to what is earlier in
    raster order. The backbone has to be trained for that, with the branch.

    Then (ours) `rounds` passes over the whole grid redraw every token from what the backbone predicts in raster order,
    with the noise that `ar` has: after n of them the first n + 1 tokens are those that `ar` draws with this backbone.

    Attributes:
        rounds: number of these passes; 0 as published.
    """

    rounds: int = 0

    def __post_init__(self):
        require_whole("rounds", self.rounds, 0)

    @property
    def branch(self) -> bool:
        """See `Decoder`."""
        return True

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`."""
        del horizontal, passes
        if grid.size == 1:
            return (PREFILL,)
        width, rest = min(grid.rows, grid.cols), grid.size - 1
        drawn = PREFILL, Stretch(grid.rows + grid.cols - 2, width, width, branch=1)
        return (*drawn, Stretch(self.rounds, rest, rest)) if self.rounds else drawn

    def check(self, grid: Grid) -> None:
        """See `Decoder.check`."""
        if self.rounds >= grid.size:
            raise UserError(f"{self.rounds} rounds are too many for an image of {grid.size} tokens.")

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch; all images proceed at the same speed."""
        tokens, trace, _ = first_token(verifier, hidden, grid.size)
        B, one = tokens.shape[0], trace[:, 0]
        positions, left, above = (jnp.asarray(table) for table in diagonals(grid))
        last, final = len(positions) - 1, self.rounds == 0

        def draw(state: State) -> State:
            drawn, tokens, passes, trace, cache = state
            fed, new = (jnp.broadcast_to(positions[k], (B, positions.shape[1])) for k in (drawn, drawn + 1))
            right, below, cache = verifier.verify_diagonal(cache, gather(tokens, fed), fed)
            passes = passes + 1
            states = right[:, left[drawn + 1]], below[:, above[drawn + 1]]
            log_p = verifier.log_p_between(*states, new)
            with jax.named_scope("accept"):
                tokens = scatter(tokens, new, choose(log_p, verifier.noise(new)))
                trace = scatter(trace, new, passes)
            return drawn + 1, tokens, passes, trace, cache

        def drawing(state: State) -> Progress:
            drawn, tokens, passes, trace, _ = state
            # Token 0, the prefill's, is `ar`'s; the others are final only if they are not redrawn.
            return Progress(drawn < last, passes, tokens, trace if final else jnp.where(trace == 1, 1, 0))

        state = verifier.loop(draw, (jnp.int32(0), tokens, one, trace, cache), drawing)
        if final or not last:
            _, tokens, passes, trace, cache = state
            return Decoded(tokens, passes, trace, cache)
        fed = jnp.broadcast_to(jnp.arange(grid.size - 1, dtype=jnp.int32), (B, grid.size - 1))

        def redraw(state: State) -> State:
            done, tokens, passes, trace, cache = state
            hidden, cache = verifier.verify(cache, tokens[:, :-1], fed)
            log_p = verifier.log_p_at(hidden, fed + 1)
            with jax.named_scope("accept"):
                tokens = scatter(tokens, fed + 1, choose(log_p, verifier.noise(fed + 1)))
            return done + 1, tokens, passes + 1, scatter(trace, fed + 1, passes + 1), cache

        def redrawing(state: State) -> Progress:
            done, tokens, passes, trace, _ = state
            rest = done < self.rounds
            return Progress(rest, passes, tokens, jnp.where(rest & (trace > 1), 0, trace))

        _, *state = verifier.loop(redraw, (jnp.int32(0), *state[1:]), redrawing)
        return Decoded(*state)
