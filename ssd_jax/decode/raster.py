"""The raster loop: verifies a window of drafts, commits a prefix of it, and moves the window on.

    committed | n-1 : n  n+1 ... n+W-2 |          inputs: the last committed token and W - 1 drafts
                      p_n ... p_{n+W-1}           outputs: between 1 and W of them become final

Every rule but `grouped` is lossless: the images follow the backbone's distribution exactly. With `match` they equal,
token for token, those of `ar` for the same seed, if a token has the same bits in every window: on a CPU with bfloat16
products. Elsewhere two nearly equal values of log p + g may change places; `AR(window=W)` runs the same shapes.
"""

import dataclasses
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ssd_jax.decode import alternatives, drafting, history
from ssd_jax.decode.acceptance import ACCEPTANCES, COUPLINGS, Group, accept_window, grouped_chance, token_chance
from ssd_jax.decode.alternatives import MOST, Alternatives
from ssd_jax.decode.base import Decoder, register, require_window
from ssd_jax.decode.cost import PREFILL, Count, Stretch, Stretches
from ssd_jax.decode.drafting import Seen
from ssd_jax.decode.state import Decoded, first_token, gather, in_raster_order, scatter, slices, traced
from ssd_jax.decode.verifier import Cache, Verifier
from ssd_jax.errors import LARGEST, UserError, require_one_of, require_whole
from ssd_jax.sequence.layout import Grid

WIDE = 64
"""The default window on accelerators, where positions of a pass are nearly free up to the ridge of the roofline."""

NARROW = 8
"""The default window on a CPU, where every position costs time; measured on the bundled model."""


@register
@dataclasses.dataclass(frozen=True)
class Raster(Decoder):
    """Jacobi-style decoding in raster order.

    Attributes:
        window: W, inputs per pass; the loop clips it to the grid, `Pipeline` refuses a larger one. None is `WIDE`, or
            `NARROW` if decoding runs on a CPU: with the match coupling that changes passes and seconds, with others
            the images.
        rows: the window in grid rows, W = rows * C, instead of `window`.
        drafter: "random" | "left" | "above" | "horizontal" | "spatial"; the last two need draft heads. It drafts the
            positions that enter the window; the coupling updates those that stay in it. (In `MTP` all drafts come from
            the horizontal heads.)
        coupling: what happens after the first rejection: "resample" (SJD) | "maximal" (SCD-MC) | "gumbel" (SCD-GS)
            | "match" (the same image as `ar`).
        acceptance: "token" | "grouped" (GSD; not lossless).
        group: the groups of "grouped".
        history: H, number of remembered passes (this one included), for drafts from the verifier's outputs under the
            current neighbouring tokens; only with "match". 0: drafts are its latest outputs.
        alternatives: a pass is also fed the k-th likeliest correction of its j-th draft for all j * k up to this number
            (18: 58 more inputs), to predict what follows it; only with "match". 0: none.
    """

    window: int | None = None
    rows: int | None = None
    drafter: str = "spatial"
    coupling: str = "match"
    acceptance: str = "token"
    group: Group = Group()
    history: int = 0
    alternatives: int = 0

    def __post_init__(self):
        require_whole("window", 1 if self.window is None else self.window, 1)
        require_whole("rows", 1 if self.rows is None else self.rows, 1)
        require_one_of("drafter", self.drafter, drafting.DRAFTERS)
        require_one_of("coupling", self.coupling, COUPLINGS)
        require_one_of("acceptance", self.acceptance, ACCEPTANCES)
        if self.coupling == "match" and self.acceptance == "grouped":
            raise UserError("The match coupling accepts by equality; combine grouped acceptance with another coupling.")
        most = {"history": ("a history of passes", LARGEST), "alternatives": ("alternatives to drafts", MOST)}
        for name, (what, limit) in most.items():
            if require_whole(name, getattr(self, name), 0, limit) and self.coupling != "match":
                raise UserError(f"Only the match coupling has {what}; leave {name} at 0 with another one.")

    @property
    def heads(self) -> tuple[int, int]:
        """See `Decoder`."""
        return drafting.HEADS.get(self.drafter, (0, 0))

    def width(self, grid: Grid) -> int:
        """W on a grid."""
        default = NARROW if jax.default_backend() == "cpu" else WIDE
        window = default if self.window is None else self.window
        return min(window if self.rows is None else self.rows * grid.cols, grid.size)

    @property
    def adaptive(self) -> bool:
        """See `Decoder`."""
        return True

    @property
    def lossless(self) -> bool:
        """See `Decoder`."""
        return self.acceptance == "token"

    def check(self, grid: Grid) -> None:
        """See `Decoder.check`."""
        if self.window is not None and self.rows is None:
            require_window(self.window, grid)
        if self.rows is not None and self.rows > grid.rows:
            raise UserError(f"{self.rows} rows at once are more than the {grid.rows} that there are to draw.")
        if self.history > grid.size:
            raise UserError(f"A history of {self.history} passes is longer than the image's {grid.size} tokens.")

    def on_accelerator(self) -> "Raster":
        """See `Decoder.on_accelerator`."""
        return dataclasses.replace(self, window=WIDE) if self.window is None else self

    def stretches(self, grid: Grid, horizontal: int, passes: Count | None = None) -> Stretches:
        """See `Decoder.stretches`. The fewest passes, 1 + ceil((R*C - 1) / W), need every draft to be accepted; drafts
        by the horizontal heads for `spatial` in grid row 0 are not counted."""
        W = self.width(grid)
        fewest = -(-(grid.size - 1) // W)
        count = fewest if passes is None else max(passes - 1, fewest)
        outputs = max(W + bool(self.alternatives), self.alternatives)
        each = Stretch(count, W, outputs, beside=alternatives.count(self.alternatives))
        if W > 1 and self.drafter == "spatial":
            each = each._replace(drafts=count + 1, vertical=1, sources=min(W - 1, grid.cols))
        elif W > 1 and self.drafter == "horizontal":
            each = each._replace(drafts=count + 1, horizontal=min(horizontal, W - 1), sources=1)
        return PREFILL, each

    def run(self, verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid) -> Decoded:
        """Decodes a batch; images proceed at their own speed."""
        state = _start(verifier, cache, hidden, grid, self)
        return in_raster_order(verifier, partial(_pass, verifier, grid, self), state, grid)


@flax.struct.dataclass
class State:
    """Attributes:
    tokens: final up to `first`, then drafts.
    first: n, the first position that is not final; R*C when the image is finished.
    last: the last position with a hidden state: the one that the previous window's last input predicted.
    log_q: of the drafts at n .. n+W-2, X = W - 1 of them; None for `match`.
    row: h of the last C positions up to `last`; None without draft heads.
    passes, trace: as in `Decoded`.
    past: the last passes; None without a history.
    others: alternatives to the drafts; None without any.
    cache: up to date for every final token but the newest.
    """

    tokens: Int32[Array, "B tokens"]
    first: Int32[Array, " B"]
    last: Int32[Array, " B"]
    log_q: Float32[Array, "B X V"] | None
    row: Float[Array, "G C D"] | None
    passes: Int32[Array, " B"]
    trace: Int32[Array, "B tokens"]
    past: history.History | None
    others: Alternatives | None
    cache: Cache


def _start(verifier: Verifier, cache: Cache, hidden: Float[Array, "G 1 D"], grid: Grid, decoder: Raster) -> State:
    """Token 0 from the prefill, and the first drafts."""
    tokens, trace, V = first_token(verifier, hidden, grid.size)
    one, row = trace[:, 0], None
    zero = jnp.zeros_like(one)
    if any(decoder.heads):
        row = jnp.pad(hidden, ((0, 0), (grid.cols - 1, 0), (0, 0)))
    count = decoder.width(grid) - 1
    tokens, log_q = drafting.refill(decoder.drafter, verifier, grid, V, Seen(tokens, zero, row, one), count)
    log_q = None if decoder.coupling == "match" else log_q
    past = history.empty(one.size, decoder.history, grid) if decoder.history else None
    others = alternatives.no_alternatives(one.size, decoder.alternatives) if decoder.alternatives else None
    return State(tokens, one, zero, log_q, row, one, trace, past, others, cache)


def _pass(verifier: Verifier, grid: Grid, decoder: Raster, s: State) -> State:
    """One verifier pass: accepts, commits and redrafts."""
    W = decoder.width(grid)
    inputs = s.first[:, None] - 1 + jnp.arange(W, dtype=jnp.int32)[None]
    positions = inputs + 1
    codes = gather(s.tokens, inputs)
    beside = None if s.others is None else alternatives.beside(s.others)
    hidden, cache = verifier.verify(s.cache, codes, inputs, beside=beside)
    hidden, aside = hidden[:, :W], hidden[:, W:]
    unfinished = s.first < grid.size
    passes = s.passes + unfinished.astype(jnp.int32)
    log_p = verifier.log_p_at(hidden, positions)

    with jax.named_scope("accept"):
        chance = token_chance
        if decoder.acceptance == "grouped":
            chance = partial(grouped_chance, group=decoder.group, embed=verifier.embed)
        new, m = accept_window(verifier, decoder.coupling, chance, codes[:, 1:], log_p, s.log_q, positions, passes)
    first = jnp.minimum(s.first + m + 1, grid.size)
    trace = traced(s.trace, s.first, first, passes)
    tokens = scatter(s.tokens, positions, new)

    with jax.named_scope("draft"):
        past, others, right = s.past, s.others, m + 1
        if past is not None:
            past = history.remember(past, passes, s.tokens, tokens, positions)
        if others is not None:
            following, known = alternatives.answer(verifier, others, aside, tokens, s.first + m, grid)
            tokens = scatter(tokens, jnp.where(known, first, grid.size)[:, None], following)
            right += known.astype(jnp.int32)
        if past is not None:
            recalled = history.recall(past, passes, tokens, positions, right, grid)
            tokens = scatter(tokens, positions, recalled)
        if others is not None:
            others = alternatives.runners_up(decoder.alternatives, verifier, log_p, positions, right, tokens)
        last = positions[:, -1]
        row = None if s.row is None else _last_row(s.row, hidden, last - s.last)
        seen = Seen(tokens, last, row, passes)
        tokens, fresh = drafting.refill(decoder.drafter, verifier, grid, log_p.shape[-1], seen, W - 1)
        log_q = None
        if s.log_q is not None:
            # Drafts that stay in the window were drawn from this pass's p; the window moves on by m + 1.
            both = jnp.concatenate([log_p, fresh], axis=1)
            log_q = slices(both, m + 1, W - 1)
    return State(tokens, first, last, log_q, row, passes, trace, past, others, cache)


def _last_row(
    row: Float[Array, "G C D"], hidden: Float[Array, "G W D"], moved: Int32[Array, " B"]
) -> Float[Array, "G C D"]:
    """h of the last C positions, from the old ones and those of a window that `moved` on."""
    C, W = row.shape[1], hidden.shape[1]
    if W >= C:
        return hidden[:, W - C :]
    moved = jnp.tile(moved, row.shape[0] // moved.shape[0])
    older = slices(row, moved, C - W)
    return jnp.concatenate([older, hidden], axis=1)
