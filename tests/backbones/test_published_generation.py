"""Greedy, guided images of the published backbones are those of torch, code for code, with lossless decoders, too.

Emu3 and Janus are compared with transformers' own `generate`; transformers draws no images with a Chameleon, so
Lumina-mGPT's reference is its published rule, token by token.
"""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_backbones as reference
from torch_backbones import MASK, PROMPTS

import ssd_jax
from ssd_jax.decode.ar import AR
from ssd_jax.decode.engine import cache_spec, decode, make_cache
from ssd_jax.decode.model_verifier import Draw
from ssd_jax.decode.presets import PRESETS
from ssd_jax.models.config import HeadsConfig
from ssd_jax.models.draft_heads import abstract_heads
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.distribution import Sampler
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid

GRID = Grid(4, 4)
SCALE = {"emu3": 3.0, "chameleon": 3.0, "janus": 5.0}
HEADS = HeadsConfig(horizontal=2, vertical=1)
LOSSLESS = {  # with windows that end within a row, so that they pass over row ends everywhere
    "ssd-exact": dataclasses.replace(PRESETS["ssd-exact"], window=6),
    "ssd-tree": dataclasses.replace(PRESETS["ssd-tree"], window=6, alternatives=4),
    "jacobi-above": dataclasses.replace(PRESETS["jacobi-above"], window=7),
}


def guided(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    return unconditional + scale * (conditional - unconditional)


def emu3(theirs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, mask of the guiding rows, codes) with a negative prompt of its own."""
    model, start = theirs.model, PROMPTS.shape[1]
    negative = np.where(MASK, np.where((PROMPTS > 8), 14, PROMPTS), 0)
    codes = list(range(theirs.offset, theirs.offset + 64))

    def allowed(_, ids):
        return [theirs.row_end] if (len(ids) - start + 1) % (GRID.cols + 1) == 0 else codes

    out = model.generate(
        torch.tensor(PROMPTS), attention_mask=torch.tensor(MASK).long(), negative_prompt_ids=torch.tensor(negative),
        negative_prompt_attention_mask=torch.tensor(MASK).long(), guidance_scale=SCALE["emu3"], do_sample=False,
        prefix_allowed_tokens_fn=allowed, max_new_tokens=GRID.rows * (GRID.cols + 1),
    )  # fmt: skip
    lines = out[:, start:].reshape(2, GRID.rows, GRID.cols + 1)
    assert (lines[:, :, -1] == theirs.row_end).all()
    return negative, MASK, (lines[:, :, :-1] - theirs.offset).flatten(1).numpy()


def chameleon(theirs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Guided by the image alone: begin of image and two sizes, positions from 0, no text."""
    opening = [2, 11, 11]
    negative = np.array([[0] * 3 + opening] * 2)
    mask = np.array([[False] * 3 + [True] * 3] * 2)
    head = theirs.model.lm_head
    pictures = []
    for prompt, seen in zip(PROMPTS, MASK, strict=True):
        tokens = []
        while len(tokens) < GRID.rows * (GRID.cols + 1):
            if len(tokens) % (GRID.cols + 1) == GRID.cols:
                tokens.append(theirs.row_end)
                continue
            rows = [torch.tensor([[*start, *tokens]]) for start in (prompt[seen].tolist(), opening)]
            logits = [head(theirs.trunk(row).last_hidden_state[0, -1]) for row in rows]
            scores = guided(*logits, SCALE["chameleon"])[theirs.offset : theirs.offset + 64]
            tokens.append(int(scores.argmax()) + theirs.offset)
        pictures.append(np.reshape(tokens, (GRID.rows, -1))[:, :-1].ravel() - theirs.offset)
    return negative, mask, np.array(pictures)


def janus(theirs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Guided by a prompt of padding, which is attended to, between the first and the last id."""
    model, ids = theirs.model, PROMPTS.copy()
    ids[1] = [1, 13, 14, 15, 9, 2]  # `generate` of this class knows no padding
    negative = np.where((np.arange(ids.shape[1]) == 0) | (np.arange(ids.shape[1]) == 5), ids, 3)
    model.generation_config.update(pad_token_id=3, bos_token_id=1, eos_token_id=0)
    model.generation_config.generation_kwargs = {"boi_token_id": 2}
    mask = torch.ones(ids.shape, dtype=torch.long)
    codes = model.generate(
        torch.tensor(ids), attention_mask=mask, generation_mode="image", do_sample=False, guidance_scale=SCALE["janus"]
    )
    return ids, negative, codes.numpy()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """pictures(family) -> (our pipeline, ids and mask of both halves of the batch, torch's codes)."""

    @cache
    def make(family):
        changes = dict(grid=GRID.rows) if family == "janus" else {}
        theirs = getattr(reference, family)(tmp_path_factory.mktemp(family), **changes)
        with torch.no_grad():
            first, second, codes = globals()[family](theirs)
        if family == "janus":
            ids, mask = np.concatenate([first, second]), np.ones((4, PROMPTS.shape[1]), bool)
        else:
            ids, mask = np.concatenate([PROMPTS, first]), np.concatenate([MASK, second])
        return ssd_jax.load(theirs.folder, dtype=jnp.float32), ids, mask, codes

    return make


def decoded(pipe, ids, mask, decoder) -> tuple[np.ndarray, np.ndarray]:
    """Codes and passes of a greedy, guided decode."""
    config = pipe.config
    sampler = Sampler(
        jnp.float32(SCALE[config.architecture]), jnp.float32(0.0), jnp.int32(config.visual_size), jnp.float32(1.0)
    )
    model = pipe.model
    if any(decoder.heads):
        rng = np.random.default_rng(0)
        heads_params = jax.tree.map(
            lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.1, pipe.dtype), abstract_heads(HEADS, config.width)
        )
        model = LoadedModel.of(config, pipe.params, HEADS, heads_params)
    draw = Draw(image_keys(jnp.zeros(2, jnp.uint32), jnp.arange(2)), sampler)
    cache = make_cache(cache_spec(config, GRID, 4, ids.shape[1], pipe.dtype))
    arguments = (model, cache, PromptBatch(jnp.asarray(ids, jnp.int32), jnp.asarray(mask), True), draw)
    # Without the optimisations, which would take most of the time.
    lowered = decode.lower(*arguments, decoder=decoder, grid=GRID)
    out = lowered.compile({"xla_backend_optimization_level": 0})(*arguments)
    return np.asarray(out.tokens), np.asarray(out.passes)


@pytest.mark.parametrize("family", SCALE)
def test_ar_draws_the_pictures_of_torch(pictures, family):
    pipe, ids, mask, expected = pictures(family)
    assert len(np.unique(expected)) > 8  # a model that repeats itself would say little
    tokens, _ = decoded(pipe, ids, mask, AR())
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize(
    ("family", "decoder"),
    [("emu3", "ssd-exact"), ("emu3", "jacobi-above"), ("chameleon", "ssd-tree"), ("janus", "ssd-tree")],
)
def test_lossless_decoders_draw_them_too(pictures, family, decoder):
    """Random draft heads: a bad draft costs passes only. A loop knows of a family only whether rows have ends."""
    pipe, ids, mask, expected = pictures(family)
    tokens, passes = decoded(pipe, ids, mask, LOSSLESS[decoder])
    np.testing.assert_array_equal(tokens, expected)
    assert np.all(passes <= GRID.size)


@pytest.mark.parametrize("family", SCALE)
def test_in_bfloat16_the_codes_are_nearly_the_best(pictures, family):
    """As accelerators run them. Every code is judged by float32, given the codes before it."""
    pipe, ids, mask, _ = pictures(family)
    half = ssd_jax.load(pipe.folder, dtype=jnp.bfloat16)
    tokens, _ = decoded(half, ids, mask, LOSSLESS["jacobi-above"])
    grid = (GRID.rows, GRID.cols)
    logits = [pipe.visual_logits(ids[r], tokens, grid, mask[r]) for r in (slice(0, 2), slice(2, 4))]
    scores = np.asarray(guided(*logits, SCALE[family]))
    chosen = np.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
    best = scores.max(axis=-1)
    assert np.max((best - chosen) / (best - scores.mean(axis=-1))) < 0.1
