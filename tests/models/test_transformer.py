"""The backbone over a cache equals that over the full sequence, for any padding, windows and attention heads."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.decode.engine import prefill
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.draft_heads import DraftHeads
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.teacher_forcing import image_hidden
from ssd_jax.models.transformer import Transformer
from ssd_jax.prompts import pad_left
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence import cache as kv
from ssd_jax.sequence.layout import prompt_starts, rotary_positions
from ssd_jax.sequence.masks import causal

PROMPTS = [[2, 5, 3], [2, 4, 5, 6, 7, 4, 3], [2, 3]]  # three lengths, so three paddings
S, PICTURE = 8, 12


@jax.jit(static_argnames="config")
def whole(params, ids, *, config):
    return Transformer(config).apply(params, ids)


def unpadded(config, params, codes) -> list[np.ndarray]:
    """Logits of every sequence by itself, without padding on the left: one array [prompt + image, V] each."""
    sequences = [[*prompt, *(row + config.visual_offset)] for prompt, row in zip(PROMPTS, codes, strict=True)]
    ids = np.zeros((len(sequences), S + PICTURE), np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence  # a causal model does not see what comes later
    logits = np.asarray(whole(params, ids, config=config))
    return [logits[row, : len(sequence)] for row, sequence in enumerate(sequences)]


def spec(config, rows: int) -> kv.CacheSpec:
    return kv.CacheSpec(config.layers, rows, config.kv_heads, S + PICTURE, config.head_dim, jnp.float32)


@partial(jax.jit, static_argnames=("config", "window"))
def cached(params, ids, mask, codes, *, config, window):
    """Logits of every slot, [B, S + PICTURE, V], through the cache: the prompt, then the image window by window."""
    model = Transformer(config)
    B, starts = ids.shape[0], prompt_starts(mask)
    cache = spec(config, B).zeros()
    slots = jnp.broadcast_to(jnp.arange(S), ids.shape)
    angles, sees = rotary_positions(slots, starts), causal(slots, starts, cache.length)
    hidden, cache = model.apply(
        params, model.apply(params, ids, method="embed"), angles, sees, slots, cache, method="hidden"
    )
    windows = -(-PICTURE // window)
    codes = jnp.pad(codes, ((0, 0), (0, windows * window - PICTURE)))  # behind the image: junk

    def of_window(cache, start):
        slots = jnp.broadcast_to(S + start + jnp.arange(window), (B, window))
        part = jax.lax.dynamic_slice_in_dim(codes, start, window, axis=1)
        x = model.apply(params, part, method="embed_codes")
        angles, sees = rotary_positions(slots, starts), causal(slots, starts, cache.length)
        hidden, cache = model.apply(params, x, angles, sees, slots, cache, method="hidden")
        return cache, hidden

    _, states = jax.lax.scan(of_window, cache, window * jnp.arange(windows))
    states = jnp.concatenate([hidden, *states], axis=1)[:, : S + PICTURE]
    return model.apply(params, states, method="logits")


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 32, (len(PROMPTS), PICTURE)).astype(np.int32)


@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize(("heads", "kv_heads", "qk_norm"), [(2, 2, "rms"), (4, 2, ""), (4, 1, "rms")])
def test_cached_decode_equals_the_full_forward_at_every_position(backbone, codes, heads, kv_heads, qk_norm, window):
    config, params = backbone(heads=heads, kv_heads=kv_heads, qk_norm=qk_norm)
    ids, mask = pad_left(PROMPTS, config.pad_id, S)
    actual = np.asarray(cached(params, ids, mask, codes, config=config, window=window))
    for row, expected in enumerate(unpadded(config, params, codes)):
        padding = S - len(PROMPTS[row])
        np.testing.assert_allclose(actual[row, padding:], expected, atol=2e-5, rtol=1e-5)


def test_teacher_forcing_equals_the_full_forward(backbone, codes):
    config, params = backbone()
    model = Transformer(config)
    ids, mask = pad_left(PROMPTS, config.pad_id, S)
    hidden = jax.jit(partial(image_hidden, model))(params, ids, mask, codes)
    logits = np.asarray(model.apply(params, hidden, method="logits"))
    for row, expected in enumerate(unpadded(config, params, codes)):
        first = len(PROMPTS[row]) - 1  # the last prompt token predicts code 0
        np.testing.assert_allclose(logits[row], expected[first:-1], atol=2e-5, rtol=1e-5)


def test_prefill_returns_the_state_that_predicts_the_first_code(backbone, codes):
    config, params = backbone()
    model = LoadedModel(params, config)
    prompts = PromptBatch.stack(PROMPTS, None, config.pad_id, S)
    hidden, _ = jax.jit(prefill)(model, spec(config, len(PROMPTS)).zeros(), prompts)
    logits = np.asarray(model.apply(hidden, method="logits"))[:, 0]
    for row, expected in enumerate(unpadded(config, params, codes)):
        np.testing.assert_allclose(logits[row], expected[len(PROMPTS[row]) - 1], atol=2e-5, rtol=1e-5)


def test_what_lies_in_the_padding_never_matters(backbone, codes):
    config, params = backbone()
    ids, mask = pad_left(PROMPTS, config.pad_id, S)
    other = np.where(mask, ids, 6).astype(np.int32)
    run = partial(cached, config=config, window=5)
    expected, actual = run(params, ids, mask, codes), run(params, other, mask, codes)
    real = np.concatenate([mask, np.ones((len(PROMPTS), PICTURE), bool)], axis=1)
    np.testing.assert_array_equal(np.asarray(actual)[real], np.asarray(expected)[real])
    assert np.any(np.asarray(actual)[~real] != np.asarray(expected)[~real])  # the padding really was different


def test_every_earlier_token_matters_and_no_later_one(backbone):
    """The comparison above would also hold for a model that ignores its context."""
    config, params = backbone()
    ids = np.arange(10, 20, dtype=np.int32)[None]
    changed = ids.copy()
    changed[0, 4] = 30
    before, after = (np.asarray(whole(params, x, config=config))[0] for x in (ids, changed))
    np.testing.assert_array_equal(before[:4], after[:4])
    assert np.all(np.abs(before[4:] - after[4:]).max(axis=-1) > 1e-3)


def test_logits_have_only_the_visual_rows_and_are_float32(backbone):
    config, params = backbone()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    logits = jax.eval_shape(lambda: Transformer(config).apply(half, jnp.zeros((2, 3), jnp.int32)))
    assert logits.shape == (2, 3, config.visual_size) and logits.dtype == jnp.float32


@pytest.mark.parametrize("module", ["backbone", "heads"])
def test_every_parameter_has_logical_axis_names(backbone, module):
    config, _ = backbone()
    if module == "backbone":
        shapes = jax.eval_shape(lambda: Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    else:
        x, columns = jnp.zeros((1, 1, config.width)), jnp.zeros((1, 1), jnp.int32)
        drafters = DraftHeads(HeadsConfig(context=1), config.width)
        shapes = jax.eval_shape(lambda: drafters.init(jax.random.key(0), x, x, columns))
    leaves = jax.tree.leaves_with_path(shapes, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    assert leaves
    for path, leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned), jax.tree_util.keystr(path)
        assert len(leaf.names) == leaf.value.ndim, jax.tree_util.keystr(path)
        assert any(name is not None for name in leaf.names), jax.tree_util.keystr(path)
