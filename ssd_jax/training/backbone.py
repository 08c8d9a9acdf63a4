"""The stage "backbone": trains the transformer on captions and image tokens."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from ssd_jax.data.batches import PromptedSource
from ssd_jax.data.captioned_codes import CaptionedCodes
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.matmul import PRODUCTS
from ssd_jax.models.teacher_forcing import image_hidden
from ssd_jax.models.transformer import Transformer
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import token_nll
from ssd_jax.training.spec import BackboneSpec, NoisySpec


def corrupt(codes: np.ndarray, most: float, blind: float, rng: np.random.Generator) -> np.ndarray:
    """The input codes of a training step: some are replaced by codes from elsewhere in the batch.

    Each image loses a share drawn uniformly from 0 to `most`, or with probability `blind` from `most` to 1. A model
    that always sees true codes recognises a memorised image from the first few, ignores the caption, and cannot
    recover from its own first mistake; one that sees hardly any has to use the caption.
    """
    share = most * rng.random((len(codes), 1))
    share = np.where(rng.random((len(codes), 1)) < blind, 1.0 - (1.0 - most) * rng.random((len(codes), 1)), share)
    replaced = rng.random(codes.shape) < share
    return np.where(replaced, rng.permutation(codes.reshape(-1)).reshape(codes.shape), codes)


def batches(source: PromptedSource, spec: NoisySpec, seed: int) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Returns step -> ids, mask, codes and input codes, some of them wrong."""

    def batch(step: int) -> tuple[np.ndarray, ...]:
        ids, mask, codes = source.batch(spec.batch, spec.dropped, seed, step)
        if step < spec.code_noise_from:
            return ids, mask, codes, codes
        rng = np.random.default_rng([seed, step, 1])
        return ids, mask, codes, corrupt(codes, spec.code_noise, spec.code_blind, rng)

    return batch


def mean_nll(nll, params: Any, source: CaptionedCodes, indices: np.ndarray, batch: int, captions_of=None) -> np.ndarray:
    """NLL per token of every image, float64 [M], with the jitted `nll(params, ids, mask, codes) -> [B, P]`."""
    out = []
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        other = None if captions_of is None else captions_of[start : start + batch]
        padded = np.resize(part, batch)  # one shape, one compilation; repeats are cut off
        values = nll(params, *source.given(padded, None if other is None else np.resize(other, batch)))
        out.append(np.asarray(values, np.float64).mean(axis=1)[: len(part)])
    return np.concatenate(out)


def backbone_task(
    name: str,
    model_config: ModelConfig,
    spec: BackboneSpec,
    seed: int,
    source: CaptionedCodes,
    code_vectors: np.ndarray,
    draw: Callable[[Any], np.ndarray],
    start: Any = None,
) -> Task:
    """A phase of the backbone's stage as a task for the training loop.

    Args:
        name: of the phase, as "backbone".
        model_config: config of the backbone.
        spec: settings of the phase.
        seed: determines, with the step, the batches.
        source: captions and codes.
        code_vectors: float32 [V, code_dim], the tokenizer's codebook, which initialises the visual embeddings.
        draw: params -> image [height, width, 3], samples of the current model.
        start: the parameters after the previous phase; None begins anew.
    """
    model, trained = Transformer(model_config), Transformer(model_config, PRODUCTS[spec.matmul])
    grid = Grid(model_config.rows, model_config.cols)
    heldout = source.heldout(spec.eval_images)

    def nll(model: Transformer, params: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array, seen: jax.Array):
        hidden = image_hidden(model, params, ids, mask, seen)
        return token_nll(model.apply(params, hidden, method="logits"), codes)

    def loss(params: Any, frozen: None, batch: tuple, key: jax.Array):
        del frozen, key
        return nll(trained, params, *batch).mean(), {}

    jitted = jax.jit(lambda params, ids, mask, codes: nll(model, params, ids, mask, codes, codes))

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": float(mean_nll(jitted, params, source, heldout, spec.batch).mean())}

    def init(key: jax.Array) -> Any:
        params = nn.unbox(model.init(key, jnp.zeros((1, grid.size), jnp.int32)))["params"]
        return {"params": _codes_alike(params, jax.random.fold_in(key, 1), code_vectors, model_config)}

    return Task(
        name,
        init if start is None else None,
        loss,
        batches(source, spec, seed),
        evaluate,
        draw,
        block_matrices,
        start=start,
        accumulation=spec.accumulation,
    )


def _codes_alike(params: dict, key: jax.Array, code_vectors: np.ndarray, config: ModelConfig) -> dict:
    """Mixes a projection of the code vectors into embedding and output head, so that similar codes start similar."""
    V, code_dim = code_vectors.shape
    centred = code_vectors - code_vectors.mean(axis=0)
    centred = centred / np.sqrt((centred**2).sum(axis=1).mean())
    into, out = (jax.random.normal(k, (code_dim, config.width)) * config.width**-0.5 for k in jax.random.split(key))
    first, last = config.visual_offset, config.visual_offset + V
    share = 0.5**0.5
    embedding = params["embedding"].at[first:last].multiply(share).at[first:last].add(share * (centred @ into))
    head = share * params["visual_head"] + share * (centred @ out)
    return {**params, "embedding": embedding, "visual_head": head}


MATRICES = {
    **dict.fromkeys("qkv", MuonDimensionNumbers(2, (0, 1))),
    "o": MuonDimensionNumbers((1, 2), 0),
    **dict.fromkeys(("gate", "up", "down"), MuonDimensionNumbers(1, 0)),
}
"""Input and output axes of the blocks' matrices, by parameter name."""


def block_matrices(params: Any) -> Any:
    """The parameters that Muon trains: the matrices inside the blocks, not embedding, output head and norms."""
    return jax.tree.map_with_path(lambda path, _: MATRICES.get(path[-1].key), params)
