"""No loop makes a copy of a layer of the cache, of the scores of attention or of the history, and none sorts.

The checker sees a copy in any shape; that is held first, on loops with one fault each.
"""

import dataclasses

import hlo
import jax
import jax.numpy as jnp
import pytest
import toy

from ssd_jax.decode import engine
from ssd_jax.decode.flash import Flash
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.rows import SSD
from ssd_jax.sequence.cache import write
from ssd_jax.sequence.layout import Grid

# -- the checker

B, K, T, H, W = 6, 2, 25, 8, 3
LAYER, SCORES = B * K * T * H, B * K * W * T


def moved(keep=lambda old, new, done: new, see=lambda scores: scores) -> list[str]:
    """What a loop of passes moves about whose layer and scores go through `keep` and `see`."""

    @jax.jit
    def loop(layer, slots, done, x):
        def body(state):
            step, layer, x = state
            layer = keep(layer, write(layer, x, slots + step), done)
            scores = jnp.einsum("bwkh,bkth->bkwt", x, layer)
            weights = see(jax.nn.softmax(scores, axis=-1))
            return step + 1, layer, jnp.einsum("bkwt,bkth->bwkh", weights, layer)

        return jax.lax.while_loop(lambda s: s[0] < 20, body, (1, layer, x))

    arguments = jnp.zeros((B, K, T, H)), jnp.zeros((B, W), jnp.int32), jnp.zeros(B, bool), jnp.zeros((B, W, K, H))
    text = hlo.optimised(loop.lower(*arguments))
    return hlo.moves(text, cache=[LAYER], scores=[SCORES])


def flat(old, new, done):
    return jnp.where(done[:, None], old.reshape(B, -1), new.reshape(B, -1)).reshape(new.shape)


def through_another_order(array):
    """A transposed copy: the barrier keeps XLA from undoing the first transpose with the second."""
    return jax.lax.optimization_barrier(jnp.array(array.swapaxes(1, 2))).swapaxes(1, 2)


def test_a_loop_that_only_writes_moves_nothing():
    assert moved() == []


@pytest.mark.parametrize(
    "keep",
    [
        lambda old, new, done: jnp.where(done[:, None, None, None], old, new),
        flat,
        lambda old, new, done: jnp.roll(new.reshape(B * K, T * H), 1, axis=0).reshape(new.shape),
        lambda old, new, done: new.swapaxes(2, 3).reshape(new.shape),
        lambda old, new, done: jax.lax.cond(done[0], lambda: new[::-1], lambda: new),
        lambda old, new, done: new.astype(jnp.bfloat16).astype(jnp.float32),
    ],
    ids=["select", "select of a reshaped layer", "roll", "transpose", "in a branch", "convert"],
)
def test_a_moved_layer_is_seen(keep):
    assert moved(keep=keep)


@pytest.mark.parametrize(
    "see",
    [
        through_another_order,
        lambda scores: jnp.roll(scores, 1, axis=2),
        lambda scores: scores.swapaxes(2, 3).reshape(scores.shape),
        lambda scores: scores.reshape(B, -1)[:, ::-1].reshape(scores.shape),
    ],
    ids=["transpose", "roll", "transpose and reshape", "reverse of reshaped scores"],
)
def test_moved_scores_are_seen(see):
    assert moved(see=see)


# -- the decoders

# 29 slots: a prime number, so that nothing else has as many numbers as a layer or the scores.
GRID, IMAGES = Grid(5, 5), 3
SMALL = toy.Toy(toy.config(layers=1))
TREE = dataclasses.replace(PRESETS["ssd-tree"], window=11, alternatives=5)
OTHERS = [SSD(rounds="auto"), SSD(rounds=1, rows=2, mask="row"), MTP(drafts=2), TREE, Flash(rounds=2)]
LIKE_ANOTHER = ("ar", "jacobi-above", "sjd", "jacobi-match", "jacobi-wave")
DECODERS = [name for name in PRESETS if name not in ("mtp", "ssd-tree", "flash", "ssd2", *LIKE_ANOTHER)] + OTHERS
"""With the three heads here, scores of `mtp` would have as many numbers as a layer; so it drafts two tokens. A window
over the whole grid, as `ssd-tree` would have, is as large as a line of the history. Presets are left out whose loop and
coupling others have, too; `ar`, which drafts nothing, is in test_ar, and both `ar` and `jacobi-above` are in
test_shipped."""


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_no_decoder_moves_cache_scores_or_history(decoder):
    lowered = []
    toy.decode(
        SMALL, decoder, GRID, images=IMAGES, program=lambda *a, **k: lowered.append(engine.decode.lower(*a, **k))
    )
    text = hlo.optimised(lowered[0])
    decoder, c, rows = PRESETS.get(decoder, decoder), SMALL.config, 2 * IMAGES
    slots = toy.PROMPT + GRID.size
    layer = rows * c.kv_heads * slots * c.head_dim
    windows = {stretch.window + stretch.beside for stretch in decoder.stretches(GRID, toy.HEADS.horizontal)} - {0}
    assert windows and f"f32[{rows},{c.kv_heads},{slots},{c.head_dim}]" in text
    history = IMAGES * getattr(decoder, "history", 0) * GRID.size
    scores = [rows * c.heads * window * slots for window in windows]
    assert hlo.moves(text, cache={layer, history} - {0}, scores=scores) == []
    # The scores are there to be copied: some instruction in the loops makes as many numbers.
    sizes = {hlo.made(line)[0] for lines in hlo.in_loops(text).values() for line in lines}
    assert sizes >= set(scores)
    assert " sort(" not in text
