"""The vertical branch's training: what it computes over given images, its loss, and what it leaves alone."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from ssd_jax.decode.flash import Flash
from ssd_jax.models.block import RECOMPUTED
from ssd_jax.models.branch import VerticalBranch, boxed_branch, init_branch, mixed
from ssd_jax.models.config import BranchConfig, ConfigError
from ssd_jax.models.diagonal_forcing import neighbour_states
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling.noise import gumbel_noise, image_keys
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.branch import Forking, divergence, mean_losses
from ssd_jax.training.spec import BranchSpec, StageSpec
from ssd_jax.training.step import make_optimizer

GRID = Grid(4, 5)
MODELS = {row_end: toy.Toy(dataclasses.replace(toy.config(row_end=row_end), rows=4, cols=5)) for row_end in (-1, 1)}


def forced_logits(model: toy.Toy, window: int = 0):
    """(params, ids, mask, codes) -> teacher-forced logits as `flash` draws, [B, P, V]."""
    return jax.jit(lambda *given: toy.flash_logits(model.branched().forked, *given, GRID, window))


def random_codes(images: int):
    return jnp.asarray(np.random.default_rng(0).integers(0, 24, (images, GRID.size)), jnp.int32)


@pytest.mark.parametrize("window", [0, 5], ids=["at once", "in windows"])
@pytest.mark.parametrize("row_end", MODELS, ids=["plain", "row ends"])
def test_teacher_forcing_gives_the_distributions_that_flash_draws_from(row_end, window):
    """Every token of its images is argmax(log p + g) of the forced logits."""
    model, images = MODELS[row_end], 4
    out = toy.decode(model, Flash(), GRID, images=images, cfg_scale=None)
    ids, mask = toy.prompts(images, guided=False)
    logits = forced_logits(model, window)(model.branched().both, ids, mask, out.tokens)
    keys = image_keys(jnp.zeros(images, jnp.int32), jnp.arange(images))
    positions = jnp.broadcast_to(jnp.arange(GRID.size, dtype=jnp.int32), out.tokens.shape)
    drawn = jnp.argmax(jax.nn.log_softmax(logits) + gumbel_noise(keys, positions, logits.shape[-1]), axis=-1)
    np.testing.assert_array_equal(drawn, out.tokens)


def test_no_prediction_depends_on_its_own_diagonal_or_a_later_one():
    model = MODELS[-1]
    ids, mask = toy.prompts(1, guided=False)
    codes = random_codes(1)
    logits, params = forced_logits(model), model.branched().both
    row, col = np.divmod(np.arange(GRID.size), GRID.cols)
    before = np.asarray(logits(params, ids, mask, codes)[0])
    for position in (0, 3, 7, 12, 18):
        changed = codes.at[0, position].add(1) % 24
        after = np.asarray(logits(params, ids, mask, changed)[0])
        moved = (before != after).any(axis=-1)
        later = row + col > row[position] + col[position]
        assert not moved[~later].any() and moved[later].any()


def test_an_untrained_branch_is_the_backbones_end():
    """Blocks, norm and output head are copies, and the gate is even."""
    config, params = toy.config(layers=3), toy.Toy(toy.config(layers=3)).params
    branch = init_branch(config, BranchConfig(2), params, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, config.width))
    positions, mask = jnp.broadcast_to(jnp.arange(5, dtype=jnp.int32), (2, 5)), jnp.ones((2, 5, 5), bool)
    module, backbone = VerticalBranch(config, BranchConfig(2)), Transformer(config)
    h, before, _ = backbone.apply(params, x, positions, mask, None, None, 2, method="forked")
    v, _ = module.apply(branch, before, positions, mask, method="hidden")
    np.testing.assert_array_equal(v, h)
    logits = (module.apply(branch, v, method="logits"), backbone.apply(params, h, method="logits"))
    np.testing.assert_array_equal(*logits)
    np.testing.assert_array_equal(module.apply(branch, h, v, method="gate"), 0.5)


def test_a_branch_longer_than_the_backbone_is_refused():
    with pytest.raises(ConfigError, match="a vertical branch of 3 layers is longer than the backbone, of 2"):
        boxed_branch(toy.config(layers=2), BranchConfig(3))
    with pytest.raises(ConfigError, match="at least one layer, not 0"):
        BranchConfig(0)


def test_the_border_has_one_neighbour_and_the_rest_a_mixture():
    left, above = jnp.full((1, 12, 2), 1.0), jnp.full((1, 12, 2), 3.0)
    logits = mixed(jnp.full((1, 12, 1), 0.25), left, above, jnp.arange(12, dtype=jnp.int32)[None], cols=4)
    expected = [1, 1, 1, 1, 3, 2.5, 2.5, 2.5, 3, 2.5, 2.5, 2.5]
    np.testing.assert_allclose(logits[0, :, 0], expected)


def test_divergence_is_kl_times_the_temperature_squared():
    rng = np.random.default_rng(0)
    taught, learned = rng.normal(size=(2, 3, 5)).astype(np.float32), rng.normal(size=(2, 3, 5)).astype(np.float32)

    def softened(logits):
        return np.exp(logits / 2.0) / np.exp(logits / 2.0).sum(-1, keepdims=True)

    p, q = softened(taught), softened(learned)
    expected = 4.0 * (p * np.log(p / q)).sum(-1)
    found = divergence(jnp.asarray(taught), jnp.asarray(learned), 2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(found.mean(), expected.mean(), rtol=1e-5)
    assert divergence(jnp.asarray(taught), jnp.asarray(taught), 2.0).mean() == pytest.approx(0, abs=1e-6)


PHASE = BranchSpec(
    steps=4, batch=2, warmup=0, decay=0.5, clip=1.0, weight_decay=0.0, b2=0.99, lr=0.1, log_every=4, save_every=4,
    eval_images=1, caption_drop=0.0, code_noise=0.0, code_blind=0.0, code_noise_from=0, vertical=1.0, distillation=1.0,
    temperature=2.0, backbone_rate=0.0,
)  # fmt: skip


@pytest.mark.parametrize("row_end", MODELS, ids=["plain", "row ends"])
def test_the_losses_by_hand(row_end):
    """NLL as `flash` draws and from above alone; the latter's divergence from the backbone in raster order."""
    model, codes = MODELS[row_end], random_codes(2)
    both, forked, (ids, mask) = model.branched().both, model.branched().forked, toy.prompts(2, guided=False)
    found = jax.jit(partial(mean_losses, Forking(forked, forked, GRID), PHASE))(
        both, ids, mask, codes, codes, model.params
    )

    @jax.jit
    def logits(both):
        left, above = neighbour_states(forked, both, ids, mask, codes, GRID)
        everywhere = jnp.broadcast_to(jnp.arange(GRID.size, dtype=jnp.int32), codes.shape)
        return forked.logits(both, left, above, everywhere, GRID.cols)

    mixture, alone = map(np.asarray, logits(both))
    raster = np.asarray(toy.forced(model, codes, GRID, cfg_scale=None)[0])  # log p

    def nll(log_p):
        log_p = np.asarray(jax.nn.log_softmax(log_p))
        return -np.take_along_axis(log_p, np.asarray(codes)[:, :, None], axis=2)[:, :, 0]

    assert found["nll"] == pytest.approx(nll(mixture).mean(), rel=1e-5)
    assert found["vertical"] == pytest.approx(nll(alone)[:, GRID.cols :].mean(), rel=1e-5)
    assert found["teacher"] == pytest.approx(nll(raster).mean(), rel=1e-5)
    kl = divergence(jnp.asarray(raster), jnp.asarray(alone), 2.0)[:, GRID.cols :]
    assert found["distillation"] == pytest.approx(float(kl.mean()), rel=1e-4)


@pytest.mark.parametrize("row_end", MODELS, ids=["plain", "row ends"])
def test_bands_windows_and_recomputed_blocks_change_no_loss_and_no_gradient(row_end):
    model, codes = MODELS[row_end], random_codes(2)
    both, forked, (ids, mask) = model.branched().both, model.branched().forked, toy.prompts(2, guided=False)

    def losses(branch, forking):
        params = {"backbone": both["backbone"], "branch": branch}
        found = mean_losses(forking, PHASE, params, ids, mask, codes, codes, model.params)
        return sum(found.values()), found

    again = dataclasses.replace(forked, block=RECOMPUTED)
    parts = Forking(again, again, GRID, window=7, limit=2 * 2 * GRID.cols * 24)
    given = Forking(forked, forked, GRID), parts
    whole, parts = (
        jax.jit(jax.value_and_grad(lambda b, f=f: losses(b, f), has_aux=True))(both["branch"]) for f in given
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), whole, parts)


def test_parameters_learn_at_rates_of_their_own():
    stage = StageSpec(
        steps=4, batch=1, warmup=0, decay=0.5, clip=1.0, weight_decay=0.0, b2=0.99, lr=0.1, log_every=4, save_every=4,
        eval_images=1,
    )  # fmt: skip
    shares = {"a": 1.0, "b": 0.25, "c": 0.0}
    optimizer = make_optimizer(stage, rates=lambda params: shares)
    params = dict.fromkeys(shares, jnp.ones(3))
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    moved = {name: float(-update[0]) for name, update in updates.items()}
    assert moved["a"] > 0 and moved["b"] == pytest.approx(moved["a"] / 4) and moved["c"] == 0
    assert optax.apply_updates(params, updates)["c"][0] == 1
