"""The loop of parallel Jacobi decoding: grid rows side by side, each with a window of its own.

    row a      . . . . . . . . . n | x x x x         the topmost unfinished row
    row a+1    . . . . . n | x x x                   begun when the row above it had c tokens
    row a+2    n | x x x                             final (.), the newest of them (n), drafts (x)

Source: arXiv 2606.05703, and its released code for Lumina-mGPT.
"""

import dataclasses
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from ssd_jax.decode.acceptance import accept_rows
from ssd_jax.decode.base import Decoder, register
from ssd_jax.decode.cost import PREFILL, Count, Stretch, Stretches
from ssd_jax.decode.drafting import certain
from ssd_jax.decode.state import Decoded, first_token, gather, scatter
from ssd_jax.decode.verifier import Cache, Progress, Verifier
from ssd_jax.errors import UserError, require_one_of, require_whole
from ssd_jax.sampling.noise import Tag, fresh_keys, uniform_codes
from ssd_jax.sequence.layout import Grid

DRAFTERS = ("random", "above")
TAILS = ("redraw", "keep")


@register
@dataclasses.dataclass(frozen=True)
class PJD(Decoder):
    """Parallel Jacobi decoding (PJD, arXiv 2606.05703; not lossless).

    A grid row begins when the one above it has c tokens, and stays behind it. In a pass each row that has begun is fed
    its newest token and up to W - 1 drafts, together no more than the row above is ahead. Inputs see the final tokens
    of the rows above, at any column, and their own row up to themselves, but no drafts of other rows. A row commits its
    drafts up to the first that is rejected, as in SJD. The topmost row also commits a correction, or the token behind
    drafts that are all right, so that every pass yields one; in the others a rejected draft is drawn anew from p, not
    from the residual, and tried again.

    Where the backbone has row ends, a row begins behind the end of the one above it, which then is fed early. Where it
    has none (decided here), it begins behind the newest token of the row above, fed in the place of that row's last. At
    most K rows are decoded at once, which fixes the shapes (decided here); the next one waits. With c = C a row begins
    when the one above it is complete, and with the tail "redraw" that is lossless.

    Attributes:
        window: W, the most inputs of a grid row in a pass, at least 2; 8 as released.
        context: c; None is a quarter of the columns, rounded up. Published are 11 and 16 for 48 columns, 6 for 32. The
            released code also counts the row end before a row: its 11, in a script, and 9 are 10 and 8 here.
        rows: K; None is ceil(C / c) + 1.
        drafter: of the positions that enter a row's window, "random" as released, or "above" (ours): copies.
        tail: what becomes of drafts behind a rejected one. "redraw" draws them from p, as published; the released code
            has "keep": those with p > q / 2 stay, with the q that they were drawn from.
    """

    window: int = 8
    context: int | None = None
    rows: int | None = None
    drafter: str = "random"
    tail: str = "redraw"

    def __post_init__(self):
        require_whole("window", self.window, 2)
        for name in ("context", "rows"):
            require_whole(name, 1 if getattr(self, name) is None else getattr(self, name), 1)
        require_one_of("drafter", self.drafter, DRAFTERS)
        require_one_of("tail", self.tail, TAILS)

    @property
    def adaptive(self) -> bool:
        """See `Decoder`."""
        return True

    def threshold(self, grid: Grid) -> int:
        """c on a grid."""
        return -(-grid.cols // 4) if self.context is None else min(self.context, grid.cols)

    def at_once(self, grid: Grid) -> int:
        """K on a grid."""
        return min(-(-grid.cols // self.threshold(grid)) + 1 if self.rows is None else self.rows, grid.rows)

    def width(self, grid: Grid) -> int:
        """W on a grid."""
        return min(self.window, grid.cols)

    def check(self, grid: Grid) -> None:
        """See `Decoder.check`."""
        if max(self.window, self.context or 1) > grid.cols:
            raise UserError(f"window and context must be at most a row of the image, which has {grid.cols} tokens.")
        if (self.rows or 1) > grid.rows:
            raise UserError(f"{self.rows} rows at once are more than the {grid.rows} that there are to draw.")

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`. The fewest passes need all drafts to be accepted."""
        if grid.size == 1:
            return (PREFILL,)
        count = max(passes or 0, fewest_passes(self, grid)) - 1
        outputs = self.at_once(grid) * self.width(grid)
        return PREFILL, Stretch(count, outputs + 1, outputs)

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch; images proceed at their own speed."""
        tokens, trace, V = first_token(verifier, hidden, grid.size)
        B, K, X, one = tokens.shape[0], self.at_once(grid), self.width(grid) - 1, trace[:, 0]
        counts = jnp.zeros((B, grid.rows), jnp.int32).at[:, 0].set(1)
        top = jnp.full_like(one, int(grid.cols == 1))
        state = State(
            tokens=tokens,
            counts=counts,
            top=top,
            begun=_begin(self, grid, counts, top, one),
            kept=jnp.zeros((B, K), jnp.int32),
            log_q=jnp.zeros((B, K, X, V), jnp.float32),
            passes=one,
            trace=trace,
            cache=cache,
        )

        def progress(s: State) -> Progress:
            return Progress(s.top < grid.rows, s.passes, s.tokens, s.trace)

        state = verifier.loop(partial(_pass, verifier, grid, self), state, progress)
        return Decoded(state.tokens, state.passes, state.trace, state.cache)


@flax.struct.dataclass
class State:
    """Grid row r is in slot r mod K of what is kept by slot.

    Attributes:
        tokens: final ones, drafts, and 0.
        counts: number of final tokens of each grid row.
        top: a, the topmost unfinished grid row; R when the image is finished.
        begun: number of grid rows that have begun.
        kept: number of drafts that follow a slot's final tokens.
        log_q: log q from which these were drawn, X = W - 1 of them.
        passes, trace: as in `Decoded`.
        cache: up to date for every final token but the newest of each row.
    """

    tokens: Int32[Array, "B tokens"]
    counts: Int32[Array, "B R"]
    top: Int32[Array, " B"]
    begun: Int32[Array, " B"]
    kept: Int32[Array, "B K"]
    log_q: Float32[Array, "B K X V"]
    passes: Int32[Array, " B"]
    trace: Int32[Array, "B tokens"]
    cache: Cache


def _begin(
    decoder: PJD, grid: Grid, counts: Int32[Array, "B R"], top: Int32[Array, " B"], begun: Int32[Array, " B"]
) -> Int32[Array, " B"]:
    """The number of grid rows that have begun, one more if the last has c tokens and there is a slot."""
    enough = gather(counts, begun[:, None] - 1)[:, 0] >= decoder.threshold(grid)
    return begun + (enough & (begun < jnp.minimum(top + decoder.at_once(grid), grid.rows))).astype(jnp.int32)


def _pass(verifier: Verifier, grid: Grid, decoder: PJD, s: State) -> State:
    """One verifier pass: drafts what is missing, accepts and commits in every row, begins the next."""
    K, W, C, N = decoder.at_once(grid), decoder.width(grid), grid.cols, grid.size
    B, place = s.top.size, jnp.arange(W, dtype=jnp.int32)[None, None]
    rows = s.top[:, None] + (jnp.arange(K, dtype=jnp.int32)[None] - s.top[:, None]) % K
    is_top = rows == s.top[:, None]
    count, above = gather(s.counts, rows), gather(s.counts, rows - 1)
    ahead = jnp.where(is_top, C, above) - count
    fed = jnp.where(rows < s.begun[:, None], jnp.minimum(ahead, W), 0)  # inputs of each row
    live = place < fed[..., None]
    targets = jnp.where(live, (rows * C + count)[..., None] + place, N)  # what the inputs predict

    with jax.named_scope("draft"):
        drafts, log_q = _drafts(verifier, decoder, grid, s, targets[..., :-1], place[..., :-1] < s.kept[..., None])
    # A row's first input is its newest token or, before it has any, the newest of the row above.
    newest = gather(s.tokens, jnp.where(count > 0, rows * C + count, (rows - 1) * C + above) - 1)
    codes = jnp.concatenate([newest[..., None], drafts], axis=-1).reshape(B, -1)
    leads = jnp.pad((live & (place == 0) & (count == 0)[..., None]).reshape(B, -1), ((0, 0), (0, 1)))
    inputs = jnp.where(live, targets - 1, N).reshape(B, -1)
    # The last token of the row that was finished last, which predicts nothing, for the rows below.
    last = s.top * C - 1
    is_lead = (gather(s.counts, s.top[:, None])[:, 0] == 0) & (not verifier.row_ends)
    last = jnp.where((s.top > 0) & (s.top < grid.rows) & ~is_lead, last, N)[:, None]
    codes, inputs = jnp.concatenate([codes, gather(s.tokens, last)], axis=1), jnp.concatenate([inputs, last], axis=1)
    hidden, cache = verifier.verify_rows(s.cache, verifier.place(codes, inputs), inputs, leads, s.counts)

    flat = targets.reshape(B, -1)
    passes = s.passes + (s.top < grid.rows).astype(jnp.int32)
    log_p = verifier.log_p_at(hidden[:, :-1], flat).reshape(B, K, W, -1)
    with jax.named_scope("accept"):
        new, m, kept = accept_rows(verifier, is_top, drafts, log_p, log_q, targets, fed, passes, decoder.tail == "keep")
        done = jnp.where(fed > 0, m + is_top.astype(jnp.int32), 0)  # tokens that each row commits
        tokens = scatter(s.tokens, flat, new.reshape(B, -1))
        trace = scatter(s.trace, jnp.where(place < done[..., None], targets, N).reshape(B, -1), passes)
        counts = s.counts.at[jnp.arange(B)[:, None], rows].add(done, mode="drop")
        # Drafts behind what a row commits stay; the next pass drops those that the row above leaves no room for.
        drawn_from = jnp.where(kept[..., None], jnp.pad(log_q, ((0, 0), (0, 0), (0, 1), (0, 0))), log_p)
        following = jnp.minimum(done[..., None] + place[..., :-1], W - 1)
        log_q = jnp.take_along_axis(drawn_from, following[..., None], axis=2)
    full = gather(counts, s.top[:, None])[:, 0] == C
    top = s.top + (full & (s.top < grid.rows)).astype(jnp.int32)
    return State(
        tokens=tokens,
        counts=counts,
        top=top,
        begun=_begin(decoder, grid, counts, top, s.begun),
        kept=fed - done,
        log_q=log_q,
        passes=passes,
        trace=trace,
        cache=cache,
    )


def _drafts(
    verifier: Verifier,
    decoder: PJD,
    grid: Grid,
    s: State,
    positions: Int32[Array, "B K X"],
    kept: Bool[Array, "B K X"],
) -> tuple[Int32[Array, "B K X"], Float32[Array, "B K X V"]]:
    """The drafts of every row and the log q of each: those that were kept, and new ones, whose q is one-hot."""
    B, V = positions.shape[0], s.log_q.shape[-1]
    flat = positions.reshape(B, -1)
    if decoder.drafter == "random":
        fresh = uniform_codes(fresh_keys(verifier.keys(flat), Tag.DRAFT, s.passes), V)
    else:  # in grid row 0 there is nothing above: the newest token, to the left
        newest = gather(s.tokens, s.counts[:, :1] - 1)
        fresh = jnp.where(flat < grid.cols, newest, gather(s.tokens, flat - grid.cols))
    fresh = verifier.place(fresh, flat)
    codes = jnp.where(kept, gather(s.tokens, flat).reshape(positions.shape), fresh.reshape(positions.shape))
    return codes, jnp.where(kept[..., None], s.log_q, certain(codes, V))


def fewest_passes(decoder: PJD, grid: Grid) -> int:
    """Passes of an image all of whose drafts are accepted, the prefill included."""
    C, counts, top, begun, passes = grid.cols, [1] + [0] * (grid.rows - 1), 0, 1, 1
    while True:
        top += counts[top] == C
        if top == grid.rows:
            return passes
        room = begun < min(top + decoder.at_once(grid), grid.rows)
        begun += room and counts[begun - 1] >= decoder.threshold(grid)
        ahead = [(C if row == top else counts[row - 1]) - counts[row] for row in range(top, begun)]
        for row, inputs in zip(range(top, begun), ahead, strict=True):
            counts[row] += min(inputs, decoder.width(grid)) - (row != top)
        passes += 1
