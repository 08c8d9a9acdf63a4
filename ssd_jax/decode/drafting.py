"""Drafters of the raster loop and of the wave.

A drafter fills, for every image, the positions after `last`, the last one with a hidden state. Copies and random codes
have a one-hot q; draft heads give a q to draw from.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.decode.state import gather, scatter
from ssd_jax.decode.verifier import Verifier
from ssd_jax.sampling.choice import choose
from ssd_jax.sampling.noise import Tag, fresh_keys, uniform_codes
from ssd_jax.sequence.layout import Grid

DRAFTERS = ["random", "left", "above", "horizontal", "spatial"]
"""Names of all drafters; `drafter` adds to them."""

HEADS = {"horizontal": (1, 0), "spatial": (1, 1)}
"""The least numbers of horizontal and vertical draft heads that a drafter needs; the others need none. It uses all
horizontal heads and the first vertical one."""


class Seen(NamedTuple):
    """The inputs of a drafter.

    Attributes:
        tokens: current tokens of the entire grid; those up to `last` are the verifier's.
        last: the last position with a hidden state.
        row: h of the positions last - C + 1 .. last; None for drafters without draft heads.
        clock: the pass index, passes so far.
    """

    tokens: Int32[Array, "B tokens"]
    last: Int32[Array, " B"]
    row: Float[Array, "G C D"] | None
    clock: Int32[Array, " B"]


Guess = Callable[[Grid, Seen, int], Int32[Array, "B count"]]
"""(grid, inputs, count) -> codes of the positions last + 1 .. last + count."""

GUESSES: dict[str, Guess] = {}
"""Drafters registered from outside the package, by name."""


def drafter(name: str) -> Callable[[Guess], Guess]:
    """Registers a function as a drafter of the raster loop: `Raster(drafter=name)`.

    Its guesses, codes from 0 to V - 1, have a one-hot q, so lossless couplings stay lossless whatever the guesses are.
    Raises ValueError for a name that is taken.
    """
    if name in DRAFTERS:
        raise ValueError(f"there is a drafter {name!r} already")

    def register(guess: Guess) -> Guess:
        DRAFTERS.append(name)
        GUESSES[name] = guess
        return guess

    return register


def draft(
    drafter: str, verifier: Verifier, grid: Grid, vocabulary: int, seen: Seen, count: int
) -> tuple[Int32[Array, "B {count}"], Float32[Array, "B {count} {vocabulary}"]]:
    """Drafts of the positions last + 1 .. last + count, and the log q from which they were drawn."""
    positions = seen.last[:, None] + 1 + jnp.arange(count, dtype=jnp.int32)[None]
    if drafter == "random":
        codes = uniform_codes(fresh_keys(verifier.keys(positions), Tag.DRAFT, seen.clock), vocabulary)
    elif drafter in GUESSES:
        codes = GUESSES[drafter](grid, seen, count)
    else:
        codes = gather(seen.tokens, _copied_from(drafter, positions, seen.last[:, None], grid.cols))
    codes = verifier.place(codes, positions)
    log_q = certain(codes, vocabulary)
    if drafter not in HEADS:
        return codes, log_q

    reach = min(verifier.horizontal, count)
    log_q = log_q.at[:, :reach].set(_horizontal(drafter, verifier, grid, seen, positions[:, :reach], log_q))
    if drafter == "spatial":
        below = min(grid.cols, count)
        log_q = log_q.at[:, :below].set(_vertical(verifier, grid, seen, positions[:, :below], log_q))
        reach = max(reach, below)
    log_q = verifier.constrain(log_q, positions)
    drawn = choose(log_q[:, :reach], verifier.noise(positions[:, :reach]))
    return jnp.concatenate([drawn, codes[:, reach:]], axis=1), log_q


def refill(
    drafter: str, verifier: Verifier, grid: Grid, vocabulary: int, seen: Seen, count: int
) -> tuple[Int32[Array, "B tokens"], Float32[Array, "B {count} {vocabulary}"]]:
    """The tokens with `count` drafts after the last position seen, and the drafts' log q."""
    if count == 0:
        return seen.tokens, jnp.zeros((seen.tokens.shape[0], 0, vocabulary), jnp.float32)
    codes, log_q = draft(drafter, verifier, grid, vocabulary, seen, count)
    return scatter(seen.tokens, seen.last[:, None] + 1 + jnp.arange(count, dtype=jnp.int32)[None], codes), log_q


def _horizontal(
    drafter: str,
    verifier: Verifier,
    grid: Grid,
    seen: Seen,
    positions: Int32[Array, "B reach"],
    log_q: Float32[Array, "B count V"],
) -> Float32[Array, "B reach V"]:
    """log q of the positions within reach of the draft heads at `last` and in its grid row; others keep their log q."""
    assert seen.row is not None
    state, reach = seen.row[:, -1:], positions.shape[1]
    last = seen.last[:, None]
    same_row = positions // grid.cols == last // grid.cols

    def heads() -> Float32[Array, "B reach V"]:
        offsets = tuple((0, right) for right in range(1, reach + 1))
        q = verifier.draft(state, gather(seen.tokens, last), last % grid.cols, offsets)[:, :, 0]
        return jnp.where(same_row[..., None], q, log_q[:, :reach])

    if drafter == "horizontal":
        return heads()
    # With vertical heads only grid row 0 needs these: a real branch, so that later passes do not compute them.
    return jax.lax.cond(jnp.any(last + 1 < grid.cols), heads, lambda: log_q[:, :reach])


def _vertical(
    verifier: Verifier, grid: Grid, seen: Seen, positions: Int32[Array, "B below"], log_q: Float32[Array, "B count V"]
) -> Float32[Array, "B below V"]:
    """log q of the positions below one with a hidden state: the next C after `last`, except in grid row 0.

    If draft heads have a context, they also see the source's neighbours, which may still be drafts.
    """
    assert seen.row is not None
    count = positions.shape[1]
    X = min(count + verifier.context, grid.cols)
    sources = seen.last[:, None] + 1 + jnp.arange(-grid.cols, X - grid.cols, dtype=jnp.int32)[None]
    q = verifier.draft(seen.row[:, :X], gather(seen.tokens, sources), sources % grid.cols, ((1, 0),), count)[:, 0]
    return jnp.where((positions >= grid.cols)[..., None], q, log_q[:, :count])


def _copied_from(
    drafter: str, positions: Int32[Array, "B count"], last: Int32[Array, "B 1"], cols: int
) -> Int32[Array, "B count"]:
    """The seen position whose token a position copies.

    `left` (and `horizontal` beyond its heads) follows the grid row to the left, then column 0 upwards; the others
    follow the column upwards and, in grid row 0, the row to the left. They stop at the first seen position.
    """
    if drafter in ("left", "horizontal"):
        return jnp.where(positions // cols == last // cols, last, last // cols * cols)
    above = positions - cols * -((last - positions) // cols)
    return jnp.where(above >= 0, above, last)


def certain(codes: Int32[Array, "*places"], vocabulary: int) -> Float32[Array, "*places {vocabulary}"]:
    """log q of deterministic drafts: one-hot."""
    ids = jax.lax.broadcasted_iota(jnp.int32, (*codes.shape, vocabulary), codes.ndim)
    return jnp.where(ids == codes[..., None], 0.0, -jnp.inf)
