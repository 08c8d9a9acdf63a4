"""The published backbones against torch: every layer, the logits, the cache, whatever the sizes and special ids."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_backbones as reference
from torch_backbones import GRID, MASK, PROMPTS

import ssd_jax
from ssd_jax.models.block import Block
from ssd_jax.models.transformer import Transformer
from ssd_jax.sequence import cache as kv
from ssd_jax.sequence.layout import prompt_starts, rotary_positions
from ssd_jax.sequence.masks import causal

# name: (family, what differs from its small model)
CASES = {
    "emu3": ("emu3", {}),
    "emu3, one key head, other ids": (
        "emu3",
        dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=1, intermediate_size=100, offset=30, row_end=7),
    ),
    "emu3, three layers, another theta": (
        "emu3",
        dict(num_hidden_layers=3, num_key_value_heads=4, rope_parameters=dict(rope_theta=500.0, rope_type="default")),
    ),
    "emu3_5": ("emu3_5", {}),
    "emu3_5, one key head, other ids": (
        "emu3_5",
        dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=1, head_dim=16, offset=30, row_end=7),
    ),
    "chameleon": ("chameleon", {}),
    "chameleon, two key heads, other ids": (
        "chameleon",
        dict(hidden_size=40, num_key_value_heads=2, intermediate_size=70, offset=14, row_end=80, rms_norm_eps=1e-3),
    ),
    "janus": ("janus", {}),
    "janus, two key heads, narrow codes": (
        "janus",
        dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16, code_width=5, codes=50),
    ),
}
FAMILIES = ("emu3", "emu3_5", "chameleon", "janus")
S = PROMPTS.shape[1]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """both(case) -> (torch's model, what it gives, ours)."""

    @cache
    def make(case):
        family, changes = CASES[case]
        theirs = getattr(reference, family)(tmp_path_factory.mktemp(family), **changes)
        return theirs, theirs.run(), ssd_jax.load(theirs.folder, dtype=jnp.float32)

    return make


def embedded(pipe, theirs) -> jax.Array:
    """Input embeddings of prompt and image, [2, S + T, D]."""
    model, image = Transformer(pipe.config), jnp.asarray(theirs.image_ids, jnp.int32)
    images = model.apply(pipe.params, image, method="embed_codes" if theirs.offset is None else "embed")
    prompts = model.apply(pipe.params, jnp.asarray(PROMPTS, jnp.int32), method="embed")
    return jnp.concatenate([prompts, images], axis=1)


def run(function, *arguments):
    """The function, compiled for one call: without the optimisations, which would take most of the time."""
    return jax.jit(function).lower(*arguments).compile({"xla_backend_optimization_level": 0})(*arguments)


def close(actual, expected, what=""):
    real = np.concatenate([MASK, np.ones((2, expected.shape[1] - S), bool)], axis=1)
    np.testing.assert_allclose(np.asarray(actual)[real], expected[real], atol=1e-4, rtol=1e-4, err_msg=what)


@pytest.mark.parametrize("case", CASES)
def test_every_layer_and_the_logits_are_those_of_torch(both, case):
    theirs, (layers, logits), pipe = both(case)
    model = Transformer(pipe.config)

    def whole(params, x):
        slots = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
        starts = prompt_starts(jnp.asarray(MASK))
        mask = causal(slots, starts, x.shape[1])
        keep = lambda module, name: isinstance(module, Block)  # noqa: E731
        (hidden, _), kept = model.apply(
            params, x, rotary_positions(slots, starts), mask, method="hidden", capture_intermediates=keep
        )
        blocks = kept["intermediates"]
        outputs = [blocks[f"block_{index}"]["__call__"][0][0] for index in range(pipe.config.layers)]
        return outputs, model.apply(params, hidden, method="logits")

    ours, actual = run(whole, pipe.params, embedded(pipe, theirs))
    assert len(ours) == len(layers)
    for index, (mine, expected) in enumerate(zip(ours, layers, strict=True)):
        close(mine, expected, f"layer {index}")
    assert np.abs(logits).max() > 1  # or the comparison would say little
    close(actual, logits)


@pytest.mark.parametrize("case", [*FAMILIES, "emu3, one key head, other ids"])
def test_decoding_through_the_cache_gives_the_same_logits(both, case):
    theirs, (_, logits), pipe = both(case)
    c, model, window = pipe.config, Transformer(pipe.config), 4

    def cached(params, x):
        T = x.shape[1]
        starts = prompt_starts(jnp.asarray(MASK))
        cache = kv.CacheSpec(c.layers, 2, c.kv_heads, T, c.head_dim, jnp.float32).zeros()
        parts = []
        for first, stop in [(0, S), *((at, min(at + window, T)) for at in range(S, T, window))]:
            slots = jnp.broadcast_to(jnp.arange(first, stop, dtype=jnp.int32), (2, stop - first))
            positions, sees = rotary_positions(slots, starts), causal(slots, starts, T)
            part, cache = model.apply(params, x[:, first:stop], positions, sees, slots, cache, method="hidden")
            parts.append(part)
        return model.apply(params, jnp.concatenate(parts, axis=1), method="logits")

    close(run(cached, pipe.params, embedded(pipe, theirs)), logits)


@pytest.mark.parametrize("case", FAMILIES)
def test_teacher_forced_logits_of_the_codes(both, case):
    theirs, (_, logits), pipe = both(case)
    actual = pipe.visual_logits(PROMPTS, theirs.codes, grid=GRID, prompt_mask=MASK)
    np.testing.assert_allclose(actual, logits[:, S - 1 + theirs.code_places], atol=1e-4, rtol=1e-4)
