"""Plain autoregressive decoding: one token per pass. The oracle of every exactness test."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from ssd_jax.decode.base import Decoder, register, require_window
from ssd_jax.decode.cost import PREFILL, Count, Stretch, Stretches
from ssd_jax.decode.state import Decoded
from ssd_jax.decode.verifier import Cache, Progress, Verifier
from ssd_jax.errors import require_whole
from ssd_jax.sampling.choice import choose
from ssd_jax.sequence.layout import Grid


@register
@dataclasses.dataclass(frozen=True)
class AR(Decoder):
    """Ancestral sampling by Gumbel-max, token i = argmax(log p_i + g_i); R*C passes, the prefill included.

    If the backbone has row ends every pass has a slot for one, whether a grid row ends there or not. A branch would
    save the slot's cost, at most 1.4 % of a pass by `--plan` (Emu3); on a CPU products of two rows are padded anyway.

    Attributes:
        window: W, positions per pass: one token, then padding. With the window of another decoder it runs the same
            kernels as that one, for comparisons where the bits of a token depend on the size of the window (GPUs, TPUs,
            float32). The loop clips a window larger than the grid; `Pipeline` refuses it.
    """

    window: int = 1

    def __post_init__(self):
        require_whole("window", self.window, 1)

    @property
    def lossless(self) -> bool:
        """See `Decoder`."""
        return True

    def width(self, grid: Grid) -> int:
        """W on a grid."""
        return min(self.window, grid.size)

    def check(self, grid: Grid) -> None:
        """See `Decoder.check`."""
        require_window(self.window, grid)

    def stretches(self, grid: Grid, horizontal: int = 0, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`."""
        del horizontal, passes
        return PREFILL, Stretch(grid.size - 1, window=self.width(grid), outputs=self.width(grid))

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch."""
        padding = ((0, 0), (0, self.width(grid) - 1))

        def draw(hidden: Float[Array, "G W D"], position: Int32[Array, ""]) -> Int32[Array, "B 1"]:
            """The token at `position` of every image."""
            log_p = verifier.log_p(hidden)[:, :1]
            positions = jnp.broadcast_to(position, (log_p.shape[0], 1)).astype(jnp.int32)
            with jax.named_scope("sampling"):
                return choose(verifier.constrain(log_p, positions), verifier.noise(positions))

        def body(state: tuple) -> tuple:
            position, token, tokens, cache = state
            positions = jnp.broadcast_to(position - 1, token.shape)
            positions = jnp.pad(positions, padding, constant_values=grid.size)
            hidden, cache = verifier.verify(cache, jnp.pad(token, padding), positions)
            token = draw(hidden, position)
            tokens = lax.dynamic_update_slice(tokens, token, (0, position))
            return position + 1, token, tokens, cache

        token = draw(hidden, jnp.int32(0))
        tokens = jnp.zeros((token.shape[0], grid.size), jnp.int32).at[:, :1].set(token)
        state = (jnp.int32(1), token, tokens, cache)
        when = jnp.broadcast_to(jnp.arange(1, grid.size + 1, dtype=jnp.int32), tokens.shape)

        def progress(state: tuple) -> Progress:
            position, _, tokens, _ = state
            return Progress(position < grid.size, position, tokens, jnp.where(when <= position, when, 0))

        position, _, tokens, cache = verifier.loop(body, state, progress)
        return Decoded(tokens, jnp.broadcast_to(position, tokens.shape[:1]), when, cache)
