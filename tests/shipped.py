"""Measures exactness, and a few more laws, with the dtype and the programs that users run: python shipped.py -> JSON.

A process of its own, because the suite's compiles without optimisation and multiplies at the highest precision. Run by
test_shipped.py.
"""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import hlo
import jax
import jax.numpy as jnp
import numpy as np

import ssd_jax
from ssd_jax.compiling import compiled
from ssd_jax.decode import engine
from ssd_jax.decode.ar import AR
from ssd_jax.decode.cost import most_inputs
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.presets import PRESETS
from ssd_jax.decode.raster import Raster
from ssd_jax.models.attention import plain
from ssd_jax.models.layers import RMSNorm
from ssd_jax.models.matmul import Products
from ssd_jax.pipeline.request import sampler_of
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence.cache import write
from ssd_jax.sequence.layout import Grid

FIXTURES = Path(__file__).parent / "fixtures"
PROMPTS = ["santa claus, noto", "green heart, noto", "woman, noto", "flag of germany, noto"]
PROMPTS += ["red apple, twemoji", "dog", "orange circle, twemoji", "grinning face"]
SEEDS = range(2)
SHAPES = [(8, 1), (8, 64), (4, 4), (2, 4), (2, 256), (1, 1), (1, 4), (1, 8), (1, 64), (1, 256)]
"""(images, window) of the passes whose bits are compared; the first two have every sum above and below the sizes at
which XLA would choose another order."""

WIDE = Raster(window=48, drafter="spatial", history=8)
TREE = dataclasses.replace(PRESETS["ssd-tree"], window=48)

SCALE = {"params": {"scale": np.ones(128, np.float32)}}
"""Of the bundled model's heads, untrained."""


def products(pipe) -> list[str]:
    """Shapes of products of which a row is not the same for every number of rows."""
    found = []
    block = pipe.params["params"]["block_0"]
    weights = {"q": block["attention"]["q"], "up": block["mlp"]["up"], "down": block["mlp"]["down"]}
    for name, weight in weights.items():
        x = jax.random.normal(jax.random.key(1), (256, weight.shape[-1]))
        linear = jax.jit(Products().linear)
        whole = np.asarray(linear(x, weight))
        for rows in (1, 2, 3, 4, 7, 32, 128):
            if (np.asarray(linear(x[:rows], weight)) != whole[:rows]).any():
                found.append(f"{name} {rows}")
    return found


def attentions(pipe) -> list[str]:
    """Shapes (images, window) at which attention over a cache has other bits for the first image's first query."""
    c, T, found = pipe.config, 272, []
    keys = jax.random.split(jax.random.key(2), 3)
    q = jax.random.normal(keys[0], (8, 256, c.heads, c.head_dim))
    k, v = (jax.random.normal(key, (8, c.kv_heads, T, c.head_dim)).astype(pipe.dtype) for key in keys[1:])
    mask = jnp.broadcast_to(jnp.arange(T) < 200, (8, 256, T))
    attend, first = jax.jit(lambda *arrays: plain(*arrays, Products())), None
    for images, window in SHAPES:
        arguments = q[:images, :window], k[:images], v[:images], mask[:images, :window]
        here = np.asarray(compiled(attend.lower(*arguments))(*arguments))[0, 0]
        first = here if first is None else first
        if (here != first).any():
            found.append(f"{images} x {window}")
    return found


@partial(jax.jit, static_argnames=("grid", "window"))
def walk(model, cache, prompts, draw, codes, *, grid, window):
    """Prefill, then passes over a whole image of given codes: states of the first image, caches, first log p."""
    hidden, cache = engine.prefill(model, cache, prompts)
    verifier = BoundVerifier(model, prompts, draw, grid)
    B = codes.shape[0]

    def body(state):
        start, cache, states = state
        positions = jnp.broadcast_to(start + jnp.arange(window, dtype=jnp.int32), (B, window))
        fed = jnp.take_along_axis(codes, jnp.minimum(positions, grid.size - 1), axis=1)
        hidden, cache = verifier.verify(cache, fed, positions)
        return start + window, cache, states.at[:, positions[0]].set(hidden, mode="drop")

    states = jnp.zeros((2 * B, grid.size, model.config.width))
    _, cache, states = jax.lax.while_loop(lambda s: s[0] < grid.size, body, (jnp.int32(0), cache, states))
    return hidden, states, cache, verifier.log_p(states[:, :window])[:, :1]


def passes(pipe) -> list[str]:
    """Shapes (images, window) at which any state, key, value or log p of the first image has other bits; with two
    blocks, as all have the same shapes."""
    c, grid, S = dataclasses.replace(pipe.config, layers=2), Grid(pipe.config.rows, pipe.config.cols), 16
    model = pipe.model.replace(config=c, heads=None)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, c.visual_size, (8, grid.size)).astype(np.int32)
    ids = rng.integers(10, 1000, (8, S)).astype(np.int32)
    sampler = sampler_of(c, c.cfg_scale, 1.0, None, None)
    first, found = None, []
    for images, window in SHAPES:
        cache = engine.make_cache(engine.cache_spec(c, grid, 2 * images, S, pipe.dtype))
        both = np.concatenate([ids[:images]] * 2)
        prompts = PromptBatch(both, np.ones_like(both, bool), True)
        draw = Draw(jax.random.split(jax.random.key(0), images), sampler)
        arguments = (model, cache, prompts, draw, codes[:images])
        program = compiled(walk.lower(*arguments, grid=grid, window=window))
        hidden, states, cache, log_p = program(*arguments)
        rows = [0, images]  # of the first image, with and without its prompt
        here = [np.asarray(array, np.float32)[rows] for array in (hidden, states, *cache.keys, *cache.values)]
        here.append(np.asarray(log_p)[0])
        first = first or here
        if any((a != b).any() for a, b in zip(first, here, strict=True)):
            found.append(f"{images} x {window}")
    return found


def sums(pipe) -> dict[str, float]:
    """How far a norm behind a product, compiled without our options, is from NumPy.

    jax 0.10.2 takes wrong rows where the rows of a product are squared and summed and do not fill the last tile
    (jax-ml/jax#39103): what a norm behind a product does.
    """
    c, out = pipe.config, {}
    weight = pipe.params["params"]["block_0"]["attention"]["q"]
    for rows in (1000, 4097, 32769):
        x = np.random.default_rng(rows).normal(size=(rows, c.width)).astype(np.float32)
        norm = jax.jit(lambda x, w: RMSNorm(c.norm_eps).apply(SCALE, Products().linear(x, w)))
        y = np.asarray(x.astype(weight.dtype), np.float64) @ np.asarray(weight, np.float64).reshape(-1, c.width).T
        y = y.reshape(rows, *weight.shape[:2])
        y /= np.sqrt((y**2).mean(-1, keepdims=True) + c.norm_eps)
        out[f"norm behind a product, {rows} rows"] = float(np.abs(np.asarray(norm(x, weight)) - y).max())
    return out


def draw(pipe, decoder, batch: int = 8, seeds=SEEDS) -> np.ndarray:
    parts = [pipe.generate(PROMPTS, decoder=decoder, seed=s, max_batch=batch, pixels=False).tokens for s in seeds]
    return np.concatenate(parts)


def equal(a: np.ndarray, b: np.ndarray) -> list[int]:
    return [int((a == b).all(axis=(1, 2)).sum()), len(a)]


def pictures(pipe, steady: bool) -> dict[str, list[int]]:
    """Of how many images every token is that of `ar`, or, where bits depend on the window, of `AR` with theirs."""
    out, grid = {}, Grid(pipe.config.rows, pipe.config.cols)
    exact = {name: PRESETS[name] for name in ("ssd-exact", "jacobi-above", "jacobi-match")}
    exact |= {"ssd-tree": PRESETS["ssd-tree"], "wide": WIDE, "tree": TREE}
    oracles: dict[int, np.ndarray] = {}
    seeds = SEEDS if steady else SEEDS[:1]  # wide windows of `ar` take long
    for name, decoder in exact.items():
        window = 1 if steady else decoder.width(grid)
        if window not in oracles:
            oracles[window] = draw(pipe, AR(window=window), seeds=seeds)
        out[name] = equal(draw(pipe, decoder, seeds=seeds), oracles[window])
    if steady:
        alone = range(1)
        out["ar, one at a time"] = equal(draw(pipe, "ar", 1, alone), oracles[1][: len(PROMPTS)])
        out["flash, one at a time"] = equal(draw(pipe, "flash", 1, alone), draw(pipe, "flash", 8, alone))
        out["wide, three at a time"] = equal(draw(pipe, WIDE, 3, alone), oracles[1][: len(PROMPTS)])
    # int8 sums are exact, whatever the rest is.
    int8 = ssd_jax.load("emoji", quantize="int8")
    oracle = draw(int8, "ar", seeds=range(1))
    for name in ("ssd-tree", "jacobi-above") if steady else ():
        out[f"int8, {name}"] = equal(draw(int8, name, seeds=range(1)), oracle)
    out["int8, ar, three at a time"] = equal(draw(int8, "ar", 3, range(1)), oracle) if steady else [1, 1]
    out["negative control: another seed"] = equal(draw(pipe, "ar", seeds=[7]), draw(pipe, "ar", seeds=[8]))
    return out


def resampling(pipe) -> dict[str, float]:
    """Mean passes of `sjd` and `scd` in a wide window, for captions of things that the model never saw: of images that
    it knows by heart most drafts are accepted anyway."""
    known = json.loads((FIXTURES / "heldout.json").read_text(encoding="utf-8"))
    hard = [text for text, split in zip(known["captions"], known["split"], strict=True) if split == "identity"]
    decoders = {name: dataclasses.replace(PRESETS[name], window=64) for name in ("sjd", "scd")}
    drawn = {name: pipe.generate(hard, decoder=d, num_images=2, pixels=False) for name, d in decoders.items()}
    return {name: float(out.passes.mean()) for name, out in drawn.items()}


def cache_moves(pipe) -> list[str]:
    """Lines of the compiled loops that convert or copy a layer of the cache, or copy the scores (see hlo.py)."""
    found, c, grid = [], pipe.config, Grid(pipe.config.rows, pipe.config.cols)
    for (shape, decoder, *_), program in pipe.programs.compiled.items():
        if decoder == PRESETS["ssd-tree"]:  # scores of its 64 inputs are as large as a layer; `TREE` stands for it
            continue
        slots = shape[1] + grid.size
        layer = shape[0] * c.kv_heads * slots * c.head_dim
        window = most_inputs(decoder.stretches(grid, pipe.head_counts[0]))
        scores = shape[0] * c.heads * window * slots
        found += [f"{decoder}: {line}" for line in hlo.moves(program.as_text(), [layer], [scores])]
    return found


def main() -> None:
    pipe = ssd_jax.load("emoji")
    steady = jnp.dtype(pipe.dtype) == jnp.bfloat16 and jax.default_backend() == "cpu"
    out = {"steady": steady, "numerics": pipe.numerics(), "pictures": pictures(pipe, steady)}
    out["cache moves"] = cache_moves(pipe)
    out["resampling"] = resampling(pipe)  # behind: with a window of 64 the scores are as large as a layer of the cache
    # A loop that goes through float32 is seen.
    cache = engine.make_cache(engine.cache_spec(pipe.config, Grid(16, 16), 2, 16, pipe.dtype))
    layer = jax.ShapeDtypeStruct(cache.keys[0].shape, pipe.dtype)

    def wide(_, layer):
        return write(layer.astype(jnp.float32), *more).astype(layer.dtype)

    more = jnp.ones((2, 4, layer.shape[1], layer.shape[3])), jnp.zeros((2, 4), jnp.int32)
    through = jax.jit(lambda layer: jax.lax.fori_loop(0, 9, wide, layer)).lower(layer)
    out["negative control: moves"] = hlo.moves(compiled(through).as_text(), [layer.size])
    out["sums"] = sums(pipe)
    if steady:
        out |= {"products": products(pipe), "attention": attentions(pipe), "passes": passes(pipe)}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
