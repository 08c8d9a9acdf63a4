"""Draft heads: untrained heads, their targets, and their losses, against slow NumPy."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stub
import toy

from ssd_jax.decode import drafting, engine
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.rows import SSD
from ssd_jax.decode.verifier import Verifier
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.draft_heads import DraftHeads, init_heads
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.teacher_forcing import image_hidden
from ssd_jax.models.transformer import Transformer
from ssd_jax.prompts import pad_left
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.choice import choose
from ssd_jax.sampling.distribution import Sampler
from ssd_jax.sampling.noise import gumbel_noise, image_keys
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.draft_loss import (
    Drafting,
    Overlap,
    SmoothL1,
    guided_overlap,
    mean_over_bands,
    mean_per_offset,
)
from ssd_jax.training.head_training import DraftHeadsSpec, Frozen, draft_task, mean_over_images, offset_name
from ssd_jax.training.losses import smooth_l1, valid_mean
from ssd_jax.training.spec import PromptedSpec

HEADS = HeadsConfig(horizontal=2, vertical=1)
WIDE = HeadsConfig(horizontal=2, vertical=2, context=2)
D = 32


def states(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, D)).astype(np.float32)


GRID = Grid(3, 4)


def columns(images: int, places: int = GRID.size) -> np.ndarray:
    return np.broadcast_to(np.arange(places, dtype=np.int32) % GRID.cols, (images, places))


def moved(config: HeadsConfig):
    """Every parameter of untrained heads moved, as training would."""
    rng = np.random.default_rng(1)
    start = init_heads(DraftHeads(config, D), jax.random.key(0))
    return jax.tree.map(lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32), start)


@pytest.fixture(scope="module")
def trained():
    return moved(HEADS)


@pytest.fixture(scope="module")
def wide():
    return moved(WIDE)


def run(config: HeadsConfig, params, hidden, embeddings, **options):
    return DraftHeads(config, D).apply(params, hidden, embeddings, columns(*hidden.shape[:2]), **options)


def test_offsets_go_right_first_and_then_down():
    assert HEADS.offsets == ((0, 1), (0, 2), (1, 0))
    assert [offset_name(offset) for offset in HEADS.offsets] == ["right+1", "right+2", "down+1"]


@pytest.mark.parametrize("config", [HEADS, WIDE], ids=["published", "context"])
def test_an_untrained_head_copies_the_hidden_state(config):
    hidden, embeddings = states(2, 12), states(2, 12, seed=1)
    out = run(config, init_heads(DraftHeads(config, D), jax.random.key(0)), hidden, embeddings)
    np.testing.assert_array_equal(out, np.broadcast_to(hidden, out.shape))


def formula(p: dict, hidden: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """The published head in NumPy, float64."""
    y = np.concatenate([hidden, embeddings], axis=-1) @ p["w0"].T
    normed = rms(y) * p["norm"]
    return y + (silu(normed @ p["gate"].T) * (normed @ p["up"].T)) @ p["down"].T


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def of_head(params, index: int, names: tuple[str, ...]) -> dict:
    return {name: np.asarray(params["params"][name][index], np.float64) for name in names}


PUBLISHED = ("w0", "gate", "up", "down", "norm")


def test_heads_follow_their_formula(trained):
    hidden, embeddings = states(1, 5), states(1, 5, seed=1)
    out = run(HEADS, trained, hidden, embeddings)
    for index in range(3):
        expected = formula(of_head(trained, index, PUBLISHED), hidden, embeddings)
        np.testing.assert_allclose(out[index], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("which", [(0,), (2, 0)])
def test_which_selects_heads(wide, which):
    hidden, embeddings = states(2, 12), states(2, 12, seed=1)
    every = run(WIDE, wide, hidden, embeddings)
    some = run(WIDE, wide, hidden, embeddings, which=which)
    assert some.shape == (len(which), 2, 12, D)
    for row, index in zip(some, which, strict=True):
        np.testing.assert_allclose(row, every[index], rtol=1e-5, atol=1e-5)


# -- context


def test_a_head_with_context_starts_as_the_published_one(wide):
    """Its own matrices untrained: the same numbers, bit for bit."""
    published = {"params": {name: wide["params"][name] for name in PUBLISHED}}
    untrained = init_heads(DraftHeads(WIDE, D), jax.random.key(2))
    params = {"params": {**untrained["params"], **published["params"]}}
    hidden, embeddings = states(2, 12), states(2, 12, seed=1)
    plain = dataclasses.replace(WIDE, context=0)
    np.testing.assert_array_equal(run(WIDE, params, hidden, embeddings), run(plain, published, hidden, embeddings))


def test_context_follows_its_formula(wide):
    hidden, embeddings = states(1, 12), states(1, 12, seed=1)
    out = run(WIDE, wide, hidden, embeddings)
    seen = np.concatenate([rms(hidden), rms(embeddings)], axis=-1)[0]
    for index in range(4):
        beside = np.zeros((12, D))
        if index >= 2:
            p = of_head(wide, index - 2, ("see", "use"))
            for place in range(12):
                near = [
                    seen[place + away] @ p["see"][away + 2].T if 0 <= place % 4 + away < 4 else np.zeros(D // 4)
                    for away in range(-2, 3)
                ]
                beside[place] = silu(np.concatenate(near)) @ p["use"].T
        expected = formula(of_head(wide, index, PUBLISHED), hidden[0], embeddings[0]) + beside
        np.testing.assert_allclose(out[index, 0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("first", [0, 3], ids=["whole rows", "from column 3"])
def test_what_a_vertical_head_sees(wide, first):
    """Changing one source changes the sources up to two columns away in its own row, and no other."""
    places = first + np.arange(9)
    rows, cols = np.divmod(places, 5)
    config = HeadsConfig(horizontal=2, vertical=2, context=2)
    module = jax.jit(DraftHeads(config, D).apply)
    hidden, embeddings = states(1, 9), states(1, 9, seed=1)
    before = module(wide, hidden, embeddings, cols[None])
    for place in range(9):
        other = hidden.copy()
        other[:, place] += 1.0
        after = module(wide, other, embeddings, cols[None])
        changed = np.abs(np.asarray(after - before)).max(axis=(1, 3)) > 1e-4
        reached = (rows == rows[place]) & (np.abs(cols - cols[place]) <= 2)
        for head in range(4):
            expected = reached if head >= 2 else np.arange(9) == place
            np.testing.assert_array_equal(changed[head], expected, err_msg=f"head {head}, source {place}")


def test_the_raster_loop_gives_the_row_above_with_its_columns():
    """The C sources up to `last`, whatever column it is in."""
    given = []

    def draft(hidden, codes, columns, offsets, count=None):
        given.append((hidden, codes, columns))
        return jnp.zeros((*codes.shape[:1], len(offsets), codes.shape[1], 7))[:, :, :count]

    keys = image_keys(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
    verifier = stub.changed(
        Verifier(), noise=lambda at: gumbel_noise(keys, at, 7), draft=draft, horizontal=2, vertical=1
    )
    tokens, row = jnp.arange(20, dtype=jnp.int32)[None], states(1, 5)
    seen = drafting.Seen(tokens, jnp.array([11]), jnp.asarray(row), jnp.array([3]))
    drafting.draft("spatial", verifier, Grid(4, 5), 7, seen, 8)
    hidden, codes, columns = given[-1]
    np.testing.assert_array_equal(hidden, row)
    assert codes.tolist() == [[7, 8, 9, 10, 11]] and columns.tolist() == [[2, 3, 4, 0, 1]]


@pytest.mark.parametrize("last", [5, 8, 12])
def test_a_few_drafts_are_those_of_the_whole_row(last):
    """Only the sources of the drafts and what heads with a context see beside them are looked at."""
    few, wide, blind = (drafted(jnp.array([last]), **how) for how in ({"count": 2}, {"count": 6}, {"context": 0}))
    np.testing.assert_allclose(few, wide[:, :2], atol=1e-5)
    assert np.abs(np.exp(blind) - np.exp(few)).max() > 1e-3  # negative control


@partial(jax.jit, static_argnames=("count", "context"))
def drafted(last, count=2, context=2):
    """log q of the first drafts after token `last` of some image of 4 x 6."""
    grid, config = Grid(4, 6), toy.TOY.config
    keys = image_keys(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
    mask = jnp.ones((1, toy.PROMPT), bool)
    prompts = PromptBatch(jnp.zeros(mask.shape, jnp.int32), mask, False)
    verifier = BoundVerifier(toy.TOY.model("context"), prompts, Draw(keys, toy.sampler()), grid)
    assert verifier.context == 2
    tokens = jnp.arange(grid.size, dtype=jnp.int32)[None]
    row = jax.random.normal(jax.random.key(3), (1, grid.cols, config.width))
    seen = drafting.Seen(tokens, last, row, jnp.array([3]))
    verifier = stub.changed(verifier, context=context)
    return drafting.draft("spatial", verifier, grid, config.visual_size, seen, count)[1]


@pytest.mark.parametrize("at_once", [1, 2])
def test_rows_are_drafted_from_the_whole_row_above(at_once):
    """Without a verification round rows are what the heads with context draft from the finished row above them."""
    grid, images = Grid(5, 5), 3
    out = toy.decode(toy.TOY, SSD(rounds=0, rows=at_once), grid, images=images, heads="context")
    offsets = tuple((down, 0) for down in range(1, at_once + 1))
    ids, mask = toy.prompts(images, guided=True)
    keys = image_keys(jnp.zeros(images, jnp.int32), jnp.arange(images))

    @jax.jit
    def expected(tokens):
        model, prompts = toy.TOY.model("context"), PromptBatch(ids, mask, True)
        cache = engine.make_cache(engine.cache_spec(model.config, grid, *ids.shape, jnp.float32))
        hidden, cache = engine.prefill(model, cache, prompts)
        verifier = BoundVerifier(model, prompts, Draw(keys, toy.sampler(2.0)), grid)
        places = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32), tokens.shape)
        rest, _ = verifier.verify(cache, tokens, places)
        hidden = jnp.concatenate([hidden, rest[:, :-1]], axis=1)
        rows = []
        for row in range(1, grid.rows, at_once):
            above, here = places[:, (row - 1) * 5 : row * 5], places[:, row * 5 : (row + at_once) * 5]
            log_q = verifier.draft(hidden[:, above[0]], tokens[:, above[0]], above % 5, offsets)
            rows.append(choose(log_q.reshape(images, here.shape[1], -1), verifier.noise(here)))
        return jnp.concatenate(rows, axis=1)

    np.testing.assert_array_equal(expected(out.tokens), out.tokens[:, grid.cols :])


def test_training_uses_the_context_where_it_matters():
    """The state below is the one two columns to the right; only a head that sees it can learn that."""
    hidden, embeddings = (jnp.asarray(states(16, 12, seed=seed)) for seed in (2, 3))
    target = jnp.roll(hidden, -2, axis=1)
    valid = np.arange(12) % 4 < 2
    losses = {}
    for context in (0, 2):
        config = HeadsConfig(horizontal=0, vertical=1, context=context)
        module, optimizer = DraftHeads(config, D), optax.adam(3e-3)

        def loss(params, module=module):
            drafts = module.apply(params, hidden, embeddings, columns(16))
            return valid_mean(smooth_l1(drafts, target[None]), valid)[0]

        @jax.jit
        @jax.numpy_dtype_promotion("standard")  # optax mixes dtypes
        def step(params, state, loss=loss, optimizer=optimizer):
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state, value

        params = init_heads(module, jax.random.key(0))
        state = optimizer.init(params)
        for _ in range(150):
            params, state, losses[context] = step(params, state)
    assert losses[2] < 0.7 * losses[0]


# -- training


@pytest.mark.parametrize("limit", [1, 10**9])  # a row at a time, all of them
def test_targets_are_the_states_at_the_offsets(backbone, limit):
    """With the first state as the value of a place, a mean tells which places were taken."""
    hidden = jnp.asarray(states(2, 12))

    class FirstState(SmoothL1):
        def values(self, drafting, params, backbone, band):
            first, second, third = band.states[..., 0], band.hidden[..., 1], band.embeddings[..., 2]
            columns = band.columns.astype(jnp.float32)
            return jnp.stack([first[:, places] * second + columns * third for places in band.targets])

    drafting = Drafting(backbone(width=D)[0], HEADS, GRID, limit=limit)
    actual = mean_over_bands(FirstState(), drafting, None, None, hidden, hidden)
    for index, (down, right) in enumerate(HEADS.offsets):
        first, second, third = (np.asarray(hidden[..., n]) for n in range(3))
        expected = [
            first[image, row + 4 * down + col + right] * second[image, row + col] + col * third[image, row + col]
            for image in range(2)
            for row in range(0, 12 - 4 * down, 4)
            for col in range(4 - right)
        ]
        np.testing.assert_allclose(actual[index], np.mean(expected), rtol=1e-5)


def test_smooth_l1_is_square_below_one_and_straight_above():
    predicted, target = states(3, 2, 4) * 2, states(3, 2, 4, seed=1)
    error = np.abs(predicted - target).astype(np.float64)
    expected = np.vectorize(lambda e: 0.5 * e * e if e < 1 else e - 0.5)(error).mean(axis=-1)
    assert (error < 1).any() and (error > 1).any()
    np.testing.assert_allclose(smooth_l1(jnp.asarray(predicted), jnp.asarray(target)), expected, rtol=1e-5)


def test_a_mean_counts_only_valid_places():
    values, valid = states(3, 2, 4)[..., 0], np.array([[[1, 1, 0, 1]], [[0, 0, 0, 1]], [[0] * 4]], bool)
    expected = [values[0][:, [0, 1, 3]].mean(), values[1][:, 3].mean(), 0.0]
    np.testing.assert_allclose(valid_mean(jnp.asarray(values), jnp.asarray(valid)), expected, rtol=1e-5)


class Pictures:
    """Four captioned images."""

    prompts = [[2, 5, 3], [2, 4, 5, 6, 3], [2, 7, 3], [2, 6, 6, 3]]
    empty, pad_id, length = [2, 3], 0, 8

    def __init__(self, positions: int):
        self.codes = np.random.default_rng(0).integers(0, 32, (4, positions)).astype(np.int32)

    def given(self, indices):
        return *pad_left([self.prompts[i] for i in indices], self.pad_id, self.length), self.codes[indices]

    def heldout(self, limit):
        return np.arange(limit)

    def guided(self, indices):
        frames = [self.prompts[i] for i in indices] + [self.empty] * len(indices)
        return *pad_left(frames, self.pad_id, self.length), self.codes[indices]


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize(("window", "limit"), [(0, 10**9), (5, 1)])  # all at once; windows, and a row at a time
def test_overlap_is_the_shared_mass_of_verifier_and_head(backbone, trained, window, limit):
    config, params = backbone(width=D)
    grid, scale, temperature = Grid(config.rows, config.cols), 2.0, 0.8
    knobs = Sampler(jnp.float32(scale), jnp.float32(temperature), jnp.int32(1000), jnp.float32(1.0))
    source = Pictures(grid.size)
    drafting = Drafting(config, HEADS, grid, window=window, limit=limit)
    values = partial(mean_per_offset, guided_overlap(knobs), drafting)
    frozen = Frozen(LoadedModel(params, config), grid, Path("unused"))
    actual = mean_over_images(values, frozen, source.guided, batch=2)(trained, np.arange(4))

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
    drafts = [run(HEADS, trained, x, embeddings) for x in hidden]
    for index, (down, right) in enumerate(HEADS.offsets):
        q = distribution(drafts[0][index], drafts[1][index])
        shared = [
            np.minimum(p[image, (row + down) * grid.cols + col + right], q[image, row * grid.cols + col]).sum()
            for image in range(4)
            for row in range(grid.rows - down)
            for col in range(grid.cols - right)
        ]
        np.testing.assert_allclose(np.asarray(actual)[index], np.mean(shared), rtol=1e-3)


def part_of_training(batch: int) -> PromptedSpec:
    every = dict(log_every=1, save_every=1, eval_images=2)
    return PromptedSpec(
        steps=2,
        batch=batch,
        lr=1e-3,
        warmup=0,
        decay=0.5,
        clip=1.0,
        weight_decay=0.0,
        b2=0.99,
        caption_drop=0.0,
        **every,
    )


@pytest.mark.parametrize("objective", [SmoothL1(), Overlap()], ids=lambda objective: objective.name)
def test_the_backbone_is_an_argument_of_the_training_step(backbone, trained, objective):
    """What a function closes over becomes a constant in its program: 16 GB of them for an 8B backbone."""
    config, params = backbone(width=D)
    source, part = Pictures(12), part_of_training(batch=2)
    frozen = Frozen(LoadedModel(params, config), Grid(config.rows, config.cols), Path("unused"))
    spec = DraftHeadsSpec(HEADS, part, part, seed=0, window=0, report_images=2)
    task = draft_task("heads", objective, frozen, source, spec, part)
    key = jax.random.key(0)
    program = jax.make_jaxpr(task.loss)(trained, task.frozen, source.given(np.arange(2)), key)
    assert max((np.size(x) for x in program.consts), default=0) < D * D
