"""The loop of multi-token prediction: drafts tokens from the last committed one, verifies, commits, and redrafts.

    committed | n-1 : n  n+1 ... n+k-1 |          inputs: the last committed token and k drafts from its state
                      p_n ... p_{n+k}             outputs: between 1 and k + 1 of them become final

Source: blockwise self-speculative decoding, arXiv 2404.19737; the 1D-MTP baseline of arXiv 2606.20543, with its heads.

Lossless, although a draft may use its position's keyed noise g_i in several passes: whether the drafts before position
i are accepted, and what is committed there, depends on their own noise, on fresh draws, and on a verifier that saw only
tokens before i, never on g_i. So given all tokens committed before i, g_i is still independent when the draft of
position i is first considered. That is also the last time: accepted or corrected, the position is then final.
"""

import dataclasses
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ssd_jax.decode.acceptance import accept_window, token_chance
from ssd_jax.decode.base import Decoder, register, require_window
from ssd_jax.decode.cost import PREFILL, Count, Stretch, Stretches
from ssd_jax.decode.state import Decoded, first_token, gather, in_raster_order, scatter
from ssd_jax.decode.verifier import Cache, Verifier
from ssd_jax.errors import require_whole
from ssd_jax.sampling.choice import choose
from ssd_jax.sequence.layout import Grid


@register
@dataclasses.dataclass(frozen=True)
class MTP(Decoder):
    """Speculative decoding in raster order, drafted by the horizontal draft heads.

    The heads ignore grid rows: those at a row's last tokens draft the beginning of the next row.

    Attributes:
        drafts: k, drafted tokens per pass, at most the number of horizontal heads.
    """

    drafts: int = 5

    def __post_init__(self):
        require_whole("drafts", self.drafts, 1)

    @property
    def heads(self) -> tuple[int, int]:
        """See `Decoder`."""
        return 1, 0

    @property
    def adaptive(self) -> bool:
        """See `Decoder`."""
        return True

    @property
    def lossless(self) -> bool:
        """See `Decoder`."""
        return True

    def length(self, grid: Grid, horizontal: int) -> int:
        """k on a grid, with `horizontal` horizontal heads."""
        return min(self.drafts, horizontal, grid.size - 1)

    def check(self, grid: Grid) -> None:
        """See `Decoder.check`."""
        require_window(self.drafts + 1, grid)

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`. The fewest passes, 1 + ceil((R*C - 1) / (k + 1)), need all drafts to be accepted."""
        k = self.length(grid, horizontal)
        fewest = -(-(grid.size - 1) // (k + 1))
        count = fewest if passes is None else max(passes - 1, fewest)
        return PREFILL, Stretch(count, k + 1, k + 1, drafts=count, horizontal=k, sources=1)

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch; images proceed at their own speed."""
        tokens, trace, _ = first_token(verifier, hidden, grid.size)
        one = trace[:, 0]
        k = self.length(grid, verifier.horizontal)
        if k == 0:  # an image of one token
            return Decoded(tokens, one, trace, cache)
        state = State(tokens, one, hidden, one, trace, cache)
        return in_raster_order(verifier, partial(_pass, verifier, grid, k), state, grid)


@flax.struct.dataclass
class State:
    """Attributes:
    tokens: final up to `first`, then 0.
    first: n, the first position that is not final; R*C when the image is finished.
    hidden: h of the last committed token, the state that predicted it.
    passes, trace: as in `Decoded`.
    cache: up to date for every final token but the newest.
    """

    tokens: Int32[Array, "B tokens"]
    first: Int32[Array, " B"]
    hidden: Float[Array, "G 1 D"]
    passes: Int32[Array, " B"]
    trace: Int32[Array, "B tokens"]
    cache: Cache


def _pass(verifier: Verifier, grid: Grid, k: int, s: State) -> State:
    """One draft of k tokens and the verifier pass over it."""
    inputs = s.first[:, None] - 1 + jnp.arange(k + 1, dtype=jnp.int32)[None]
    positions = inputs + 1
    last = inputs[:, :1]
    token = gather(s.tokens, last)
    with jax.named_scope("draft"):
        offsets = tuple((0, right) for right in range(1, k + 1))
        log_q = verifier.draft(s.hidden, token, last % grid.cols, offsets)[:, :, 0]
        log_q = verifier.constrain(log_q, positions[:, :-1])
        drafts = choose(log_q, verifier.noise(positions[:, :-1]))

    hidden, cache = verifier.verify(s.cache, jnp.concatenate([token, drafts], axis=1), inputs)
    unfinished = s.first < grid.size
    passes = s.passes + unfinished.astype(jnp.int32)
    log_p = verifier.log_p_at(hidden, positions)
    with jax.named_scope("accept"):
        new, m = accept_window(verifier, "resample", token_chance, drafts, log_p, log_q, positions, passes)
    # Tokens that the coupling draws after the first rejection are not used.
    target = jnp.where(jnp.arange(k + 1, dtype=jnp.int32)[None] <= m[:, None], positions, grid.size)
    newest = jnp.tile(m, hidden.shape[0] // m.shape[0])
    return State(
        tokens=scatter(s.tokens, target, new),
        first=jnp.minimum(s.first + m + 1, grid.size),
        hidden=jnp.take_along_axis(hidden, newest[:, None, None], axis=1),
        passes=passes,
        trace=scatter(s.trace, target, passes),
        cache=cache,
    )
