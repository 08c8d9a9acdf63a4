"""Defines `Verifier`, a decoder's view of a model: a pass over a window, distributions, keyed noise and draft heads."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

Offsets = tuple[tuple[int, int], ...]
"""(grid rows down, columns right) of draft heads."""


class Beside(NamedTuple):
    """Extra inputs beside a window, each an alternative to the window's token at its position.

    Attributes:
        codes: their codes.
        positions: their positions, in the window or after it.
        before: the position before which each sees the cache and the window; None: its own.
        sees: static, which of them (first axis) sees which, itself included; None: itself alone.
    """

    codes: Int32[Array, "B E"]
    positions: Int32[Array, "B E"]
    before: Int32[Array, "B E"] | None = None
    sees: Bool[np.ndarray, "E E"] | None = None


class Progress(NamedTuple):
    """How far a loop has come.

    Attributes:
        unfinished: whether tokens of an image are missing; one value per image, or one for all.
        passes: verifier passes so far, the prefill included; one value per image, or one for all.
        tokens: the images so far.
        trace: the pass in which each token became final, 0 where it is not final yet.
    """

    unfinished: Bool[Array, "..."]
    passes: Int32[Array, "..."]
    tokens: Int32[Array, "B tokens"]
    trace: Int32[Array, "B tokens"]


Watch = Callable[[Progress, Int32[Array, ""]], Bool[Array, ""]]
"""Sees, inside the program, how far the loop is and how many passes the batch has taken, the prefill included; says
whether the loop goes on."""

S = TypeVar("S")
"""The state of a loop, a pytree."""

Cache = Any
"""A verifier's state between passes, a pytree; a `KVCache` for a backbone. Loops only pass it on."""


class Verifier:
    """A model bound to prompts and a grid, for one run of a decoder; loops call it and import no model.

    B is the number of images, G = 2B with guidance (conditional rows first), else B. `decode.model_verifier` implements
    it for a backbone; the tests have one without a transformer.

    Attributes:
        horizontal, vertical: numbers of draft heads to the right, k_h, and down, k_v; 0 and 0 without heads.
        context: number of columns on either side of its source that a vertical draft head also sees.
        limit: passes after which a loop stops, for timings; None: when all images are finished.
        watch: sees the loop's progress after every `every` passes; None: nobody does.
        row_ends: whether grid rows end with a forced token.
    """

    horizontal: int = 0
    vertical: int = 0
    context: int = 0
    limit: Int32[Array, ""] | None = None
    watch: Watch | None = None
    every: Int32[Array, ""] | int = 1
    row_ends: bool = False
    _watched: tuple[Any, Any] = (True, 1)  # whether the decoder's next loop goes on, and the passes so far

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

        The window is written to the cache, then attended to. All positions before each of the window's must be in the
        cache or in the window: slots that were not written are not masked. Row ends, if the backbone has them, are fed
        with the grid rows' last tokens.

        Args:
            cache: keys and values so far.
            codes: the tokens at `positions`.
            positions: consecutive, then padding. Positions from R*C on are padding: not written, outputs undefined.
            committed: the first position that is not committed, for the row mask. None: the raster mask.
            ends: static; with it, positions may be any distinct ones, at most `ends` of them the last of their grid
                row.
            beside: inputs that are not written. Each sees everything before its position, in the cache and in the
                window, and itself, unless `beside` says otherwise; no row end is fed after it.
        Returns:
            hidden states and the cache. hidden[:, w] predicts position `positions[:, w] + 1`: it is h of that one.
            Those of inputs beside the window come after the window's.
        """
        raise NotImplementedError

    def verify_rows(
        self,
        cache: Cache,
        codes: Int32[Array, "B W"],
        positions: Int32[Array, "B W"],
        leads: Bool[Array, "B W"],
        counts: Int32[Array, "B R"],
    ) -> tuple[Float[Array, "G W D"], Cache]:
        """One pass over tokens of several grid rows, none of which sees drafts of another
        (`sequence.masks.row_causal`).

        Args:
            cache: keys and values so far.
            codes: the tokens at `positions`.
            positions: distinct ones; those from R*C on are padding.
            leads: inputs before a grid row that may have begun before the one above it is complete: row ends, if the
                backbone has them, in the place of the token, else the token.
            counts: number of final tokens at the beginning of each grid row.
        Returns:
            hidden states, one for each input: h of the token after it. That of a grid row's last token is of no use if
            the backbone has row ends.
        """
        raise NotImplementedError

    def log_p(self, hidden: Float[Array, "G W D"]) -> Float32[Array, "B W V"]:
        """log p from hidden states, with guidance and filters, whatever tokens are given."""
        raise NotImplementedError

    def constrain(self, log_p: Float32[Array, "B W V"], positions: Int32[Array, "B W"]) -> Float32[Array, "B W V"]:
        """The same distributions, but all on the given code where a token is given (see `Draw.given`)."""
        del positions
        return log_p

    def place(self, codes: Int32[Array, "B W"], positions: Int32[Array, "B W"]) -> Int32[Array, "B W"]:
        """Codes at `positions`, those of given tokens in the place of theirs."""
        del positions
        return codes

    def log_p_at(self, hidden: Float[Array, "G W D"], positions: Int32[Array, "B W"]) -> Float32[Array, "B W V"]:
        """log p of the tokens at `positions`, which `hidden` predicts: what loops draw from."""
        return self.constrain(self.log_p(hidden), positions)

    def noise(self, positions: Int32[Array, "B W"]) -> Float32[Array, "B W V"]:
        """Keyed Gumbel noise g."""
        raise NotImplementedError

    def keys(self, positions: Int32[Array, "B W"]) -> Key[Array, "B W"]:
        """key_i of every position, from which fresh draws are derived."""
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
        """The predictions of draft heads, if there are any.

        Args:
            hidden: the states h that predicted the sources, which are consecutive in raster order.
            codes: the sources' tokens.
            columns: the sources' columns.
            offsets: the O draft heads.
            count: predict from the first `count` sources only; the others are context.
        Returns:
            log q for all X sources, or for `count`; with guidance and filters as for p.
        """
        raise NotImplementedError

    def verify_diagonal(
        self, cache: Cache, codes: Int32[Array, "B W"], positions: Int32[Array, "B W"]
    ) -> tuple[Float[Array, "G W D"], Float[Array, "G W D"], Cache]:
        """One pass over tokens of an anti-diagonal, with the vertical branch. Each sees the prompt and everything up to
        its own diagonal (`sequence.masks.diagonal`), which must be in the cache or in the window. No row ends are fed.

        Args:
            cache: keys and values so far.
            codes: the tokens at `positions`.
            positions: distinct ones; those from R*C on are padding.
        Returns:
            the backbone's states, which predict the token to the right, the branch's, which predict the one below, and
            the cache.
        """
        raise NotImplementedError

    def log_p_between(
        self, left: Float[Array, "G W D"], above: Float[Array, "G W D"], positions: Int32[Array, "B W"]
    ) -> Float32[Array, "B W V"]:
        """log p of the tokens at `positions`, from the states at their left and upper neighbours: those of both by the
        branch's gate, in grid row 0 the left one alone, in column 0 the upper one alone. What is drawn from, as
        `log_p_at`."""
        raise NotImplementedError

    def loop(self, body: Callable[[S], S], state: S, progress: Callable[[S], Progress]) -> S:
        """Makes passes, `body`, until all images are finished, the limit is reached, or the watch stops it."""

        def goes_on(state: S) -> Bool[Array, ""]:
            now = progress(state)
            unfinished = jnp.any(now.unfinished)
            return unfinished if self.limit is None else unfinished & (jnp.max(now.passes) < self.limit)

        if (watch := self.watch) is None:
            return jax.lax.while_loop(goes_on, body, state)

        def watched(seen: tuple[S, Bool[Array, ""], Int32[Array, ""]]) -> tuple[S, Bool[Array, ""], Int32[Array, ""]]:
            state, _, passes = seen
            state, passes = body(state), passes + 1
            due = passes % self.every == 0
            return state, jax.lax.cond(due, lambda: watch(progress(state), passes), lambda: jnp.bool_(True)), passes

        begun = state, jnp.bool_(self._watched[0]), jnp.int32(self._watched[1])
        state, *rest = jax.lax.while_loop(lambda seen: seen[1] & goes_on(seen[0]), watched, begun)
        self._watched = rest[0], rest[1]
        return state
