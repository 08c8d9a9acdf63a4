"""Small random models: their configs and parameters, draft heads and branches for them, and one call that decodes.

All tests that build a model of our own from nothing do so with `small_config`; `Toy` is one whose tokens depend on each
other strongly.
"""

import dataclasses
import math
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.decode import engine
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.presets import find_decoder
from ssd_jax.models.branch import init_branch
from ssd_jax.models.config import NONE, BranchConfig, HeadsConfig, ModelConfig, VQConfig
from ssd_jax.models.diagonal_forcing import neighbour_states
from ssd_jax.models.draft_heads import DraftHeads, init_heads
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.transformer import Transformer, abstract_backbone
from ssd_jax.models.vq_models import abstract_vq
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.distribution import Sampler
from ssd_jax.sampling.noise import image_keys
from ssd_jax.sequence.layout import Grid

PROMPT = 4
HEADS = HeadsConfig(horizontal=3, vertical=2)
CONTEXT = HeadsConfig(horizontal=3, vertical=2, context=2)
BRANCH = BranchConfig(layers=1)


def small_config(**changes) -> ModelConfig:
    """A backbone of two layers over 8 text ids and 32 codes, for a grid of 3 x 4."""
    sizes = dict(vocab_size=40, visual_offset=8, visual_size=32, rows=3, cols=4)
    widths = dict(layers=2, width=32, mlp_width=48, heads=4, kv_heads=2, head_dim=8)
    return ModelConfig(**{**sizes, **widths, **changes})


@cache
def random_backbone(config: ModelConfig, seed: int = 0):
    """Parameters whose attention matters: initial values, scaled up, and norm scales that are not all one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.ndim == 1:
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        return jnp.asarray(rng.normal(size=leaf.shape) * 1.5 * config.width**-0.5, jnp.float32)

    return jax.tree.map_with_path(draw, abstract_backbone(config))


def random_vq(config: VQConfig, seed: int = 0):
    """Random parameters of our image tokenizer, about as large as its initial ones."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if leaf.ndim == 1:
            return jnp.full(leaf.shape, float(name == "scale"), jnp.float32)
        size = 1.0 if name == "codebook" else math.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(size * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree.map_with_path(draw, abstract_vq(config))


@dataclasses.dataclass(frozen=True)
class Toy:
    """A model and heads; `params` are compared by identity of the toy."""

    config: ModelConfig
    sharpness: float = 2.0
    seed: int = 0

    @property
    def params(self):
        return _params(self)

    def heads(self, kind: str = "untrained"):
        return _heads(self, kind)

    def model(self, kind: str | None = None) -> LoadedModel:
        """With draft heads of a kind, or without."""
        heads = (heads_config(kind), self.heads(kind)) if kind else ()
        return LoadedModel.of(self.config, self.params, *heads)

    def branched(self) -> LoadedModel:
        """With a vertical branch that differs from the backbone's last block, and a gate that is not even."""
        return LoadedModel.of(self.config, self.params, branch=BRANCH, branch_params=_branch(self))


def config(visual: int = 24, width: int = 24, layers: int = 2, row_end: int = -1) -> ModelConfig:
    """That of a `Toy`."""
    sizes = dict(vocab_size=8 + visual, visual_size=visual, width=width, mlp_width=2 * width, layers=layers)
    return small_config(**sizes, rows=16, cols=16, row_end_id=row_end)


TOY = Toy(config())


def heads_config(kind: str) -> HeadsConfig:
    return CONTEXT if kind == "context" else HEADS


@cache
def _params(toy: Toy):
    """Parameters at several times their usual scale, so that tokens depend on each other strongly."""
    values = _initial(dataclasses.replace(toy.config, row_end_id=NONE), toy.seed)  # row ends have no parameters
    with jax.ensure_compile_time_eval():
        return jax.tree.map(lambda x: x * toy.sharpness if x.ndim > 1 else x, values)


@cache
def _initial(config: ModelConfig, seed: int):
    with jax.ensure_compile_time_eval():  # the first to ask may be a program that is being traced
        init = jax.jit(Transformer(config).init)
        return nn.unbox(init(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32)))


def _heads(toy: Toy, kind: str):
    """Draft heads: "untrained" (copy h), "random", "wrong" (the logits' sign flipped), "fitted" (least squares), and
    "context" (random ones that see their neighbours)."""
    if kind == "fitted":
        return _fitted(toy)
    if kind not in ("untrained", "random", "wrong", "context"):
        raise ValueError(kind)
    return _unfitted(toy.config.width, kind)


@cache
def _unfitted(width: int, kind: str):
    rng = np.random.default_rng(2)
    with jax.ensure_compile_time_eval():
        params = init_heads(DraftHeads(heads_config(kind), width), jax.random.key(1))
        if kind == "wrong":
            params["params"]["w0"] = -params["params"]["w0"]
        elif kind != "untrained":
            params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    return params


@cache
def _fitted(toy: Toy):
    with jax.ensure_compile_time_eval():
        params = init_heads(DraftHeads(HEADS, toy.config.width), jax.random.key(1))
        params["params"]["w0"] = jnp.asarray(_fit(toy))
    return params


@cache
def _branch(toy: Toy):
    rng = np.random.default_rng(4)
    with jax.ensure_compile_time_eval():
        params = init_branch(toy.config, BRANCH, toy.params, jax.random.key(3))
        return jax.tree.map(lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)


def _fit(toy: Toy) -> np.ndarray:
    """W0 of every offset by least squares from [h_i ; e_i] to h at the offset, on sampled images; [O, D, 2D]."""
    grid, model = Grid(6, 6), Transformer(toy.config)
    out = decode(toy, "ar", grid, images=64, seed=99, cfg_scale=None)
    ids, mask = prompts(64, guided=False)
    sequence = jnp.concatenate([jnp.where(mask, ids, 0), out.tokens + toy.config.visual_offset], axis=1)
    starts = PROMPT - mask.sum(axis=1)
    slots = jnp.broadcast_to(jnp.arange(sequence.shape[1]), sequence.shape)
    seen = (slots[:, None, :] >= starts[:, None, None]) & (slots[:, None, :] <= slots[:, :, None])
    seen |= jnp.eye(sequence.shape[1], dtype=bool)[None]

    @jax.jit
    def states(params, sequence, positions, seen):
        x = model.apply(params, sequence, method="embed")
        return x, model.apply(params, x, positions, seen, method="hidden")[0]

    x, hidden = states(toy.params, sequence, jnp.maximum(slots - starts[:, None], 0), seen)
    h, e = np.asarray(hidden)[:, PROMPT - 1 : -1], np.asarray(x)[:, PROMPT:]
    z = np.concatenate([h, e], axis=-1)
    target, valid = grid.targets(HEADS.offsets)
    return np.stack(
        [
            np.linalg.lstsq(z[:, ok].reshape(-1, z.shape[-1]), h[:, to[ok]].reshape(-1, h.shape[-1]), rcond=None)[0].T
            for to, ok in zip(target, valid, strict=True)
        ]
    )


def prompts(images: int, guided: bool, which: int | None = None):
    """Prompt ids and mask, int32 and bool [G, PROMPT]: two kinds in turn (lengths 3 and 4), or all of one kind."""
    kind = np.arange(images) % 2 if which is None else np.full(images, which)
    ids = np.where(kind[:, None] == 0, [0, 2, 4, 3], [2, 5, 6, 3])
    mask = np.where(kind[:, None] == 0, [False, True, True, True], [True] * 4)
    if guided:
        ids = np.concatenate([ids, np.broadcast_to([0, 0, 2, 3], ids.shape)])
        mask = np.concatenate([mask, np.broadcast_to([False, False, True, True], mask.shape)])
    return jnp.asarray(ids, jnp.int32), jnp.asarray(mask)


def sampler(cfg_scale=None, temperature=1.0, top_k=None, top_p=1.0) -> Sampler:
    return Sampler(
        jnp.float32(1.0 if cfg_scale is None else cfg_scale),
        jnp.float32(temperature),
        jnp.int32(1 << 20 if top_k is None else top_k),
        jnp.float32(top_p),
    )


def decode(
    toy: Toy,
    decoder,
    grid: Grid,
    images=4,
    seed=0,
    cfg_scale=2.0,
    heads="untrained",
    numbers=None,
    which=None,
    given=None,
    program=None,
    **knobs,
):
    """Decodes `images` images; cfg_scale None is without guided rows. Image k has key (seed, numbers[k] or k).

    By default the sampling parameters are constants of the program: without the filters that are off it compiles in
    three quarters of the time. The users' program is `engine.decode`.
    """
    decoder, guided = find_decoder(decoder), cfg_scale is not None
    model = toy.branched() if decoder.branch else toy.model(heads)
    ids, mask = prompts(images, guided, which)
    numbers = jnp.arange(images) if numbers is None else jnp.asarray(numbers)
    keys = image_keys(jnp.broadcast_to(jnp.asarray(seed), (images,)), numbers)
    spec = engine.cache_spec(toy.config, grid, *ids.shape, jnp.float32, branch_layers=model.branch_layers)
    cache, batch = engine.make_cache(spec), PromptBatch(ids, mask, guided)
    given = None if given is None else jnp.asarray(given)
    if program is None:
        fixed = (("cfg_scale", cfg_scale), *sorted(knobs.items()))
        return _decode(model, cache, batch, keys, given, knobs=fixed, decoder=decoder, grid=grid)
    draw = Draw(keys, sampler(cfg_scale, **knobs), given=given)
    return program(model, cache, batch, draw, decoder=decoder, grid=grid)


@partial(jax.jit, static_argnames=("knobs", "decoder", "grid"), donate_argnames=("cache",))
def _decode(model, cache, prompts, keys, given, *, knobs, decoder, grid):
    with jax.ensure_compile_time_eval():
        draw = Draw(keys, sampler(**dict(knobs)), given=given)
    return engine.decode.__wrapped__(model, cache, prompts, draw, decoder=decoder, grid=grid)


def fresh_program(**options):
    """The engine's program, traced anew with whatever is patched; with options of XLA's compiler."""
    return jax.jit(
        partial(engine.decode.__wrapped__),  # jit recognises a function that it knows, and would not trace it again
        static_argnames=("decoder", "grid"),
        donate_argnames=("cache",),
        compiler_options=options or None,
    )


def quick_program():
    """Optimised a little, for thousands of images."""
    return fresh_program(xla_backend_optimization_level=1)


def flash_logits(forked, params, ids, mask, codes, grid: Grid, window: int = 0):
    """Teacher-forced logits of given images as `flash` draws them, [B, R*C, V]."""
    left, above = neighbour_states(forked, params, ids, mask, codes, grid, window)
    positions = np.broadcast_to(np.arange(grid.size, dtype=np.int32), codes.shape)
    return forked.logits(params, left, above, positions, grid.cols)[0]


@partial(jax.jit, static_argnames="grid")
def _forced(model, tokens, prompts, draw, grid):
    cache = engine.make_cache(engine.cache_spec(model.config, grid, *prompts.ids.shape, jnp.float32))
    hidden, cache = engine.prefill(model, cache, prompts)
    verifier = BoundVerifier(model, prompts, draw, grid)
    positions = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32), tokens.shape)
    rest, cache = verifier.verify(cache, tokens, positions)
    log_p = verifier.log_p(jnp.concatenate([hidden, rest[:, :-1]], axis=1))
    return log_p, verifier.noise(positions), cache


def forced(toy: Toy, tokens, grid: Grid, seed=0, cfg_scale=2.0, numbers=None, which=None, **knobs):
    """Teacher forcing in one prefill: log p [B, R*C, V], the noise g, and the cache of the given images."""
    images, guided = tokens.shape[0], cfg_scale is not None
    ids, mask = prompts(images, guided, which)
    numbers = jnp.arange(images) if numbers is None else jnp.asarray(numbers)
    keys = image_keys(jnp.broadcast_to(jnp.asarray(seed), (images,)), numbers)
    draw = Draw(keys, sampler(cfg_scale, **knobs))
    return _forced(toy.model(), tokens, PromptBatch(ids, mask, guided), draw, grid)
