"""The autoregressive decoder: equal to a slow loop, one program, no copies of the cache, draws that belong to an image.

"Equal" is exact here: float32 at highest precision, where two programs differ by 1e-6 and the best two of 64 values of
log p + g hardly ever do.
"""

import contextlib
from functools import partial

import hlo
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ssd_jax
from ssd_jax.decode.ar import AR
from ssd_jax.decode.engine import cache_spec, decode, make_cache
from ssd_jax.decode.model_verifier import Draw
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.transformer import Transformer, abstract_backbone
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.choice import choose
from ssd_jax.sampling.distribution import Sampler, guide, log_probabilities
from ssd_jax.sampling.noise import gumbel_noise, image_keys
from ssd_jax.sequence.layout import Grid

GRID = Grid(3, 4)
PROMPTS = [[2, 5, 3], [2, 4, 6, 5, 7, 4, 3]]
EMPTY = [2, 3]


def sampler(cfg_scale=2.0, temperature=0.9, top_k=20, top_p=0.95) -> Sampler:
    return Sampler(jnp.float32(cfg_scale), jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))


def run(config, params, keys, knobs, guided, prompts=PROMPTS):
    """The decoder itself."""
    given = PromptBatch.stack(prompts, [EMPTY] * len(prompts) if guided else None, config.pad_id)
    cache = make_cache(cache_spec(config, GRID, *given.ids.shape, jnp.float32))
    return decode(LoadedModel(params, config), cache, given, Draw(keys, knobs), decoder=AR(), grid=GRID)


@jax.jit(static_argnames="config")
def whole(params, ids, *, config):
    return Transformer(config).apply(params, ids)


@jax.jit(static_argnames="guided")
def draw(logits, keys, position, knobs, *, guided):
    log_p = log_probabilities(guide(logits[:, None], knobs.cfg_scale, guided), knobs)
    noise = gumbel_noise(keys, jnp.broadcast_to(position, (len(keys), 1)), logits.shape[-1])
    return choose(log_p, noise)[:, 0]


def slow_loop(config, params, keys, knobs, guided) -> np.ndarray:
    """A forward pass over the whole of every sequence for each token; no cache, no padding in front."""
    prompts = PROMPTS + [EMPTY] * len(PROMPTS) * guided
    tokens = np.zeros((len(PROMPTS), 0), np.int32)
    for position in range(GRID.size):
        ids = np.zeros((len(prompts), 7 + GRID.size), np.int32)  # a causal model does not see the zeros behind
        last = []
        for row, prompt in enumerate(prompts):
            sequence = [*prompt, *(tokens[row % len(PROMPTS)] + config.visual_offset)]
            ids[row, : len(sequence)] = sequence
            last.append(len(sequence) - 1)
        logits = whole(params, ids, config=config)[np.arange(len(prompts)), np.array(last)]
        token = draw(logits, keys, jnp.int32(position), knobs, guided=guided)
        tokens = np.concatenate([tokens, np.asarray(token)[:, None]], axis=1)
    return tokens


@pytest.mark.parametrize(
    ("guided", "knobs"),
    [(True, {}), (True, {"temperature": 0.0}), (False, {"top_k": 1000, "top_p": 1.0})],
    ids=["guided", "greedy", "unguided"],
)
def test_ar_equals_a_slow_loop_over_full_forwards(backbone, guided, knobs):
    config, params = backbone()
    keys = image_keys(jnp.array([1, 2], jnp.uint32), jnp.array([0, 0]))
    out = run(config, params, keys, sampler(**knobs), guided)
    np.testing.assert_array_equal(out.tokens, slow_loop(config, params, keys, sampler(**knobs), guided))
    assert len(np.unique(out.tokens)) > 3  # not an image that any decoder would draw


# -- the compiled program


def test_the_loop_copies_no_cache_and_the_donation_is_used():
    # The bundled model's sizes, with fewer layers: what XLA copies depends on shapes.
    config = ModelConfig(2000, 900, 1024, layers=2, heads=2, kv_heads=1, head_dim=128)
    grid, rows, S = Grid(16, 16), 2, 16
    params = abstract_backbone(config)
    cache = cache_spec(config, grid, rows, S, jnp.float32).abstract()
    prompts = PromptBatch(jax.ShapeDtypeStruct((rows, S), jnp.int32), jax.ShapeDtypeStruct((rows, S), bool), True)
    draw = jax.eval_shape(lambda: Draw(jax.random.split(jax.random.key(0), 1), sampler()))
    lowered = decode.lower(LoadedModel(params, config), cache, prompts, draw, decoder=AR(), grid=grid)
    compiled = lowered.compile()
    assert hlo.moves(hlo.optimised(lowered), cache=[cache.keys[0].size]) == []
    cache_bytes = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(cache))
    assert compiled.memory_analysis().alias_size_in_bytes >= cache_bytes


@pytest.mark.parametrize("keep_the_old_one", [True, False])
def test_cache_sized_copies_would_be_seen(keep_the_old_one):
    """The control: a loop that still needs the cache it has just written to must copy it."""
    shape = (2, 2, 272, 64)

    def body(index, caches):
        cache, old = caches
        written = lax.dynamic_update_slice(cache, jnp.ones((2, 2, 1, 64)), (0, 0, index, 0))
        return written, cache if keep_the_old_one else old

    step = jax.jit(lambda *caches: lax.fori_loop(0, 9, body, caches), donate_argnums=(0, 1))
    abstract = jax.ShapeDtypeStruct(shape, jnp.float32)
    text = hlo.optimised(step.lower(abstract, abstract))
    assert bool(hlo.moves(text, cache=[2 * 2 * 272 * 64])) == keep_the_old_one


@contextlib.contextmanager
def compilations():
    """A list that grows by one for every program that XLA is asked for while the block runs."""
    seen: list[str] = []

    def listen(event: str, seconds: float, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_new_seeds_prompts_and_knobs_compile_nothing(pipe):
    with compilations() as seen:
        jax.jit(lambda x: x * 3 + 17)(jnp.ones(3)).block_until_ready()
    assert seen  # the counter counts
    pipe.generate(["red apple"])
    with compilations() as seen:
        outs = [
            pipe.generate(["green heart"], seed=5),
            pipe.generate(["a dog on fire, dark skin tone"], cfg_scale=1.5),
            pipe.generate(["red apple"], temperature=0.5),
            pipe.generate(["red apple"], temperature=0.0),
            pipe.generate(["red apple"], top_k=5),
            pipe.generate(["red apple"], top_p=0.5, negative_prompt="green apple"),
        ]
    assert seen == []
    assert [out.compile_seconds for out in outs] == [0.0] * len(outs)


# -- draws that belong to an image

JOBS = [("red apple", 3), ("green heart", 4), ("dog cat " * 9 + "red fire", 3), ("green heart", 5)]
"""Prompts and seeds; the third needs a longer bucket than the others."""


@pytest.fixture(scope="module")
def together(pipe) -> dict[tuple[str, int], np.ndarray]:
    """The tokens of every job, all drawn at once."""
    out = pipe.generate([text for text, _ in JOBS], seed=[seed for _, seed in JOBS])
    return dict(zip(JOBS, out.tokens, strict=True))


def test_the_jobs_differ(together):
    assert len({tokens.tobytes() for tokens in together.values()}) == len(JOBS)


@pytest.mark.parametrize("jobs", [JOBS[:1], JOBS[2:3], JOBS[::-1], [JOBS[3], JOBS[0]]], ids=str)
def test_a_picture_does_not_depend_on_its_neighbours_or_their_order(pipe, together, jobs):
    out = pipe.generate([text for text, _ in jobs], seed=[seed for _, seed in jobs])
    for job, tokens in zip(jobs, out.tokens, strict=True):
        np.testing.assert_array_equal(tokens, together[job])


@pytest.mark.parametrize("max_batch", [1, 3])
def test_a_picture_does_not_depend_on_max_batch(pipe, together, max_batch):
    out = pipe.generate([text for text, _ in JOBS], seed=[seed for _, seed in JOBS], max_batch=max_batch)
    assert len(out.images) == len(JOBS) == len(out.passes)
    for job, tokens in zip(JOBS, out.tokens, strict=True):
        np.testing.assert_array_equal(tokens, together[job])


def test_equal_prompts_are_numbered_and_differ(pipe, together):
    out = pipe.generate(["red apple", "green heart"], num_images=2, seed=[3, 4])
    assert out.prompts == ["red apple", "red apple", "green heart", "green heart"]
    assert out.seeds == [3, 3, 4, 4] and out.numbers == [0, 1, 0, 1]
    np.testing.assert_array_equal(out.tokens[0], together["red apple", 3])
    np.testing.assert_array_equal(out.tokens[2], together["green heart", 4])
    assert np.any(out.tokens[0] != out.tokens[1])


def test_noise_keyed_by_the_place_in_the_batch_would_be_seen(backbone):
    """The control of the tests above: the same comparison fails when noise belongs to a row instead of an image."""
    config, params = backbone()

    def second_image(keys_of) -> tuple[np.ndarray, np.ndarray]:
        """The second image's tokens beside the first, and alone."""
        both = run(config, params, keys_of([1, 2]), sampler(), True)
        alone = run(config, params, keys_of([2]), sampler(), True, PROMPTS[1:])
        return np.asarray(both.tokens[1]), np.asarray(alone.tokens[0])

    np.testing.assert_array_equal(
        *second_image(lambda seeds: image_keys(jnp.array(seeds, jnp.uint32), jnp.zeros(len(seeds), jnp.int32)))
    )
    by_row, alone = second_image(lambda seeds: jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(
        jnp.arange(len(seeds))
    ))  # fmt: skip
    assert np.any(by_row != alone)


# -- what is returned


def test_passes_trace_and_shapes(pipe):
    out = pipe.generate(["red apple", "green heart"])
    assert out.tokens.shape == out.trace.shape == (2, 4, 4) and out.tokens.dtype == np.int32
    assert out.tokens.min() >= 0 and out.tokens.max() < 64
    np.testing.assert_array_equal(out.passes, [16, 16])  # R*C, the prefill included
    np.testing.assert_array_equal(out.trace, np.broadcast_to(np.arange(1, 17).reshape(4, 4), (2, 4, 4)))
    assert [image.size for image in out.images] == [(16, 16)] * 2
    assert out.seconds > 0


def test_the_pictures_are_the_tokens(pipe):
    out = pipe.generate(["red apple", "green heart"])
    np.testing.assert_array_equal([np.asarray(image) for image in out.images], pipe.decode(out.tokens))


def test_decoders_go_by_name_or_by_value(pipe):
    expected = pipe.generate(["red apple"], decoder="ar").tokens
    np.testing.assert_array_equal(pipe.generate(["red apple"], decoder=ssd_jax.AR()).tokens, expected)
    assert "ar" in pipe.decoders() and ssd_jax.PRESETS["ar"] == ssd_jax.AR()


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["red apple"], {"decoder": "fast"}, "'fast'.*ar"),
        (["red apple"], {"num_images": 0}, "num_images"),
        (["red apple"], {"temperature": -0.1}, "temperature"),
        (["red apple"], {"top_k": -1}, "top_k"),
        (["red apple"], {"top_p": 0.0}, "top_p"),
        (["red apple"], {"top_p": 1.1}, "top_p"),
        (["red apple"], {"max_batch": 0}, "max_batch"),
        (["red apple"], {"seed": -1}, "seed"),
        (["red apple"], {"seed": [1, 2]}, "2 seeds for 1 prompt"),
        ([], {}, "no prompts"),
        ("red apple", {}, "list"),
    ],
)
def test_options_out_of_range_are_the_users_fault(pipe, prompts, options, message):
    with pytest.raises(ssd_jax.UserError, match=message):
        pipe.generate(prompts, **options)


@pytest.mark.parametrize("option", ["temperature", "cfg_scale", "top_p"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_options_must_be_finite(pipe, option, value):
    with pytest.raises(ssd_jax.UserError, match=option):
        pipe.generate(["red apple"], **{option: value})


def test_extreme_options_still_draw(pipe):
    everything = pipe.generate(["red apple"]).tokens
    np.testing.assert_array_equal(pipe.generate(["red apple"], top_k=10**12).tokens, everything)
    np.testing.assert_array_equal(pipe.generate(["red apple"], seed=np.int64(0)).tokens, everything)
