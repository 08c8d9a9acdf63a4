"""Alternatives beside the drafts: which are fed, what a pass says of them, and that a known answer is `ar`'s token.

That the images stay those of `ar` is in test_exactness.py, test_row_ends.py and test_shipped.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub
import toy

from ssd_jax.decode import alternatives, engine
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.raster import Raster
from ssd_jax.decode.verifier import Beside
from ssd_jax.errors import UserError
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid

GRID = Grid(3, 5)


@pytest.mark.parametrize("reach", [1, 2, 7, 18])
def test_pairs_are_those_with_a_small_product(reach):
    found = set(zip(*(axis.tolist() for axis in alternatives.pairs(reach)), strict=True))
    expected = {(j - 1, k - 1) for j in range(1, reach + 1) for k in range(1, reach + 1) if j * k <= reach}
    assert found == expected
    assert alternatives.count(reach) == len(expected) == sum(reach // j for j in range(1, reach + 1))


@pytest.mark.parametrize("codes", [11, 3])
def test_runners_up_are_the_best_codes_that_are_not_the_draft(codes):
    reach, W, grid = 4, 6, Grid(3, 4)
    keys = image_keys(jnp.zeros(3, jnp.int32), jnp.arange(3))
    verifier, *_ = stub.stub(3, grid, keys, codes=codes)
    log_p = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (3, W, codes)), axis=-1)
    positions = jnp.array([1, 4, 2])[:, None] + jnp.arange(W)[None]
    right = np.array([1, 4, 6])  # of the last image nothing is left of the window
    tokens = jax.random.randint(jax.random.key(1), (3, grid.size), 0, codes)
    find = jax.jit(partial(alternatives.runners_up, reach, verifier))
    found = find(log_p, positions, jnp.asarray(right), tokens)
    scores = np.asarray(log_p + verifier.noise(positions))
    for image in range(3):
        for place, rank, code, position in zip(
            *alternatives.pairs(reach), found.codes[image], found.positions[image], strict=True
        ):
            index = right[image] + place
            assert position == positions[image, 0] + index
            if index >= W:
                assert code == alternatives.NONE
                continue
            draft = tokens[image, min(int(position), grid.size - 1)]
            best = [c for c in np.argsort(-scores[image, index]) if c != draft]
            assert code == (best[rank] if rank < len(best) else alternatives.NONE)


@partial(jax.jit, static_argnames=("attention", "grid"))
def _passes(model, prompts, draw, codes, positions, other, place, *, attention, grid):
    """States of a window and of a token beside it; of the window that has this token in its place; both caches."""
    spec = engine.cache_spec(model.config, grid, *prompts.ids.shape, jnp.float32, attention)
    _, cache = engine.prefill(model, engine.make_cache(spec), prompts)
    verifier = BoundVerifier(model, prompts, draw, grid)
    _, cache = verifier.verify(cache, codes[:, :2], positions[:, :2])
    window = codes[:, 2:], positions[:, 2:]
    beside = Beside(other, positions[:, 2:][:, place])
    both, after = verifier.verify(cache, *window, beside=beside)
    plain, without = verifier.verify(cache, *window)

    def in_the_window(token_and_place):
        token, p = token_and_place
        return verifier.verify(cache, window[0].at[:, p].set(token), window[1])[0][:, p]

    instead = jax.lax.map(in_the_window, (other.T, jnp.asarray(place)))
    return both, plain, instead.swapaxes(0, 1), after, without


@pytest.mark.parametrize("attention", ["plain", "fused"])
@pytest.mark.parametrize("row_end", [-1, 7], ids=["no row ends", "row ends"])
def test_a_token_beside_the_window_has_the_state_that_it_has_in_it(attention, row_end):
    """At the end of a row, too: only what follows a row end is not asked."""
    tiny, images = toy.Toy(toy.config(row_end=row_end)), 2
    ids, mask = toy.prompts(images, guided=True)
    draw = Draw(image_keys(jnp.zeros(images, jnp.int32), jnp.arange(images)), toy.sampler(2.0))
    codes = jax.random.randint(jax.random.key(3), (images, 10), 0, tiny.config.visual_size)
    positions = jnp.array([[0], [3]]) + jnp.arange(10)[None]
    place = np.array([0, 2, 2, 5])  # two alternatives to one draft do not see each other
    other = jax.random.randint(jax.random.key(4), (images, len(place)), 0, tiny.config.visual_size)
    model, prompts = tiny.model(), PromptBatch(ids, mask, True)
    call = partial(_passes.__wrapped__, place=place, attention=attention, grid=GRID)
    both, plain, instead, after, without = jax.jit(call)(model, prompts, draw, codes, positions, other)
    W = plain.shape[1]
    np.testing.assert_allclose(both[:, :W], plain, atol=1e-4)
    for one, two in zip(jax.tree.leaves(after), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)  # nothing was written
    ends = np.tile(np.asarray(positions[:, 2:][:, place] % GRID.cols == GRID.cols - 1), (2, 1))
    compared = ~ends if row_end >= 0 else np.ones_like(ends)
    assert compared.any() and (row_end < 0 or ends.any())
    np.testing.assert_allclose(np.asarray(both[:, W:])[compared], np.asarray(instead)[compared], atol=1e-4)
    assert (np.abs(np.asarray(both[:, W:] - plain[:, place])).max(axis=-1) > 1e-2).any()  # another token, another state


@pytest.mark.parametrize("row_end", [-1, 7], ids=["no row ends", "row ends"])
def test_a_known_answer_is_the_token_of_ar(row_end, monkeypatch):
    """And it saves passes. Behind a row end nothing is known."""
    tiny, grid, images = toy.Toy(toy.config(row_end=row_end)), Grid(4, 5), 16
    oracle, seen, real = np.asarray(toy.decode(tiny, "ar", grid, images=images).tokens), [], alternatives.answer

    def spied(verifier, others, hidden, tokens, corrected, grid):
        following, known = real(verifier, others, hidden, tokens, corrected, grid)
        jax.debug.callback(lambda *x: seen.append([np.asarray(a) for a in x]), corrected, following, known)
        return following, known

    without = Raster(window=8, drafter="above", history=4)
    decoder = Raster(window=8, drafter="above", history=4, alternatives=9)
    monkeypatch.setattr(alternatives, "answer", spied)
    out = toy.decode(tiny, decoder, grid, images=images, program=toy.fresh_program())
    jax.effects_barrier()
    np.testing.assert_array_equal(out.tokens, oracle)
    known = 0
    for corrected, following, which in seen:
        for image in np.flatnonzero(which & (corrected + 1 < grid.size)):
            assert following[image] == oracle[image, corrected[image] + 1]
            known += 1
            if row_end >= 0:
                assert (corrected[image] + 1) % grid.cols
    assert known > images
    before = np.asarray(toy.decode(tiny, without, grid, images=images).passes)
    assert np.mean(out.passes) < before.mean() - 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alternatives": 4, "coupling": "maximal"}, "Only the match coupling has alternatives"),
        ({"alternatives": -1}, "alternatives must be a whole number of at least 0"),
        ({"alternatives": True}, "alternatives must be a whole number of at least 0"),
        ({"alternatives": 65}, "alternatives must be at most 64"),
    ],
)
def test_options(options, message):
    with pytest.raises(UserError, match=message):
        Raster(**options)
