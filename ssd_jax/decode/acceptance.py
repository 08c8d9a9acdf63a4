"""Acceptance rules: decide which drafts of a window are accepted, and correct the others.

The rules see one window: log p of its positions, their drafts and the log q from which they were drawn.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from ssd_jax.decode.verifier import Verifier
from ssd_jax.errors import UserError, require_whole
from ssd_jax.sampling.choice import choose
from ssd_jax.sampling.distribution import residual
from ssd_jax.sampling.noise import Tag, fresh_keys, gumbel, uniform

COUPLINGS = ("resample", "maximal", "gumbel", "match")
ACCEPTANCES = ("token", "grouped")

Embed = Callable[[Int32[Array, "*codes"]], Float[Array, "*codes D"]]
"""Codes to their input embeddings."""

Chance = Callable[[Int32[Array, "B X"], Float32[Array, "B X V"], Float32[Array, "B X V"]], Float32[Array, "B X"]]
"""(drafts, log p, log q) -> probability that each draft is accepted."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The grouped acceptance rule (GSD, arXiv 2508.07747): a draft stands for codes of about the same probability.

    Attributes:
        size: G, number of codes in a group; 1 is the token rule.
        delta: codes whose p differs from the draft's by more than this leave the group; None keeps them.
        radius: codes whose input embedding is further from the draft's than this (squared Euclidean distance) leave
            the group; None keeps them. The released 0.5 is in Lumina-mGPT's units.
    """

    size: int = 14
    delta: int | float | None = 0.15
    radius: int | float | None = None

    def __post_init__(self):
        require_whole("A group's size", self.size, 1)
        for name in ("delta", "radius"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"A group's {name} must be None or at least 0, not {value!r}.")


def token_chance(
    drafts: Int32[Array, "*places"], log_p: Float32[Array, "*places V"], log_q: Float32[Array, "*places V"]
) -> Float32[Array, "*places"]:
    """min(1, p(x) / q(x)) (speculative sampling, arXiv 2211.17192, algorithm 1)."""
    return jnp.exp(jnp.minimum(_at(log_p, drafts) - _at(log_q, drafts), 0.0))


def grouped_chance(
    drafts: Int32[Array, "B X"],
    log_p: Float32[Array, "B X V"],
    log_q: Float32[Array, "B X V"],
    group: Group,
    embed: Embed | None,
) -> Float32[Array, "B X"]:
    """min(1, sum p / sum q) over the draft's group (GSD, arXiv 2508.07747); `embed` is for groups with a radius."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    p_x = _at(p, drafts)
    others, member = group_members(p, drafts, group.size)
    p_others = jnp.take_along_axis(p, others, axis=-1)
    if group.delta is not None:
        member &= jnp.abs(p_others - p_x[..., None]) <= group.delta
    if group.radius is not None:
        assert embed is not None
        away = embed(others).astype(jnp.float32) - embed(drafts).astype(jnp.float32)[..., None, :]
        member &= jnp.sum(away**2, axis=-1) <= group.radius
    sum_p = p_x + jnp.sum(jnp.where(member, p_others, 0.0), axis=-1)
    sum_q = _at(q, drafts) + jnp.sum(jnp.where(member, jnp.take_along_axis(q, others, axis=-1), 0.0), axis=-1)
    return jnp.minimum(sum_p / sum_q, 1.0)


def group_members(
    p: Float32[Array, "B X V"], drafts: Int32[Array, "B X"], size: int
) -> tuple[Int32[Array, "B X others"], Bool[Array, "B X others"]]:
    """The codes around the draft's rank r: ranks [r - G//2, r + (G+1)//2) from the least likely up, ties by code.

    Two small top-k's replace a sort of the codes: the nearest codes below the draft and above it.

    Returns:
        at most G-1 codes other than the draft, and which of them exist (ranks out of range do not).
    """
    V = p.shape[-1]
    ids = jax.lax.broadcasted_iota(jnp.int32, p.shape, p.ndim - 1)
    x, p_x = drafts[..., None], _at(p, drafts)[..., None]
    lower = (p < p_x) | ((p == p_x) & (ids < x))
    higher = (p > p_x) | ((p == p_x) & (ids > x))
    # top_k prefers the lowest index among equals; below the draft the nearest is the highest code, hence the flip.
    below, below_ids = jax.lax.top_k(jnp.flip(jnp.where(lower, p, -1.0), axis=-1), min(size // 2, V))
    above, above_ids = jax.lax.top_k(jnp.where(higher, -p, -2.0), min((size + 1) // 2 - 1, V))
    members = jnp.concatenate([V - 1 - below_ids, above_ids], axis=-1)
    return members, jnp.concatenate([below >= 0.0, above >= -1.0], axis=-1)


def accept(
    verifier: Verifier, chance: Float32[Array, "B X"], positions: Int32[Array, "B X"], pass_index: Int32[Array, " B"]
) -> Bool[Array, "B X"]:
    """Which drafts are accepted: u < chance, with fresh u for each (image, position, pass)."""
    return uniform(fresh_keys(verifier.keys(positions), Tag.ACCEPT, pass_index)) < chance


def auto_correct(
    verifier: Verifier,
    drafts: Int32[Array, "B X"],
    log_p: Float32[Array, "B X V"],
    log_q: Float32[Array, "B X V"],
    positions: Int32[Array, "B X"],
    pass_index: Int32[Array, " B"],
) -> Int32[Array, "B X"]:
    """Every position independently accepts its draft or takes a residual draw (SSD, arXiv 2606.20543)."""
    right = accept(verifier, token_chance(drafts, log_p, log_q), positions, pass_index)
    keys = fresh_keys(verifier.keys(positions), Tag.RESIDUAL, pass_index)
    return jnp.where(right, drafts, choose(residual(log_p, log_q), gumbel(keys, log_p.shape[-1])))


def accept_window(
    verifier: Verifier,
    coupling: str,
    chance: Chance,
    drafts: Int32[Array, "B X"],
    log_p: Float32[Array, "B X+1 V"],
    log_q: Float32[Array, "B X V"] | None,
    positions: Int32[Array, "B X+1"],
    pass_index: Int32[Array, " B"],
) -> tuple[Int32[Array, "B X+1"], Int32[Array, " B"]]:
    """The new tokens of a raster window of W = X + 1, and how many of its drafts are accepted from the left.

    The first rejected position gets its corrected token; the coupling decides what happens after it. At most one noise
    array [B, W, V] is made, with the key that each position's draw needs.

    Args:
        coupling: one of `COUPLINGS`.
        chance: the acceptance rule; not used by `match`.
        drafts: drafts of all positions but the window's last.
        log_p, positions: of the full window.
        log_q: log q from which the drafts were drawn; None for `match`.
        pass_index: index of this pass for each image.
    Returns:
        the tokens, and m, 0..W-1: tokens 0..m of the window are final.
    Source: SJD arXiv 2410.01699 (resample); SCD arXiv 2510.24211 (maximal, gumbel); match is ours.
    """
    V = log_p.shape[-1]
    if coupling == "match":
        tokens = choose(log_p, verifier.noise(positions))
        return tokens, _leading(drafts == tokens[:, :-1])

    assert log_q is not None
    right = accept(verifier, chance(drafts, log_p[:, :-1], log_q), positions[:, :-1], pass_index)
    m = _leading(right)
    place = jnp.arange(drafts.shape[1], dtype=jnp.int32)[None]
    first = place == m[:, None]
    # Positions where a draft is rejected and the draw is from the residual; the others are draws from p.
    corrected = ~right if coupling == "maximal" else first & ~right
    kept = right if coupling == "maximal" else place < m[:, None]
    distribution = jnp.where(corrected[..., None], residual(log_p[:, :-1], log_q), log_p[:, :-1])
    distribution = jnp.concatenate([distribution, log_p[:, -1:]], axis=1)
    keys = verifier.keys(positions)
    plain = keys if coupling == "gumbel" else fresh_keys(keys, Tag.RESAMPLE, pass_index)
    no_draft = jnp.zeros_like(kept, shape=(kept.shape[0], 1))
    keys = jnp.where(jnp.concatenate([corrected, no_draft], axis=1), fresh_keys(keys, Tag.RESIDUAL, pass_index), plain)
    drawn = choose(distribution, gumbel(keys, V))
    padded = jnp.concatenate([drafts, drawn[:, -1:]], axis=1)
    return jnp.where(jnp.concatenate([kept, no_draft], axis=1), padded, drawn), m


def accept_rows(
    verifier: Verifier,
    is_top: Bool[Array, "B K"],
    drafts: Int32[Array, "B K X"],
    log_p: Float32[Array, "B K X+1 V"],
    log_q: Float32[Array, "B K X V"],
    positions: Int32[Array, "B K X+1"],
    fed: Int32[Array, "B K"],
    pass_index: Int32[Array, " B"],
    keep: bool,
) -> tuple[Int32[Array, "B K X+1"], Int32[Array, "B K"], Bool[Array, "B K X+1"]]:
    """The new tokens of several grid rows' windows, each with its own drafts and outputs (PJD, arXiv 2606.05703).

    Drafts are accepted from the left. The first rejected one is drawn from the residual in the topmost row, from p in
    the others; so are all behind it, and the output behind the last draft.

    Args:
        is_top: which row is the topmost.
        drafts, log_q: of all positions but each window's last.
        log_p, positions: of the full windows.
        fed: outputs of each window, of which all but the last have a draft; what comes after them is of no use.
        pass_index: index of this pass for each image.
        keep: drafts behind a rejected one stay if p > q / 2, as in the released code.
    Returns:
        the tokens; m, how many drafts are accepted in each row; and which of the tokens behind them are drafts that
        stayed.
    """
    (B, K, X), V = drafts.shape, log_p.shape[-1]
    place, drafted = jnp.arange(X, dtype=jnp.int32)[None, None], fed[..., None] - 1
    chance = token_chance(drafts, log_p[:, :, :-1], log_q)
    right = accept(verifier, chance.reshape(B, -1), positions[..., :-1].reshape(B, -1), pass_index)
    right = right.reshape(drafts.shape) & (place < drafted)
    m = _leading(right)
    corrected = (place == m[..., None]) & (place < drafted) & is_top[..., None]
    from_draft = jnp.where(corrected[..., None], residual(log_p[:, :, :-1], log_q), log_p[:, :, :-1])
    distribution = jnp.concatenate([from_draft, log_p[:, :, -1:]], axis=2)
    keys, no_draft = verifier.keys(positions.reshape(B, -1)), ((0, 0), (0, 0), (0, 1))
    fixed = jnp.pad(corrected, no_draft).reshape(B, -1)
    keys = jnp.where(fixed, fresh_keys(keys, Tag.RESIDUAL, pass_index), fresh_keys(keys, Tag.RESAMPLE, pass_index))
    drawn = choose(distribution, gumbel(keys, V).reshape(B, K, X + 1, V))
    stays = (place > m[..., None]) & (place < drafted) & (chance > 0.5) & keep
    old = jnp.pad((place < m[..., None]) | stays, no_draft)
    return jnp.where(old, jnp.pad(drafts, no_draft), drawn), m, jnp.pad(stays, no_draft)


def _at(values: Float32[Array, "*places V"], ids: Int32[Array, "*places"]) -> Float32[Array, "*places"]:
    """The value of one code at every position."""
    return jnp.take_along_axis(values, ids[..., None], axis=-1)[..., 0]


def _leading(right: Bool[Array, "*windows X"]) -> Int32[Array, "*windows"]:
    """Number of leading True values of every window."""
    return jnp.sum(jnp.cumprod(right.astype(jnp.int32), axis=-1), axis=-1, dtype=jnp.int32)
