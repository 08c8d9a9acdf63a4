"""Given tokens: every decoder keeps them, and draws the others as if the verifier had drawn the given ones itself."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ssd_jax.decode import engine
from ssd_jax.decode.flash import Flash
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid

GRID, IMAGES = Grid(5, 6), 6
ONE_LAYER, WITH_ROW_ENDS = toy.Toy(toy.config(layers=1)), toy.Toy(toy.config(row_end=7))
EXACT = [name for name, decoder in PRESETS.items() if getattr(decoder, "coupling", None) == "match"]
OTHERS = [name for name in PRESETS if name not in (*EXACT, "ar")]
OTHERS += [SSD(rounds=0)]  # it commits drafts
OTHERS += [SSD(rounds="auto"), Flash(rounds=2)]
SMALL = {"ssd-exact": 7, "ssd-tree": 7, "jacobi-above": 4}


def decoder_of(name):
    """The preset, its window cut so that an image takes several passes."""
    decoder = PRESETS.get(name, name)
    return dataclasses.replace(decoder, window=SMALL[name]) if name in SMALL else decoder


def given_tokens(seed=0) -> np.ndarray:
    """Of some images the upper rows, of some a frame, of some nothing, of the last everything."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, toy.TOY.config.visual_size, (IMAGES, *GRID_SHAPE)).astype(np.int32)
    mask = np.ones(codes.shape, bool)  # drawn
    mask[:2, :2] = False
    mask[2:4] = False
    mask[2:4, 1:-1, 1:-1] = True
    mask[-1] = False
    return np.where(mask, -1, codes).reshape(IMAGES, -1)


GRID_SHAPE = (GRID.rows, GRID.cols)
GIVEN = given_tokens()
NOTHING = np.full_like(GIVEN, -1)
"""The same program as for `GIVEN`; it draws what one without given tokens draws (the last test)."""


def decode(model, decoder, given):
    """With draft heads and guidance; noise and prompts of image k are always its own."""
    return toy.decode(model, decoder, GRID, images=IMAGES, given=given)


@pytest.mark.parametrize("model", [toy.TOY, WITH_ROW_ENDS], ids=["no row ends", "row ends"])
def test_ar_keeps_given_tokens_and_draws_the_others_with_their_own_noise(model):
    """By teacher forcing: every drawn token is argmax(log p + g) under the image that came out."""
    out = np.asarray(decode(model, PRESETS["ar"], GIVEN).tokens)
    np.testing.assert_array_equal(out[GIVEN >= 0], GIVEN[GIVEN >= 0])
    log_p, noise, _ = toy.forced(model, jnp.asarray(out), GRID)
    drawn = np.asarray(jnp.argmax(log_p + noise, axis=-1))
    np.testing.assert_array_equal(out[GIVEN < 0], drawn[GIVEN < 0])
    free = np.asarray(decode(model, PRESETS["ar"], NOTHING).tokens)
    assert (out[4] == free[4]).all() and (out[:4] != free[:4]).any(axis=1).all()  # image 4 has no given token


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *(pytest.param(name, toy.TOY, id=name) for name in EXACT),
        pytest.param("ssd-tree", WITH_ROW_ENDS, id="ssd-tree, row ends"),  # ssd-exact with alternatives
    ],
)
def test_exact_decoders_draw_what_ar_draws(name, model):
    oracle, out = decode(model, PRESETS["ar"], GIVEN), decode(model, decoder_of(name), GIVEN)
    np.testing.assert_array_equal(out.tokens, oracle.tokens)
    passes = np.asarray(out.passes)
    window = decoder_of(name).width(GRID)
    assert passes[-1] == 1 + -(-(GRID.size - 1) // window)  # given tokens are accepted as fast as they fit
    assert (passes[:4] < np.asarray(decode(model, decoder_of(name), NOTHING).passes)[:4]).sum() >= 3


@pytest.mark.parametrize("name", OTHERS, ids=str)
def test_every_decoder_keeps_given_tokens(name):
    out = np.asarray(decode(ONE_LAYER, decoder_of(name), GIVEN).tokens)
    np.testing.assert_array_equal(out[GIVEN >= 0], GIVEN[GIVEN >= 0])
    assert ((0 <= out) & (out < ONE_LAYER.config.visual_size)).all()
    free = np.asarray(decode(ONE_LAYER, decoder_of(name), NOTHING).tokens)
    assert (out[4] == free[4]).all()


def test_a_program_without_given_tokens_is_the_same(monkeypatch):
    """As if nothing could be given: no operation more."""
    ids, mask = toy.prompts(IMAGES, guided=True)
    keys = image_keys(jnp.zeros(IMAGES, jnp.int32), jnp.arange(IMAGES))
    model, prompts = ONE_LAYER.model("untrained"), PromptBatch(ids, mask, True)

    def text(decoder, given=None) -> str:
        cache = engine.make_cache(engine.cache_spec(ONE_LAYER.config, GRID, *ids.shape, jnp.float32))
        draw = Draw(keys, toy.sampler(2.0), given=given)
        return toy.fresh_program().lower(model, cache, prompts, draw, decoder=decoder, grid=GRID).as_text()

    decoders = [PRESETS["ar"], Raster(window=4, drafter="spatial"), PRESETS["ssd"], PRESETS["ssd-wave"], PRESETS["mtp"]]
    without = [text(decoder) for decoder in decoders]
    assert text(decoders[0], jnp.asarray(GIVEN)) != without[0]
    monkeypatch.setattr(BoundVerifier, "constrain", lambda self, log_p, positions: log_p)
    monkeypatch.setattr(BoundVerifier, "place", lambda self, codes, positions: codes)
    assert [text(decoder) for decoder in decoders] == without


@pytest.mark.parametrize(
    ("name", "model"),
    [("jacobi-above", toy.TOY), ("ssd", ONE_LAYER), ("ssd-wave", ONE_LAYER), ("pjd", ONE_LAYER)],
    ids=lambda value: value if isinstance(value, str) else f"{value.config.layers} layers",
)
def test_nothing_given_is_nothing_else(name, model):
    free, none = (decode(model, decoder_of(name), given) for given in (None, NOTHING))
    np.testing.assert_array_equal(none.tokens, free.tokens)
    np.testing.assert_array_equal(none.passes, free.passes)
