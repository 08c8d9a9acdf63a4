"""Compiles and caches a model's programs, one for each kind of call."""

import contextlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.compiling import compiled
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.engine import cache_sharding, cache_spec, decode, make_cache
from ssd_jax.decode.model_verifier import Draw
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.teacher_forcing import window_of
from ssd_jax.parallel.mesh import replicate, using
from ssd_jax.pipeline.execution import Execution
from ssd_jax.pipeline.free_memory import require_room
from ssd_jax.pipeline.given_images import checked
from ssd_jax.pipeline.progress import Reporter, Told
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence.cache import CacheSpec
from ssd_jax.sequence.layout import Grid


class DecodedBatch(NamedTuple):
    """Results of a decoding program, on the host.

    Attributes:
        tokens, passes, trace: int32 [B, R*C], [B] and [B, R*C] (see `pipeline.request.Output`).
        seconds, compile_seconds: time of its run, and of its compilation, 0 if it was cached.
    """

    tokens: np.ndarray
    passes: np.ndarray
    trace: np.ndarray
    seconds: float
    compile_seconds: float


class Programs:
    """The programs of one model.

    Args:
        model: a backbone, and what was trained beside it.
        execution: dtype, devices and attention.
    """

    def __init__(self, model: LoadedModel, execution: Execution):
        self.model, self.execution = model, execution
        self.compiled: dict[Any, Any] = {}
        self.reporter = Reporter()

    def decode(
        self, prompts: PromptBatch, draw: Draw, decoder: Decoder, grid: Grid, told: Told | None = None
    ) -> DecodedBatch:
        """Decodes a batch; `told` is told about it after every `draw.every` passes, and only one such batch is decoded
        at a time. Raises `UserError` if it does not fit in memory."""
        with contextlib.nullcontext() if told is None else self.reporter.telling(told):
            return self._decode(prompts, draw, decoder, grid, None if told is None else self.reporter)

    def _decode(
        self, prompts: PromptBatch, draw: Draw, decoder: Decoder, grid: Grid, watch: Reporter | None
    ) -> DecodedBatch:
        config, mesh = self.model.config, self.execution.mesh
        model = self.model if any(decoder.heads) else self.model.replace(heads=None)
        model = model if decoder.branch else model.replace(branch=None)
        dtype, attention = self.execution.dtype, self.execution.attention
        spec = cache_spec(config, grid, *prompts.ids.shape, dtype, attention, model.branch_layers)
        self._require_room(spec, draw.keys.size, decoder, grid)
        arguments = (model, make_cache(spec, mesh), *replicate((prompts, draw), mesh))
        kind = (prompts.ids.shape, decoder, prompts.guided, grid, draw.limit is None, draw.given is None, watch)
        compiling = 0.0
        if kind not in self.compiled:
            start = time.perf_counter()
            with using(mesh, config):
                self.compiled[kind] = compiled(decode.lower(*arguments, decoder=decoder, grid=grid, watch=watch))
            compiling = time.perf_counter() - start
        start = time.perf_counter()
        out = self.compiled[kind](*arguments)
        try:
            jax.block_until_ready(out)
        except BaseException:  # such as Ctrl-C; a watched program must not tell the next one's listener
            if watch is not None:
                watch.silence()
                jax.block_until_ready(out)
            raise
        seconds = time.perf_counter() - start
        return DecodedBatch(*map(np.asarray, (out.tokens, out.passes, out.trace)), seconds, compiling)

    def read(
        self,
        program: Any,
        prompt_ids: np.ndarray,
        codes: np.ndarray,
        grid: tuple[int, int] | None,
        prompt_mask: np.ndarray | None,
        *rest: jax.Array,
        **options: bool,
    ) -> jax.Array:
        """Runs one of the programs of `pipeline.given_images`; `grid` None is the model's own. Raises `UserError` for
        arrays that do not fit."""
        config, mesh = self.model.config, self.execution.mesh
        grid = Grid(*(grid or (config.rows, config.cols)))
        given = checked(config, grid, prompt_ids, codes, prompt_mask)
        arguments = (self.model.params, *replicate((*given, *rest), mesh))
        window = window_of(config, grid, *given[0].shape)
        static = dict(config=config, grid=grid, window=window, attention=self.execution.attention, **options)
        kind = (given[0].shape, program, *static.values())
        if kind not in self.compiled:
            with using(mesh, config):
                self.compiled[kind] = compiled(program.lower(*arguments, **static))
        return self.compiled[kind](*arguments)

    def _require_room(self, spec: CacheSpec, images: int, decoder: Decoder, grid: Grid) -> None:
        """Raises `UserError`, before anything is allocated, if a batch's cache and the distributions of its widest pass
        would not fit in memory."""
        stretches = decoder.stretches(grid, self.model.head_counts[0])
        outputs = max(stretch.outputs for stretch in stretches)
        logits = jax.ShapeDtypeStruct((images, outputs, self.model.config.visual_size), jnp.float32)
        cache = spec.abstract(cache_sharding(spec, self.execution.mesh))
        batch = f"A batch of {images} ({grid.rows} x {grid.cols} tokens each)"
        said = f"{batch} does not fit in memory, draw fewer at once (max_batch): it needs"
        require_room({"keys and values": cache, "distributions": logits}, self.execution.mesh, said)
