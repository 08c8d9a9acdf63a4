"""Times the pieces of a pass, each run alone in a loop with the window that a decoder uses.

verify: embedding, blocks over the window with a full cache, output head. draft: the draft heads, their output head and
the sampling of drafts. The rest of a decoder's own seconds per pass is called sampling + accept: guidance, filters,
noise, acceptance, copied and random drafts, bookkeeping of the loop. As a difference of two measurements it can be
slightly negative where it is close to zero.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ssd_jax.compiling import compiled
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import Stretches, total
from ssd_jax.decode.engine import cache_spec, make_cache
from ssd_jax.decode.model_verifier import BoundVerifier, Draw
from ssd_jax.decode.verifier import Beside, Offsets
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.parallel.mesh import replicate, using
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import sampler_of
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.choice import choose
from ssd_jax.sequence.dims import bucket
from ssd_jax.sequence.layout import Grid

LOOPS, BUDGET = 96, 0.5
"""The most runs of a piece in one measurement, and the seconds that they should take."""


class Verify(NamedTuple):
    """A pass over `window` positions, and `beside` inputs, that makes logits for the last `outputs` of all; 0 in a
    commit pass. With the vertical `branch` it makes its logits for all, too."""

    window: int
    outputs: int
    beside: int = 0
    branch: int = 0


class Draft(NamedTuple):
    """The draft heads at `offsets`, from `sources` consecutive positions each."""

    offsets: Offsets
    sources: int


def composition(stretches: Stretches, prompt: int) -> Counter[Verify | Draft]:
    """How often each piece runs per image; `prompt` is the window with which the prefill is measured."""
    count: Counter[Verify | Draft] = Counter()
    for s in stretches:
        count[Verify(s.window or prompt, s.outputs, s.beside, s.branch)] += s.passes
        right = tuple((0, d) for d in range(1, s.horizontal + 1))
        down = tuple((d, 0) for d in range(1, s.vertical + 1))
        count[Draft(right + down, s.sources)] += s.drafts
    return +count


class Clock:
    """Measures pieces of one model, each kind once, at batch 1 (on a mesh, as many images as fill the data axis)."""

    def __init__(self, pipe: Pipeline, repeats: int = 3):
        config = pipe.config
        self.grid, self.prompt = Grid(config.rows, config.cols), bucket(1)
        self.horizontal = pipe.head_counts[0]
        self._pipe, self._repeats = pipe, repeats
        self._guided = config.cfg_scale != 1.0
        self._batch = pipe.execution.whole_rows(1, self._guided)
        self._known: dict[Verify | Draft, float] = {}

    def split(self, decoder: Decoder, passes: float | None = None) -> dict[str, float]:
        """Mean seconds per pass for verifying (prefill included) and for drafting. `passes` None: for passes after the
        prefill, in the proportions of the fewest that make an image."""
        stretches = decoder.stretches(self.grid, self.horizontal, passes)
        if passes is None:
            stretches = tuple(stretch for stretch in stretches if stretch.window)
            passes = total(stretches)
        out = {"verify": 0.0, "draft": 0.0}
        for piece, times in composition(stretches, min(self.prompt, self.grid.size)).items():
            out["verify" if isinstance(piece, Verify) else "draft"] += times * self.seconds(piece) / passes
        return out

    def seconds(self, piece: Verify | Draft) -> float:
        """Median seconds of one run of a piece, measured once."""
        if piece not in self._known:
            self._known[piece] = self._measured(piece)
        return self._known[piece]

    def curve(self) -> dict[int, float]:
        """Seconds per pass against the window: 1, 2, 4, ... up to 256 or the grid."""
        windows = [2**power for power in range(9) if 2**power <= self.grid.size]
        bar = tqdm(windows, desc="pass against window", unit="window", dynamic_ncols=True)
        return {window: self.seconds(Verify(window, window)) for window in bar}

    def _measured(self, piece: Verify | Draft) -> float:
        pipe, config = self._pipe, self._pipe.config
        rows = self._batch * (1 + self._guided)
        sampler = sampler_of(config, config.cfg_scale, temperature=1.0, top_k=None, top_p=None)
        ids = jnp.zeros((rows, self.prompt), jnp.int32)
        prompts = PromptBatch(ids, jnp.ones(ids.shape, bool), self._guided)
        draw = Draw(jax.random.split(jax.random.key(0), self._batch), sampler)
        prompts, draw = replicate((prompts, draw), pipe.mesh)
        static = dict(grid=self.grid, piece=piece)
        if isinstance(piece, Verify):
            model = pipe.model.replace(heads=None) if piece.branch else pipe.model.replace(heads=None, branch=None)
            sizes = self.grid, rows, self.prompt, pipe.dtype, pipe.attention, model.branch_layers
            spec = cache_spec(config, *sizes)

            def prepare() -> tuple:
                return model, jax.block_until_ready(make_cache(spec, pipe.mesh)), prompts, draw

            lower = partial(_verify.lower, **static)
        else:
            lower, prepare = partial(_draft.lower, **static), lambda: (pipe.model.replace(branch=None), prompts, draw)
        with using(pipe.mesh, config):
            return _timed(compiled(lower(jnp.int32(1), *prepare())), prepare, self._repeats)


def _timed(run: Callable, prepare: Callable[[], tuple], repeats: int) -> float:
    def once(loops: int) -> float:
        arguments = prepare()
        start = time.perf_counter()
        jax.block_until_ready(run(jnp.int32(loops), *arguments))
        return (time.perf_counter() - start) / loops

    once(1)  # warm-up
    loops = int(min(max(BUDGET / once(1), 1), LOOPS))
    return median(once(loops) for _ in range(repeats))


@partial(jax.jit, static_argnames=("grid", "piece"), donate_argnames="cache")
def _verify(
    loops: jax.Array, model: LoadedModel, cache: Any, prompts: PromptBatch, draw: Draw, *, grid: Grid, piece: Verify
) -> tuple:
    """Runs `loops` passes at positions spread over the grid; each depends on every output of the previous one."""
    verifier = BoundVerifier(model, prompts, draw, grid)

    def body(step: jax.Array, state: tuple) -> tuple:
        codes, cache = state
        start = step * 37 % max(grid.size - piece.window + 1, 1)
        positions = jnp.broadcast_to(start + jnp.arange(piece.window, dtype=jnp.int32), codes.shape)
        if piece.branch:
            *states, cache = verifier.verify_diagonal(cache, codes, positions)
            logits = verifier.logits_between(*states, positions)
            return codes + (jnp.max(logits) > 1e30).astype(jnp.int32), cache
        instead = positions[:, np.arange(piece.beside) % piece.window]
        beside = Beside(jnp.zeros_like(instead), instead) if piece.beside else None
        hidden, cache = verifier.verify(cache, codes, positions, beside=beside)
        if piece.outputs:
            hidden = model.apply(hidden[:, piece.window + piece.beside - piece.outputs :], method="logits")
        return codes + (jnp.max(hidden) > 1e30).astype(jnp.int32), cache

    return jax.lax.fori_loop(0, loops, body, (jnp.zeros((draw.keys.size, piece.window), jnp.int32), cache))


@partial(jax.jit, static_argnames=("grid", "piece"))
def _draft(
    loops: jax.Array, model: LoadedModel, prompts: PromptBatch, draw: Draw, *, grid: Grid, piece: Draft
) -> jax.Array:
    """Runs `loops` drafts, each from the tokens that the previous one sampled."""
    verifier, B = BoundVerifier(model, prompts, draw, grid), draw.keys.size
    hidden = jax.random.normal(jax.random.key(1), (len(prompts.mask), piece.sources, model.config.width))
    columns = jnp.broadcast_to(jnp.arange(piece.sources, dtype=jnp.int32), (B, piece.sources))

    def body(step: jax.Array, codes: jax.Array) -> jax.Array:
        log_q = verifier.draft(hidden, codes, columns, piece.offsets)
        log_q = log_q.reshape(B, -1, log_q.shape[-1])
        positions = jnp.broadcast_to(step + jnp.arange(log_q.shape[1], dtype=jnp.int32), log_q.shape[:2])
        drawn = choose(log_q, verifier.noise(positions))
        return drawn[:, : piece.sources]

    return jax.lax.fori_loop(0, loops, body, jnp.zeros((B, piece.sources), jnp.int32))
