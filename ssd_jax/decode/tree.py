"""The tree loop: a raster window with several candidates for each of its first drafts.

    committed | n-1 : n    n+1   n+2 ...    the newest token and X drafts, a chain
                      n'                    siblings of the draft of n, beside the window
                           n+1   ...        below each of them, and of the draft, all candidates of n + 1

Candidates are tried in turn, and an accepted sibling is followed through its own part of the tree (see
`decode.branches`). All later drafts are coupled to the verifier's p as in the raster loop with `maximal`.

Source: SJD-PAC, arXiv 2603.18599 (proactive drafting and adaptive continuation). As in its released code, a position
has the same candidates on every path, and drafts near the front are coupled to p after the accepted path. Unlike
there, siblings are drawn from the q of their draft, without the draft, and accepted as such. The released code draws
candidates from residuals, but accepts them as draws of the whole p, which is not lossless. And drafts that enter the
window have no siblings until the verifier has seen them once.

Nothing in the cache is moved: tokens of an accepted path beside the window are fed again by the next window, which
begins `depth` - 1 tokens before the newest one.
"""

import dataclasses
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.decode import branches, drafting
from ssd_jax.decode.acceptance import accept_window, token_chance
from ssd_jax.decode.base import Decoder, register, require_window
from ssd_jax.decode.cost import PREFILL, Count, Stretch, Stretches
from ssd_jax.decode.drafting import Seen
from ssd_jax.decode.state import Decoded, first_token, gather, in_raster_order, scatter, slices, traced
from ssd_jax.decode.verifier import Cache, Verifier
from ssd_jax.errors import UserError, require_whole
from ssd_jax.sequence.layout import Grid

MOST = 16
"""The largest number of candidates, and the largest depth."""


@register
@dataclasses.dataclass(frozen=True)
class Tree(Decoder):
    """Jacobi decoding with a tree of candidates at the front.

    Attributes:
        window: inputs of a pass: the newest token, the drafts after it and the nodes beside them. The `depth` - 1
            tokens that are fed again are not counted.
        candidates: how many there are for each of the first positions.
        depth: levels of the tree, that of the newest token included.
    """

    window: int = 64
    candidates: int = 3
    depth: int = 3

    def __post_init__(self):
        require_whole("window", self.window, 1)
        require_whole("candidates", self.candidates, 2, MOST)
        require_whole("depth", self.depth, 2, MOST)
        if (needed := sum(self.candidates**level for level in range(self.depth))) > self.window:
            raise UserError(
                f"A tree of depth {self.depth} with {self.candidates} candidates has {needed} nodes, more than the "
                f"window's {self.window}."
            )

    @property
    def adaptive(self) -> bool:
        """See `Decoder`."""
        return True

    @property
    def lossless(self) -> bool:
        """See `Decoder`."""
        return True

    @property
    def levels(self) -> int:
        """Positions that have several candidates."""
        return self.depth - 1

    def drafts(self, grid: Grid) -> int:
        """X, the drafts of the window, on a grid."""
        return max(min(self.window - 1 - branches.count(self.candidates, self.levels), grid.size - 1), self.levels)

    def check(self, grid: Grid) -> None:
        """See `Decoder.check`."""
        require_window(self.window, grid)

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`. The fewest passes, 1 + ceil((R*C - 1) / (X + 1)), need all drafts to be right."""
        X, E = self.drafts(grid), branches.count(self.candidates, self.levels)
        fewest = -(-(grid.size - 1) // (X + 1))
        count = fewest if passes is None else max(passes - 1, fewest)
        return PREFILL, Stretch(count, X + 1 + self.levels, X + 1 + E, beside=E)

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch; images proceed at their own speed."""
        tokens, trace, V = first_token(verifier, hidden, grid.size)
        one = trace[:, 0]
        seen = Seen(tokens, jnp.zeros_like(one), None, one)
        tokens, log_q = drafting.refill("random", verifier, grid, V, seen, self.drafts(grid))
        state = State(tokens, one, log_q, _siblings(verifier, self, tokens, log_q, one, one), one, trace, cache)
        return in_raster_order(verifier, partial(_pass, verifier, grid, self), state, grid)


@flax.struct.dataclass
class State:
    """Attributes:
    tokens: final up to `first`, then drafts.
    first: n, the first position that is not final; R*C when the image is finished.
    log_q: of the X drafts from n on.
    siblings: of the first drafts.
    passes, trace: as in `Decoded`.
    cache: up to date for every final token but the newest `depth`.
    """

    tokens: Int32[Array, "B tokens"]
    first: Int32[Array, " B"]
    log_q: Float32[Array, "B X V"]
    siblings: Int32[Array, "B levels others"]
    passes: Int32[Array, " B"]
    trace: Int32[Array, "B tokens"]
    cache: Cache


def _pass(verifier: Verifier, grid: Grid, tree: Tree, s: State) -> State:
    """One verifier pass: accepts, commits and redrafts."""
    levels, X, nodes = tree.levels, tree.drafts(grid), branches.nodes(tree.candidates, tree.levels)
    newest = s.first - 1
    begin = jnp.maximum(newest - levels, 0)
    inputs = begin[:, None] + jnp.arange(X + 1 + levels, dtype=jnp.int32)[None]
    positions = s.first[:, None] + jnp.arange(X + 1, dtype=jnp.int32)[None]
    drafts = gather(s.tokens, positions[:, :-1])
    candidates = jnp.concatenate([drafts[:, :levels, None], s.siblings], axis=2)
    beside = branches.beside(nodes, candidates, s.first)
    hidden, cache = verifier.verify(s.cache, gather(s.tokens, inputs), inputs, beside=beside)
    hidden = _from_newest(hidden, newest - begin, X + 1, levels)
    passes = s.passes + (s.first < grid.size).astype(jnp.int32)
    log_p = verifier.log_p_at(hidden, jnp.concatenate([positions, beside.positions + 1], axis=1))
    log_p, after = log_p[:, : X + 1], log_p[:, X + 1 :]

    with jax.named_scope("accept"):
        front, q, at = log_p[:, : levels + 1], s.log_q[:, :levels], positions[:, : levels + 1]
        walk = branches.walk(verifier, nodes, candidates, front, after, q, at, passes, grid.cols)
        log_p = jnp.concatenate([walk.log_p, log_p[:, levels + 1 :]], axis=1)
        new, m = accept_window(verifier, "maximal", token_chance, drafts, log_p, s.log_q, positions, passes)
        count = jnp.where(walk.through, m + 1, walk.final)
        walked = ~walk.through[:, None] & (jnp.arange(levels + 1, dtype=jnp.int32)[None] < walk.final[:, None])
        new = jnp.concatenate([jnp.where(walked, walk.tokens, new[:, : levels + 1]), new[:, levels + 1 :]], axis=1)
    first = jnp.minimum(s.first + count, grid.size)
    trace = traced(s.trace, s.first, first, passes)

    with jax.named_scope("draft"):
        seen = Seen(scatter(s.tokens, positions, new), positions[:, -1], None, passes)
        tokens, fresh = drafting.refill("random", verifier, grid, log_p.shape[-1], seen, X)
        # Drafts that stay in the window were drawn from this pass's p; the window moves on.
        both = jnp.concatenate([log_p, fresh], axis=1)
        log_q = slices(both, count, X)
        siblings = _siblings(verifier, tree, tokens, log_q, first, passes)
    return State(tokens, first, log_q, siblings, passes, trace, cache)


def _from_newest(
    hidden: Float[Array, "G fed D"], start: Int32[Array, " B"], count: int, levels: int
) -> Float[Array, "G outputs D"]:
    """The states of a window from the newest token on, and of the nodes beside it."""
    start, W = jnp.tile(start, hidden.shape[0] // start.shape[0]), count + levels
    return jnp.concatenate([slices(hidden[:, :W], start, count), hidden[:, W:]], axis=1)


def _siblings(
    verifier: Verifier,
    tree: Tree,
    tokens: Int32[Array, "B tokens"],
    log_q: Float32[Array, "B X V"],
    first: Int32[Array, " B"],
    passes: Int32[Array, " B"],
) -> Int32[Array, "B levels others"]:
    """Siblings of the drafts from `first` on."""
    positions = first[:, None] + jnp.arange(tree.levels, dtype=jnp.int32)[None]
    drafts, q = gather(tokens, positions), log_q[:, : tree.levels]
    return branches.siblings(verifier, drafts, q, positions, passes, tree.candidates - 1)
