"""What this library makes of a checkpoint folder: the arrays that are compared."""

import contextlib
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.check.folder import Found
from ssd_jax.check.task import GRID, Task
from ssd_jax.decode.ar import AR
from ssd_jax.decode.model_verifier import Draw
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.transformer import boxed_backbone
from ssd_jax.models.vq import to_float
from ssd_jax.models.vq_models import AnyVQConfig, vq_model
from ssd_jax.parallel.mesh import abstract
from ssd_jax.pipeline.execution import Execution
from ssd_jax.pipeline.images import Pictures
from ssd_jax.pipeline.origin import Checkpoint
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import sampler_of
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sampling.noise import image_keys
from ssd_jax.weights.load import read_backbone


def backbone_arrays(found: Found, task: Task) -> dict[str, np.ndarray]:
    """ "logits" float32 [R*C, V] that predict the given codes, by teacher forcing; "greedy" int32 [R*C], the codes that
    `ar` draws through its cache, without guidance. Raises `UserError` for weights that cannot be read."""
    config = dataclasses.replace(found.config, layers=task.layers)
    dtype = jnp.dtype(task.dtype)
    params = read_backbone(found.weights.path, config, like(found, task), dtype, whole=False)
    model = LoadedModel.of(config, params)
    pipe = Pipeline(Checkpoint(found.folder), model, found.vq, Execution(dtype))
    sampler = sampler_of(config, 1.0, temperature=0, top_k=0, top_p=None)
    draw = Draw(image_keys(jnp.zeros(1, jnp.uint32), jnp.zeros(1, jnp.int32)), sampler)
    with _exact():
        logits = pipe.visual_logits(np.array([task.prompt]), task.codes, (GRID.rows, GRID.cols))
        drawn = pipe.programs.decode(PromptBatch.stack([task.prompt], None, config.pad_id), draw, AR(), GRID)
    return {"logits": np.asarray(logits[0]), "greedy": drawn.tokens.reshape(-1)}


def like(found: Found, task: Task) -> Any:
    """The shapes of the backbone's parameters."""
    config = dataclasses.replace(found.config, layers=task.layers)
    return abstract(boxed_backbone(config), None, jnp.dtype(task.dtype), None)


class Tokenizer:
    """The image tokenizer of a folder, in float32. `vq_weights` as for `folder.inspect`."""

    def __init__(self, found: Found, vq_weights: Path | None = None):
        self._config = found.vq
        self._pictures = Pictures(Checkpoint(found.folder, vq_weights), found.config, found.vq)

    def read(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Of an image uint8 [height, width, 3]: "latents" before the lookup, float32 [R, C, code_dim], and "encoded",
        its codes int32 [R, C]. Raises `UserError` for weights that cannot be read."""
        with _exact():
            latents = self._apply(to_float(image[None]), "latents")
            return {"latents": np.asarray(latents[0]), "encoded": self._pictures.encode(image[None])[0]}

    def pixels(self, codes: np.ndarray) -> np.ndarray:
        """Codes int [R, C] to pixels float32 [height, width, 3], about -1 to 1."""
        with _exact():
            return np.asarray(self._apply(np.asarray(codes, np.int32)[None], "decode")[0])

    def _apply(self, given: Any, method: str) -> Any:
        return _tokenizer(self._pictures.params, given, config=self._config, method=method)


@partial(jax.jit, static_argnames=("config", "method"))
def _tokenizer(params: Any, given: jax.Array, *, config: AnyVQConfig, method: str) -> jax.Array:
    return vq_model(config).apply(params, given, method=method)


def _exact() -> contextlib.AbstractContextManager:
    """Float32 products on accelerators, too, which would otherwise round what they multiply."""
    return jax.default_matmul_precision("highest")
