"""What a decoder sees of a model: one forward pass over a window, distributions, keyed noise and head drafts."""

import jax
import jax.numpy as jnp

from ssd_jax.sequence.cache import KVCache

Offsets = tuple[tuple[int, int], ...]
"""(rows down, columns right) of draft heads."""


class Verifier:
    """A model bound to prompts and a grid; loops call it and import no model.

    B is the number of images, G = 2B with guidance (conditional rows first), else B. `decode.model_verifier` has that
    of a backbone; the tests have one without a transformer.

    Attributes:
        horizontal, vertical: number of heads to the right, k_h, and down, k_v; 0 and 0 without heads.
        context: columns on either side of its source that a vertical head sees, too.
        limit: int32, passes after which a loop stops, for timings; None: at the end of the pictures.
    """

    horizontal: int = 0
    vertical: int = 0
    context: int = 0
    limit: jax.Array | None = None

    def verify(
        self,
        cache: KVCache,
        codes: jax.Array,
        positions: jax.Array,
        committed: jax.Array | None = None,
        ends: int | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """One pass over a window.

        The window is written to the cache, then attended to. All positions before each of the window's are in the cache
        or in the window: what has not been written is not masked. Row ends, where the backbone has them, are fed with
        the rows' last tokens.

        Args:
            cache: keys and values so far.
            codes: int32 [B, W], the tokens at `positions`.
            positions: int32 [B, W], consecutive, padding behind them. Positions from R*C on are padding: not written,
                outputs meaningless.
            committed: int32 [B], the first position that is not committed: attention by the row mask. None: in raster
                order.
            ends: a number known when traced: positions may be any distinct ones, no more than `ends` of them the last
                of their row.
        Returns:
            hidden [G, W, D] and the cache. hidden[:, w] predicts position `positions[:, w] + 1`: it is h of that one.
        """
        raise NotImplementedError

    def log_p(self, hidden: jax.Array) -> jax.Array:
        """log p, float32 [B, W, V], of hidden states [G, W, D]; guidance and filters applied."""
        raise NotImplementedError

    def noise(self, positions: jax.Array) -> jax.Array:
        """Keyed Gumbel noise g, float32 [B, W, V], of positions int32 [B, W]."""
        raise NotImplementedError

    def keys(self, positions: jax.Array) -> jax.Array:
        """key_i, [B, W], of positions int32 [B, W]: what fresh draws are derived from."""
        raise NotImplementedError

    def embed(self, codes: jax.Array) -> jax.Array:
        """Input embeddings e [..., D] of codes int32 [...]."""
        raise NotImplementedError

    def draft(
        self, hidden: jax.Array, codes: jax.Array, columns: jax.Array, offsets: Offsets, count: int | None = None
    ) -> jax.Array:
        """What the heads predict; only where there are some.

        Args:
            hidden: [G, X, D], the states h that predicted the sources, which are consecutive in raster order.
            codes: int32 [B, X], the sources' tokens.
            columns: int32 [B, X], their columns.
            offsets: O heads.
            count: only of the first `count` sources; the others are context for heads that see what is beside theirs.
        Returns:
            log q, float32 [B, O, X, V], or [B, O, count, V]; guidance and filters applied as to p.
        """
        raise NotImplementedError

    def goes_on(self, unfinished: jax.Array, passes: jax.Array) -> jax.Array:
        """Whether a loop makes another pass: pictures are `unfinished`, bool of any shape, and the passes made so far,
        int32 of any shape, are below the limit."""
        unfinished = jnp.any(unfinished)
        return unfinished if self.limit is None else unfinished & (jnp.max(passes) < self.limit)
