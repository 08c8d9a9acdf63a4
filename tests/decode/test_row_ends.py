"""Backbones with a forced token at the end of every grid row: it is in the sequence and costs no pass.

Everything is compared with whole sequences, row ends written in, that go through the model as if they were a prompt.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from ssd_jax.decode import engine
from ssd_jax.decode.ar import AR
from ssd_jax.decode.mtp import MTP
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.tree import Tree
from ssd_jax.decode.wave import Wave
from ssd_jax.models.teacher_forcing import image_hidden
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling.distribution import guide, log_probabilities
from ssd_jax.sampling.noise import gumbel_noise, image_keys
from ssd_jax.sequence.layout import Grid, Layout

ROW_END = 7
TOY = toy.Toy(toy.config(row_end=ROW_END))
GRID, IMAGES = Grid(4, 5), 6
LAYOUT = Layout(GRID, row_ends=True)

EXACT = [
    Raster(window=4, drafter="spatial"),
    Raster(window=7, drafter="above", history=3),
    Raster(window=1000, drafter="horizontal"),
    Raster(window=6, drafter="above", history=2, alternatives=6),
    Wave(down=5, right=1, depth=2),
]
OTHERS = [
    Raster(window=6, drafter="random", coupling="maximal"),
    SSD(rounds=1),
    SSD(rounds="auto"),
    SSD(rounds=1, extra_rounds=1, rows=2, schedule="staged"),
    SSD(rounds=1, rows=2, mask="row"),
    Wave(down=2, right=0.5, depth=3, drafter="above"),
    MTP(drafts=2),
    Tree(window=14, candidates=3, depth=3),
]


MANY_CALLS = dict(images=IMAGES, program=engine.decode)  # with other sampling parameters and prompts, too


@cache
def decoded(decoder):
    call = MANY_CALLS if decoder in ("ar", MTP(drafts=2)) else {}
    return toy.decode(TOY, decoder, GRID, **{"images": IMAGES, **call})


def whole(tokens) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of prompts followed by images, [G, PROMPT + 23], written out row by row."""
    ids, mask = (np.asarray(x) for x in toy.prompts(IMAGES, guided=True))
    rows = np.asarray(tokens).reshape(IMAGES, GRID.rows, GRID.cols) + TOY.config.visual_offset
    lines = np.concatenate([rows, np.full((IMAGES, GRID.rows, 1), ROW_END)], axis=2).reshape(IMAGES, -1)[:, :-1]
    ids = np.concatenate([ids, np.tile(lines, (2, 1))], axis=1)
    return ids, np.concatenate([mask, np.ones((len(ids), lines.shape[1]), bool)], axis=1)


@jax.jit
def forward(ids, mask):
    """Hidden states of whole sequences and the cache they leave, by one prefill of everything."""
    model, cached = (
        Transformer(TOY.config),
        engine.make_cache(engine.cache_spec(TOY.config, GRID, len(ids), toy.PROMPT, jnp.float32)),
    )
    x = model.apply(TOY.params, ids, method="embed")
    slots = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    seen = (mask[:, None, :] & jnp.tri(ids.shape[1], dtype=bool)[None]) | jnp.eye(ids.shape[1], dtype=bool)[None]
    return model.apply(TOY.params, x, positions, seen, slots, cached, method="hidden")


# -- geometry


def test_where_tokens_sit():
    # places   0 1 2 3 4 | 5        6 7 8 9 10 | 11 ...
    places = LAYOUT.places(np.arange(GRID.size))
    assert places.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22]
    assert (LAYOUT.length, LAYOUT.pitch) == (23, 6)
    token, row_end = LAYOUT.sequence()
    assert np.flatnonzero(row_end).tolist() == [5, 11, 17] and token[row_end].tolist() == [4, 9, 14]
    assert token[~row_end].tolist() == list(range(20))
    none = Layout(GRID)
    assert (none.length, none.pitch) == (20, 5) and none.places(7) == 7 and not none.sequence()[1].any()


@pytest.mark.parametrize(
    ("positions", "ends", "fed", "outputs"),
    [
        ([3], None, [3, None], [0]),  # one slot to spare
        ([4], None, [4, "E"], [1]),  # the row end predicts position 5
        ([3, 4, 5, 6], None, [3, 4, 5, 6, "E"], [0, 4, 2, 3]),
        ([5, 6, 7, 8], None, [5, 6, 7, 8, None], [0, 1, 2, 3]),
        ([4, 5, 6, 7, 8, 9], None, [4, 5, 6, 7, 8, 9, "E", "E"], [6, 1, 2, 3, 4, 7]),  # as many as there can be
        ([18, 19, 20, 21], None, [18, 19, None, None, None], [0, 1, None, None]),  # the end of the grid has no place
        ([9, 20, 20], None, [9, None, None, "E"], [3, None, None]),  # padding may start early
        ([20, 20], None, [None, None, None], [None, None]),
        ([4, 7, 10], 2, [4, 7, 10, "E", None], [3, 1, 2]),  # a slanted front: two columns a row
        ([14, 2, 20, 9, 4], 9, [14, 2, None, 9, 4, "E", "E", "E"], [5, 1, None, 6, 7]),  # in any order
    ],
)
def test_a_window_has_slots_for_its_row_ends(positions, ends, fed, outputs):
    window = LAYOUT.window(jnp.array([positions], jnp.int32), ends)
    token, row_end = LAYOUT.sequence()
    found = [
        None if place >= LAYOUT.length else "E" if row_end[place] else int(token[place]) for place in window.places[0]
    ]
    assert found == fed
    for position, expected, output in zip(positions, outputs, window.outputs[0], strict=True):
        assert expected is None or output == expected
        if position < GRID.size - 1:
            assert window.places[0, output] == LAYOUT.places(position + 1) - 1


def test_a_picture_of_one_row_has_no_row_end():
    layout = Layout(Grid(1, 3), row_ends=True)
    assert layout.window(jnp.array([[1, 2]])).places.tolist() == [[1, 2]]


# -- decoding


def test_ar_is_ancestral_sampling_over_whole_sequences():
    out = decoded("ar")
    assert np.asarray(out.passes).tolist() == [GRID.size] * IMAGES  # row ends cost none
    ids, mask = whole(out.tokens)
    hidden, _ = forward(ids, mask)
    before = toy.PROMPT + LAYOUT.places(np.arange(GRID.size)) - 1
    logits = Transformer(TOY.config).apply(TOY.params, hidden[:, before], method="logits")
    log_p = log_probabilities(guide(logits, jnp.float32(2.0), True), toy.sampler(2.0))
    keys = image_keys(jnp.zeros(IMAGES, jnp.int32), jnp.arange(IMAGES))
    noise = gumbel_noise(keys, jnp.broadcast_to(jnp.arange(GRID.size), (IMAGES, GRID.size)), TOY.config.visual_size)
    np.testing.assert_array_equal(jnp.argmax(log_p + noise, axis=-1), out.tokens)
    # Row ends do matter: without them other tokens are the best somewhere.
    mask[:, toy.PROMPT + np.flatnonzero(LAYOUT.sequence()[1])] = False
    hidden, _ = forward(ids, mask)
    before = toy.PROMPT + np.array([-1, *LAYOUT.places(np.arange(GRID.size - 1))])
    logits = Transformer(TOY.config).apply(TOY.params, hidden[:, before], method="logits")
    log_p = log_probabilities(guide(logits, jnp.float32(2.0), True), toy.sampler(2.0))
    assert np.any(np.asarray(jnp.argmax(log_p + noise, axis=-1)) != np.asarray(out.tokens))


@pytest.mark.parametrize("window", [2, GRID.cols + 1, 1000])
def test_a_wide_window_of_padding_changes_nothing(window):
    """`AR(window=W)` draws what `AR()` draws, in as many passes."""
    out = decoded(AR(window=window))
    np.testing.assert_array_equal(out.tokens, decoded("ar").tokens)
    np.testing.assert_array_equal(out.passes, decoded("ar").passes)


@pytest.mark.parametrize("decoder", EXACT, ids=str)
def test_exact_decoders_give_the_same_pictures(decoder):
    out = decoded(decoder)
    np.testing.assert_array_equal(out.tokens, decoded("ar").tokens)
    assert np.all(out.passes <= GRID.size + isinstance(decoder, Wave))


def test_drafts_of_multi_token_prediction_go_on_across_the_end_of_a_row():
    """Where the likeliest code is drawn every lossless decoder draws the same; runs of three tokens cross rows of 5."""
    greedy, mtp = (toy.decode(TOY, d, GRID, temperature=0.0, **MANY_CALLS) for d in ("ar", MTP(drafts=2)))
    np.testing.assert_array_equal(mtp.tokens, greedy.tokens)
    assert np.any(mtp.passes < GRID.size)


def test_multi_token_prediction_in_another_order_of_the_batch():
    """Each guided pair of rows goes on from its own last token."""
    order = np.array([3, 5, 0, 4, 2, 1])
    one, other = (toy.decode(TOY, MTP(drafts=2), GRID, numbers=n, which=0, **MANY_CALLS) for n in (range(6), order))
    assert len(set(np.asarray(one.passes).tolist())) > 1
    np.testing.assert_array_equal(np.asarray(one.tokens)[order], other.tokens)
    np.testing.assert_array_equal(np.asarray(one.trace)[order], other.trace)


@pytest.mark.parametrize(
    ("decoder", "passes"),
    [(OTHERS[1], 1 + 2 * 2 + 3 * 2), (OTHERS[3], 1 + 2 * 2 + 2 * 3), (OTHERS[5], 2 + 8)],
)
def test_row_decoders_take_the_published_number_of_passes(decoder, passes):
    assert np.asarray(decoded(decoder).passes).tolist() == [passes] * IMAGES


@pytest.mark.parametrize("decoder", ["ar", EXACT[0], EXACT[2], *OTHERS], ids=str)
def test_the_cache_is_that_of_a_fresh_prefill_row_ends_included(decoder):
    out = decoded(decoder)
    _, fresh = forward(*whole(out.tokens))
    last = GRID.size - getattr(decoder, "depth", 1)
    if isinstance(decoder, Wave):
        last = int(np.argmax(decoder.schedule(GRID).final == decoder.passes(GRID)))
    right = toy.PROMPT + int(LAYOUT.places(last))
    assert out.cache.length == toy.PROMPT + LAYOUT.length
    for layer, expected in zip(jax.tree.leaves(out.cache), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(layer[:, :, :right], expected[:, :, :right], atol=1e-4)


def test_teacher_forcing_equals_the_whole_sequence():
    tokens = decoded("ar").tokens
    hidden, _ = forward(*whole(tokens))
    ids, mask = toy.prompts(IMAGES, guided=False)
    forced = jax.jit(partial(image_hidden, Transformer(TOY.config), grid=GRID))(TOY.params, ids, mask, tokens)
    before = toy.PROMPT + LAYOUT.places(np.arange(GRID.size)) - 1
    np.testing.assert_allclose(forced, hidden[:IMAGES, before], atol=1e-4)
