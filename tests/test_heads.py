"""Draft heads: what an untrained one does, where their targets lie, and how they are scored, against slow NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.layout import Grid
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.heads import DraftHeads
from ssd_jax.models.transformer import Transformer, image_hidden
from ssd_jax.prompts import pad_left
from ssd_jax.sampling import Sampler
from ssd_jax.training.heads import offset_name, overlaps, targets_of
from ssd_jax.training.losses import head_loss

HEADS = HeadsConfig(horizontal=2, vertical=1)
D = 32


def states(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, D)).astype(np.float32)


@pytest.fixture(scope="module")
def untrained():
    x = jnp.zeros((1, D))
    return nn.unbox(jax.jit(DraftHeads(HEADS, D).init)(jax.random.key(0), x, x))


@pytest.fixture(scope="module")
def trained(untrained):
    """Every parameter moved, as training would."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32), untrained)


def test_offsets_go_right_first_and_then_down():
    assert HEADS.offsets == ((0, 1), (0, 2), (1, 0))
    assert [offset_name(offset) for offset in HEADS.offsets] == ["right+1", "right+2", "down+1"]


def test_an_untrained_head_copies_the_hidden_state(untrained):
    hidden, embeddings = states(4, 5), states(4, 5, seed=1)
    out = DraftHeads(HEADS, D).apply(untrained, hidden, embeddings)
    np.testing.assert_array_equal(out, np.broadcast_to(hidden, (3, *hidden.shape)))


def test_heads_follow_their_formula(trained):
    hidden, embeddings = states(5), states(5, seed=1)
    out = DraftHeads(HEADS, D, eps=1e-5).apply(trained, hidden, embeddings)
    for index in range(3):
        p = {name: np.asarray(value[index], np.float64) for name, value in trained["params"].items()}
        y = np.concatenate([hidden, embeddings], axis=-1) @ p["w0"]
        normed = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * p["norm"]
        gate = normed @ p["gate"]
        expected = y + (gate / (1 + np.exp(-gate)) * (normed @ p["up"])) @ p["down"]
        np.testing.assert_allclose(out[index], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("which", [(0,), (2, 0)])
def test_which_selects_heads(trained, which):
    hidden, embeddings = states(4, 5), states(4, 5, seed=1)
    every = DraftHeads(HEADS, D).apply(trained, hidden, embeddings)
    some = DraftHeads(HEADS, D).apply(trained, hidden, embeddings, which=which)
    assert some.shape == (len(which), 4, 5, D)
    for row, index in zip(some, which, strict=True):
        np.testing.assert_allclose(row, every[index], rtol=1e-5, atol=1e-5)


def test_targets_are_the_states_at_the_offsets():
    hidden = jnp.asarray(states(2, 12))
    target, valid = targets_of(hidden, Grid(3, 4), HEADS.offsets)
    assert target.shape == (3, 2, 12, D) and valid.shape == (3, 1, 12)
    for index, (down, right) in enumerate(HEADS.offsets):
        for place in range(12):
            row, col = place // 4 + down, place % 4 + right
            inside = row < 3 and col < 4
            assert valid[index, 0, place] == inside
            if inside:
                np.testing.assert_array_equal(target[index, :, place], hidden[:, row * 4 + col])


def test_smooth_l1_counts_only_valid_places():
    predicted, target = states(3, 2, 4) * 2, states(3, 2, 4, seed=1)
    valid = np.array([[[True, True, False, True]], [[False, False, False, True]], [[False] * 4]])
    actual = head_loss(jnp.asarray(predicted), jnp.asarray(target), jnp.asarray(np.broadcast_to(valid, (3, 2, 4))))
    expected = []
    for offset in range(3):
        terms = []
        for image in range(2):
            for place in range(4):
                if valid[offset, 0, place]:
                    error = np.abs(predicted[offset, image, place] - target[offset, image, place]).astype(np.float64)
                    terms.append(np.mean([0.5 * e * e if e < 1 else e - 0.5 for e in error]))
        expected.append(np.mean(terms) if terms else 0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    one_row = head_loss(jnp.asarray(predicted), jnp.asarray(target), jnp.asarray(valid))  # as `targets_of` gives it
    np.testing.assert_allclose(one_row, expected, rtol=1e-5)


class Pictures:
    """Four captioned pictures, as `overlaps` asks for them."""

    prompts = [[2, 5, 3], [2, 4, 5, 6, 3], [2, 7, 3], [2, 6, 6, 3]]
    empty, pad_id, length = [2, 3], 0, 8

    def __init__(self, positions: int):
        self.codes = np.random.default_rng(0).integers(0, 32, (4, positions)).astype(np.int32)

    def given(self, indices):
        return *pad_left([self.prompts[i] for i in indices], self.pad_id, self.length), self.codes[indices]


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_overlap_is_the_shared_mass_of_verifier_and_head(backbone, trained):
    config, params = backbone(width=D)
    grid, scale, temperature = Grid(config.rows, config.cols), 2.0, 0.8
    knobs = Sampler(jnp.float32(scale), jnp.float32(temperature), jnp.int32(1000), jnp.float32(1.0))
    source = Pictures(grid.size)
    actual = overlaps(config, HEADS, trained, params, source, np.arange(4), knobs, batch=2)

    model = Transformer(config)
    hidden_of = jax.jit(lambda ids, mask, codes: image_hidden(model, params, ids, mask, codes))
    ids, mask, codes = source.given(np.arange(4))
    empty_ids, empty_mask = pad_left([source.empty] * 4, source.pad_id, source.length)
    hidden = hidden_of(ids, mask, codes), hidden_of(empty_ids, empty_mask, codes)  # conditional, unconditional
    embeddings = model.apply(params, codes, method="embed_codes")

    def distribution(conditional, unconditional):
        c, u = (np.asarray(model.apply(params, x, method="logits"), np.float64) for x in (conditional, unconditional))
        return softmax((u + scale * (c - u)) / temperature)

    p = distribution(*hidden)
    drafts = [DraftHeads(HEADS, D, config.norm_eps).apply(trained, x, embeddings) for x in hidden]
    for index, (down, right) in enumerate(HEADS.offsets):
        q = distribution(drafts[0][index], drafts[1][index])
        shared = [
            np.minimum(p[image, (row + down) * grid.cols + col + right], q[image, row * grid.cols + col]).sum()
            for image in range(4)
            for row in range(grid.rows - down)
            for col in range(grid.cols - right)
        ]
        np.testing.assert_allclose(np.asarray(actual)[index], np.mean(shared), rtol=1e-3)
