"""What a decoder sees of a model: one forward pass over a window, distributions, keyed noise and head drafts."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

Offsets = tuple[tuple[int, int], ...]
"""(rows down, columns right) of draft heads."""


class Beside(NamedTuple):
    """Inputs beside a window, each in the place of what the window has at its position.

    Attributes:
        codes: their tokens.
        positions: where they would stand; in the window, or behind it.
    """

    codes: Int32[Array, "B E"]
    positions: Int32[Array, "B E"]


Cache = Any
"""What a verifier keeps of the passes so far, a pytree; of a backbone a `KVCache`. Loops only hand it on."""


class Verifier:
    """A model bound to prompts and a grid; loops call it and import no model.

    B is the number of images, G = 2B with guidance (conditional rows first), else B. `decode.model_verifier` has that
    of a backbone; the tests have one without a transformer.

    Attributes:
        horizontal, vertical: number of heads to the right, k_h, and down, k_v; 0 and 0 without heads.
        context: columns on either side of its source that a vertical head sees, too.
        limit: passes after which a loop stops, for timings; None: at the end of the pictures.
        row_ends: whether a forced token stands between the rows.
    """

    horizontal: int = 0
    vertical: int = 0
    context: int = 0
    limit: Int32[Array, ""] | None = None
    row_ends: bool = False

    def verify(
        self,
        cache: Cache,
        codes: Int32[Array, "B W"],
        positions: Int32[Array, "B W"],
        committed: Int32[Array, " B"] | None = None,
        ends: int | None = None,
        beside: Beside | None = None,
    ) -> tuple[Float[Array, "G fed D"], Cache]:
        """One pass over a window.

        The window is written to the cache, then attended to. All positions before each of the window's are in the cache
        or in the window: what has not been written is not masked. Row ends, where the backbone has them, are fed with
        the rows' last tokens.

        Args:
            cache: keys and values so far.
            codes: the tokens at `positions`.
            positions: consecutive, padding behind them. Positions from R*C on are padding: not written, outputs
                meaningless.
            committed: the first position that is not committed: attention by the row mask. None: in raster order.
            ends: a number known when traced: positions may be any distinct ones, no more than `ends` of them the last
                of their row.
            beside: inputs that are not written. Each sees what stands before its position, in the cache and in the
                window, and itself; no row end is fed behind it.
        Returns:
            hidden states and the cache. hidden[:, w] predicts position `positions[:, w] + 1`: it is h of that one.
            Those of inputs beside the window stand behind it.
        """
        raise NotImplementedError

    def log_p(self, hidden: Float[Array, "G W D"]) -> Float32[Array, "B W V"]:
        """log p of hidden states; guidance and filters applied."""
        raise NotImplementedError

    def noise(self, positions: Int32[Array, "B W"]) -> Float32[Array, "B W V"]:
        """Keyed Gumbel noise g."""
        raise NotImplementedError

    def keys(self, positions: Int32[Array, "B W"]) -> Key[Array, "B W"]:
        """key_i of every position: what fresh draws are derived from."""
        raise NotImplementedError

    def embed(self, codes: Int32[Array, "*codes"]) -> Float[Array, "*codes D"]:
        """Input embeddings e."""
        raise NotImplementedError

    def draft(
        self,
        hidden: Float[Array, "G X D"],
        codes: Int32[Array, "B X"],
        columns: Int32[Array, "B X"],
        offsets: Offsets,
        count: int | None = None,
    ) -> Float32[Array, "B O drafted V"]:
        """What the heads predict; only where there are some.

        Args:
            hidden: the states h that predicted the sources, which are consecutive in raster order.
            codes: the sources' tokens.
            columns: their columns.
            offsets: O heads.
            count: only of the first `count` sources; the others are context for heads that see what is beside theirs.
        Returns:
            log q of all X sources, or of `count`; guidance and filters applied as to p.
        """
        raise NotImplementedError

    def goes_on(self, unfinished: Bool[Array, "..."], passes: Int32[Array, "..."]) -> Bool[Array, ""]:
        """Whether a loop makes another pass: pictures are `unfinished`, and the passes made so far are below the
        limit."""
        unfinished = jnp.any(unfinished)
        return unfinished if self.limit is None else unfinished & (jnp.max(passes) < self.limit)
