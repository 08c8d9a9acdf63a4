"""The tree loop: which nodes are beside its window and what each sees, which candidates are tried, and what is refused.

That its images follow the backbone's distribution is in test_lossless.py.
"""

import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub
import toy
from image_laws import GRID as SIX
from image_laws import SAMPLES, every_image, of_images, p_value
from scipy import stats

from ssd_jax.decode import branches, engine
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.tree import Tree
from ssd_jax.decode.verifier import Verifier
from ssd_jax.errors import UserError
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling import noise, threefry
from ssd_jax.sampling.choice import choose
from ssd_jax.sampling.distribution import residual
from ssd_jax.sampling.noise import Tag, image_keys
from ssd_jax.sequence.layout import Grid

GRID = Grid(3, 5)


@pytest.mark.parametrize(("candidates", "levels"), [(2, 1), (2, 3), (3, 2)])
def test_the_nodes_are_all_paths_but_those_of_drafts_alone(candidates, levels):
    tree = branches.nodes(candidates, levels)
    paths = [p for n in range(1, levels + 1) for p in itertools.product(range(candidates), repeat=n) if any(p)]
    assert len(tree.level) == len(paths) == sum(candidates**n - 1 for n in range(1, levels + 1))
    for node, path in enumerate(paths):
        assert tree.level[node] == len(path) - 1 and tree.candidate[node] == path[-1]
        assert path[: tree.shared[node]] == (0,) * tree.shared[node] and path[tree.shared[node]]
        seen = {paths[other] for other in np.flatnonzero(tree.sees[node])}
        assert seen == {path[: n + 1] for n in range(tree.shared[node], len(path))}
    for level in range(levels):
        for number, path in enumerate(itertools.product(range(candidates), repeat=level + 1)):
            assert tree.of_path[level][number] == (paths.index(path) if any(path) else -1)


@partial(jax.jit, static_argnames=("attention", "levels", "K"))
def _states(model, prompts, draw, codes, positions, candidates, *, attention, levels, K):
    """States of the nodes beside a window, and those of every path in the window's place; what is written."""
    spec = engine.cache_spec(model.config, GRID, *prompts.ids.shape, jnp.float32, attention)
    _, cache = engine.prefill(model, engine.make_cache(spec), prompts)
    verifier, tree = BoundVerifier(model, prompts, draw, GRID), branches.nodes(K, levels)
    _, cache = verifier.verify(cache, codes[:, :2], positions[:, :2])
    codes, positions = codes[:, 2:].at[:, 1 : levels + 1].set(candidates[:, :, 0]), positions[:, 2:]
    both, after = verifier.verify(cache, codes, positions, beside=branches.beside(tree, candidates, positions[:, 1]))
    plain, without = verifier.verify(cache, codes, positions)
    paths = [p for n in range(1, levels + 1) for p in itertools.product(range(K), repeat=n) if any(p)]
    whole = jnp.array([p + (0,) * (levels - len(p)) for p in paths])  # the window's own tokens behind its end

    def in_the_window(path_and_length):
        path, length = path_and_length
        tokens = candidates[:, jnp.arange(levels), path]
        hidden, _ = verifier.verify(cache, codes.at[:, 1 : levels + 1].set(tokens), positions)
        return hidden[:, length]

    instead = jax.lax.map(in_the_window, (whole, jnp.array([len(p) for p in paths])))
    return both, plain, instead.swapaxes(0, 1), after, without


@pytest.mark.parametrize("attention", ["plain", "fused"])
@pytest.mark.parametrize("row_end", [-1, 7], ids=["no row ends", "row ends"])
def test_a_node_has_the_state_that_its_path_has_in_the_window(attention, row_end):
    """With row ends only up to the end of a row, unless the path got there through the window."""
    tiny, images, levels, K = toy.Toy(toy.config(row_end=row_end)), 3, 2, 3
    ids, mask = toy.prompts(images, guided=True)
    draw = Draw(image_keys(jnp.zeros(images, jnp.int32), jnp.arange(images)), toy.sampler(2.0))
    codes, candidates = (
        jax.random.randint(jax.random.key(3), shape, 0, tiny.config.visual_size)
        for shape in ((images, 9), (images, levels, K))
    )
    positions = jnp.array([[0], [1], [4]]) + jnp.arange(9)[None]  # level 0 is position 3, 4, the end of a row, and 7
    model, prompts = tiny.model(), PromptBatch(ids, mask, True)
    both, plain, instead, after, without = _states(
        model, prompts, draw, codes, positions, candidates, attention=attention, levels=levels, K=K
    )
    W, tree = plain.shape[1], branches.nodes(K, levels)
    np.testing.assert_allclose(both[:, :W], plain, atol=1e-4)
    for one, two in zip(jax.tree.leaves(after), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)  # nothing was written
    first = np.asarray(positions)[:, 3]
    # From its first sibling on a path is beside the window; no row end is fed there, nor is its own output asked for.
    passed = [[any((n + p) % GRID.cols == GRID.cols - 1 for p in range(shared, level + 1))
               for shared, level in zip(tree.shared, tree.level, strict=True)] for n in first]  # fmt: skip
    compared = np.tile(~np.array(passed) if row_end >= 0 else np.ones_like(passed), (2, 1))
    assert compared.any() and (row_end < 0 or not compared.all())
    np.testing.assert_allclose(np.asarray(both[:, W:])[compared], np.asarray(instead)[compared], atol=1e-4)
    assert np.abs(np.asarray(both[:, W:])[:, 2] - np.asarray(both[:, W:])[:, 5]).max() > 1e-2  # the parent matters


def test_behind_a_row_end_it_follows_the_law_too():
    tiny = toy.Toy(toy.config(visual=4, width=16, layers=1, row_end=7), sharpness=3.0)
    how = {"cfg_scale": 1.5, "top_k": 3, "which": 0}
    law = of_images(toy.forced(tiny, every_image(4), SIX, **how)[0], 4)
    decoder, program = Tree(window=13, candidates=3, depth=3), toy.quick_program()
    drawn = [
        toy.decode(tiny, decoder, SIX, images=SAMPLES // 3, seed=seed, program=program, **how).tokens
        for seed in range(3)
    ]
    assert p_value(np.concatenate(drawn), law, 4) > 1e-3


V, DRAWN = 6, 100_000
LAW0 = np.array([0.30, 0.05, 0.05, 0.25, 0.15, 0.20], np.float32)
LAW1, LAW2 = (np.random.default_rng(seed).dirichlet(np.full(V, 2.0), V).astype(np.float32) for seed in (1, 2))
"""p of a token after the one before it, a line for each."""
Q = np.array([[0.05, 0.35, 0.2, 0.1, 0.2, 0.1], [0.1, 0.1, 0.3, 0.3, 0.15, 0.05]], np.float32)


def walked() -> branches.Walk:
    """Walks of many images through a tree whose candidates come from `Q` and meet the laws above."""

    def draw(numbers: jax.Array) -> branches.Walk:
        keys = image_keys(jnp.zeros_like(numbers), numbers)
        verifier = stub.changed(Verifier(), keys=lambda at: noise.position_keys(keys, at))
        at, clock = jnp.broadcast_to(jnp.arange(7, 10, dtype=jnp.int32), (DRAWN, 3)), jnp.full_like(numbers, 4)
        log_q, tree = jnp.broadcast_to(jnp.log(Q), (DRAWN, 2, V)), branches.nodes(3, 2)
        drafts = choose(log_q, noise.gumbel_noise(keys, at[:, :2], V))
        others = branches.siblings(verifier, drafts, log_q, at[:, :2], clock, 2)
        candidates = jnp.concatenate([drafts[..., None], others], axis=2)
        first = jnp.broadcast_to(jnp.asarray(LAW0), (DRAWN, V))
        chain = jnp.stack([first, jnp.asarray(LAW1)[drafts[:, 0]], jnp.asarray(LAW2)[drafts[:, 1]]], axis=1)
        codes = candidates[:, tree.level, tree.candidate]
        beside = jnp.where((tree.level == 0)[:, None], jnp.asarray(LAW1)[codes], jnp.asarray(LAW2)[codes])
        return branches.walk(verifier, tree, candidates, jnp.log(chain), jnp.log(beside), log_q, at, clock + 1, 5)

    return jax.tree.map(np.asarray, jax.jit(draw)(jnp.arange(DRAWN, dtype=jnp.int32)))


def least_p_value(walk: branches.Walk) -> float:
    """Of the chi-squares of every position's tokens after each token before."""
    a, b, c = walk.tokens.T
    more = [walk.through | (walk.final > number) for number in (1, 2)]
    groups = [(LAW0, a)]
    groups += [(LAW1[code], b[more[0] & (a == code)]) for code in range(V)]
    groups += [(LAW2[code], c[more[1] & (b == code)]) for code in range(V)]
    found = [
        stats.chisquare(np.bincount(tokens, minlength=V), np.float64(law) / np.float64(law).sum() * len(tokens)).pvalue
        for law, tokens in groups
    ]
    print(found, "of the walks that end at each position:", np.bincount(walk.final[~walk.through]) / DRAWN)
    return min(found)


def test_tokens_of_a_walk_follow_their_laws_whatever_came_before():
    walk = walked()
    assert least_p_value(walk) > 1e-3
    assert (np.bincount(walk.final[~walk.through])[1:] > DRAWN / 50).all() and walk.through.mean() > 0.05


def test_one_uniform_number_for_a_draft_and_its_siblings_is_seen(monkeypatch):
    """It is large where the draft was refused."""

    def keys(keys, tag, clock):
        return noise.fresh_keys(keys, Tag.BRANCH if tag == Tag.ACCEPT else tag, clock)

    def bits(keys, count):
        return jnp.repeat(threefry.bits(keys, 1), count, axis=-1)

    monkeypatch.setattr(branches, "fresh_keys", keys)
    monkeypatch.setattr(branches, "threefry", SimpleNamespace(unit=threefry.unit, bits=bits))
    assert least_p_value(walked()) < 1e-9


def test_siblings_from_a_residual_are_seen(monkeypatch):
    """As the released code draws them: from max(0, p - q) of the pass before, accepted as if from p."""
    real, older = branches.siblings, jnp.log(jnp.asarray(Q[::-1]))

    def released(verifier, drafts, log_q, *more):
        return real(verifier, drafts, residual(log_q, jnp.broadcast_to(older, log_q.shape)), *more)

    monkeypatch.setattr(branches, "siblings", released)
    assert least_p_value(walked()) < 1e-9


def test_siblings_are_other_codes_and_none_where_there_are_no_more():
    log_q = jnp.log(jnp.array([[[0.5, 0.3, 0.2, 0.0]], [[1.0, 0.0, 0.0, 0.0]]]))
    verifier, *_ = stub.stub(2, GRID, image_keys(jnp.zeros(2, jnp.int32), jnp.arange(2)), codes=4)
    drafts, place = jnp.zeros((2, 1), jnp.int32), jnp.full((2, 1), 3)
    found = np.asarray(branches.siblings(verifier, drafts, log_q, place, jnp.ones(2, jnp.int32), 5))[:, 0]
    assert set(found[0, :2]) == {1, 2} and (found[0, 2:] == branches.NONE).all() and (found[1] == branches.NONE).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 12}, "A tree of depth 3 with 3 candidates has 13 nodes, more than the window's 12."),
        ({"candidates": 1}, "candidates must be a whole number of at least 2"),
        ({"depth": 1}, "depth must be a whole number of at least 2"),
        ({"depth": 17}, "depth must be at most 16"),
        ({"window": 2.5}, "window must be a whole number"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Tree(**options)


def test_a_window_larger_than_the_image_is_refused_unless_it_is_the_presets():
    with pytest.raises(UserError, match="A window of 64 is larger than the image, which has 15 tokens"):
        Tree().check(GRID)  # that the preset is cut is in test_loops
