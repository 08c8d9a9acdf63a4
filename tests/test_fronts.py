"""Windows of any positions: a verifier pass over a slanted front sees what has been written and nothing else.

Where every row lags the one above it by some columns, passes leave slots empty between rows. Compared with one forward
over whole sequences whose mask says, token by token, what had been written when each was fed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ssd_jax.decode import engine
from ssd_jax.layout import Grid, Layout
from ssd_jax.models.forced import image_sequence
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling import image_keys

GRID, IMAGES = Grid(4, 5), 3
SLOPES = np.array([1, 2, 4])  # columns that a row lags behind the one above it, of each image
ROWS, COLS = np.divmod(np.arange(GRID.size), GRID.cols)
TIMES = SLOPES[:, None] * ROWS + COLS  # the pass in which each image's tokens are fed, [IMAGES, R*C]

PLAIN, ROW_ENDS = toy.TOY, toy.Toy(toy.config(row_end=7))
BACKBONES = pytest.mark.parametrize("backbone", [PLAIN, ROW_ENDS], ids=["plain", "row ends"])
GUIDED = pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])


@partial(jax.jit, static_argnames=("backbone", "guided"))
def start(backbone, guided):
    """The model as functions, on top of its cache after the prefill."""
    ids, mask = toy.prompts(IMAGES, guided)
    model = Transformer(backbone.config)
    cache = engine.make_cache(backbone.config, GRID, len(ids), toy.PROMPT, jnp.float32)
    return engine.prefill(model, backbone.params, cache, ids, mask)[1]


@partial(jax.jit, static_argnames=("backbone", "guided", "slanted"))
def verify(cache, codes, positions, written, backbone, guided, slanted=True):
    model, keys = Transformer(backbone.config), image_keys(jnp.zeros(IMAGES, jnp.int32), jnp.arange(IMAGES))
    mask = toy.prompts(IMAGES, guided)[1]
    functions = engine.bind(model, backbone.params, GRID, mask, keys, toy.sampler(2.0), guided)
    if not slanted:
        return functions.verify(cache, codes, positions)
    return functions.verify(cache, codes, positions, written=written, ends=GRID.rows)


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, toy.TOY.config.visual_size, (IMAGES, GRID.size)).astype(np.int32)


def fed(time: int, width: int) -> np.ndarray:
    """Positions of a pass, int32 [IMAGES, width], the last row first and padding in front of it."""
    fronts = [np.flatnonzero(times == time)[::-1] for times in TIMES]
    return np.stack([np.r_[np.full(width - len(front), GRID.size + 3), front] for front in fronts]).astype(np.int32)


def side_by_side(backbone, guided, slanted=True):
    """All passes of the slanted schedules: h of every position [G, R*C, D], and the cache."""
    cache, codes = start(backbone, guided), tokens()
    copies = 1 + guided
    states = np.zeros((copies * IMAGES, GRID.size + 4, backbone.config.width), np.float32)
    for time in range(TIMES.max() + 1):
        positions = fed(time, width=GRID.rows + 1)
        codes_fed = np.take_along_axis(codes, np.minimum(positions, GRID.size - 1), axis=1)
        hidden, cache = verify(cache, codes_fed, positions, TIMES < time, backbone, guided, slanted)
        np.put_along_axis(states, np.tile(positions, (copies, 1))[..., None], np.asarray(hidden), axis=1)
    return states[:, : GRID.size], cache


@partial(jax.jit, static_argnames=("backbone", "guided"))
def whole(backbone, guided, codes, times):
    """h of every position but the last and the cache of one forward over prompt and picture, its mask written out."""
    ids, mask = toy.prompts(IMAGES, guided)
    model, layout = Transformer(backbone.config), Layout(GRID, backbone.config.row_end_id >= 0)
    codes, times = (jnp.tile(x, (1 + guided, 1)) for x in (codes, times))
    x = image_sequence(model, backbone.params, ids, codes, layout)
    T, token = x.shape[1], layout.sequence()[0]
    fed_at = jnp.concatenate([jnp.full(mask.shape, -1), times[:, token]], axis=1)[:, :T]
    real = jnp.pad(mask, ((0, 0), (0, T - toy.PROMPT)), constant_values=True)
    seen = jnp.tri(T, dtype=bool) & real[:, None, :] & (fed_at[:, None, :] <= fed_at[:, :, None])
    cache = engine.make_cache(backbone.config, GRID, len(ids), toy.PROMPT, jnp.float32)
    slots = jnp.broadcast_to(jnp.arange(T), real.shape)
    rotary = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
    seen = jnp.pad(seen | jnp.eye(T, dtype=bool), ((0, 0), (0, 0), (0, cache.length - T)))
    hidden, cache = model.apply(backbone.params, x, rotary, seen, slots, cache, method="hidden")
    return hidden[:, toy.PROMPT + layout.places(np.arange(1, GRID.size)) - 1], cache


@BACKBONES
@GUIDED
def test_a_slanted_front_sees_what_has_been_written(backbone, guided):
    hidden, cache = side_by_side(backbone, guided)
    expected, expected_cache = whole(backbone, guided, tokens(), TIMES)
    np.testing.assert_allclose(hidden[:, :-1], expected, atol=1e-4)
    written = np.pad(toy.prompts(IMAGES, guided)[1], ((0, 0), (0, cache.length - toy.PROMPT - 1)), constant_values=True)
    for layer, other in zip(jax.tree.leaves(cache), jax.tree.leaves(expected_cache), strict=True):
        layer, other = (np.asarray(x).swapaxes(1, 2)[:, :-1][written] for x in (layer, other))
        np.testing.assert_allclose(layer, other, atol=1e-4)


@BACKBONES
def test_without_saying_what_is_written_it_sees_the_holes(backbone):
    """Negative control."""
    hidden, _ = side_by_side(backbone, True, slanted=False)
    expected, _ = whole(backbone, True, tokens(), TIMES)
    assert np.abs(hidden[:, :-1] - expected).max() > 0.1


@BACKBONES
def test_consecutive_positions_are_the_special_case(backbone):
    cache, codes = start(backbone, True), tokens()
    first, second = (np.broadcast_to(np.arange(a, b, dtype=np.int32), (IMAGES, 8)) for a, b in ((0, 8), (8, 16)))
    nothing = np.zeros((IMAGES, GRID.size), bool)
    plain, slanted = cache, cache
    for positions, written in ((first, nothing), (second, np.arange(GRID.size) < nothing + 8)):
        fast, plain = verify(plain, codes[:, positions[0]], positions, None, backbone, True, slanted=False)
        slow, slanted = verify(slanted, codes[:, positions[0]], positions, written, backbone, True)
        np.testing.assert_allclose(fast, slow, atol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), plain, slanted)
