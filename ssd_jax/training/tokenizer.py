"""The stage "tokenizer": trains the VQ model on images.

The stage's parameters are {"params": the model's, "usage": float32 [V]}, the running share of latents per code.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from ssd_jax.data.emoji import HELD_OUT, EmojiData
from ssd_jax.models.config import VQConfig
from ssd_jax.models.vq import VQModel, to_float, to_uint8
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import psnr, tokenizer_loss
from ssd_jax.training.spec import TokenizerSpec
from ssd_jax.viz import grid

SHIFT = 8
"""Most pixels by which a training image is shifted, so that codes do not overfit the centred layout."""

MEMORY = 0.95
"""Decay per step of the running usage of a code."""

DEAD = 0.05
"""A code used less than this share of uniform usage is moved to where codes are missing."""

FRESH = 0.25
"""Usage credited to a new or moved code: about thirty steps for a latent to find it."""


def tokenizer_task(vq: VQConfig, spec: TokenizerSpec, seed: int, data: EmojiData) -> Task:
    """The tokenizer's task for the training loop.

    Args:
        vq: config of the tokenizer.
        spec: settings of the stage.
        seed: determines, with the step, batches and augmentation.
        data: images; those of held-out identities are for evaluation only.
    """
    model = VQModel(vq)
    train = data.indices("train")
    heldout = next(found for split in HELD_OUT[1:] if len(found := data.indices(split)))
    chance = data.weights[train] / data.weights[train].sum()
    picked = heldout[np.linspace(0, len(heldout) - 1, min(spec.eval_images, len(heldout))).astype(int)]

    def loss(params: Any, frozen: None, batch: tuple[jax.Array, jax.Array], key: jax.Array):
        del frozen, key
        images = to_float(batch[0])
        rebuilt, codes, terms = model.apply({"params": params["params"]}, images, batch[1])
        value, metrics = tokenizer_loss(images, rebuilt, terms, spec.gradient_weight)
        used = jnp.zeros(vq.codebook_size, bool).at[codes.reshape(-1)].set(True)
        return value, {**metrics, "codes_in_batch": used.sum(), "codes_alive": (params["usage"] > DEAD).sum()}

    def revise(params: Any, batch: tuple[jax.Array, jax.Array], key: jax.Array) -> Any:
        """Moves dead codes onto latents of the batch that the codebook serves badly (k-means++ seeding)."""
        some = to_float(batch[0][: max(1, spec.batch // 4)])
        z, codes = model.apply({"params": params["params"]}, some, method="latents_and_codes")
        codebook = params["params"]["codebook"]
        counts = jnp.zeros(vq.codebook_size).at[codes.reshape(-1)].add(1.0) * vq.codebook_size / codes.size
        usage = MEMORY * params["usage"] + (1.0 - MEMORY) * counts
        z = z.reshape(-1, vq.code_dim)
        error = jnp.sum(
            (z - model.apply({"params": params["params"]}, method="code_vectors")[codes.reshape(-1)]) ** 2, -1
        )
        picked = jax.random.categorical(key, jnp.log(error + 1e-12), shape=(vq.codebook_size,))
        dead = usage < DEAD
        codebook = jnp.where(dead[:, None], z[picked], codebook)
        return {"params": {**params["params"], "codebook": codebook}, "usage": jnp.where(dead, FRESH, usage)}

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, step])
        images = augment(np.asarray(data.images[rng.choice(train, spec.batch, p=chance)]), rng)
        return images, np.float32(step >= spec.continuous_steps)

    @jax.jit
    def rebuild(params: Any, images: jax.Array):
        params, images = {"params": params["params"]}, to_float(images)
        codes = model.apply(params, images, method="encode")
        rebuilt = model.apply(params, codes, method="decode")
        return rebuilt, codes, psnr(images, rebuilt), jnp.abs(images - rebuilt).mean()

    def evaluate(params: Any) -> dict[str, float]:
        ratios, errors, codes = [], [], []
        for part in np.array_split(picked, max(1, len(picked) // spec.batch)):
            _, ids, ratio, error = rebuild(params, np.asarray(data.images[part]))
            codes.append(np.unique(ids)), ratios.append(ratio), errors.append(error)
        return {
            "heldout": float(np.mean(errors)),
            "heldout_psnr": float(np.mean(np.concatenate(ratios))),
            "heldout_codes": len(np.unique(np.concatenate(codes))),
        }

    def sample(params: Any) -> np.ndarray:
        images = np.asarray(data.images[picked[np.linspace(0, len(picked) - 1, 16).astype(int)]])
        rebuilt = np.asarray(to_uint8(rebuild(params, images)[0]))
        return grid([*images[:8], *rebuilt[:8], *images[8:], *rebuilt[8:]], columns=8)

    def init(key: jax.Array) -> Any:
        params = model.init(key, jnp.zeros((1, *data.images.shape[1:])), 1.0)["params"]
        return {"params": params, "usage": jnp.full(vq.codebook_size, FRESH, jnp.float32)}

    return Task("tokenizer", init, loss, batch, evaluate, sample, conv_matrices, revise)


def conv_matrices(params: Any) -> Any:
    """The parameters that Muon trains: every convolution and projection, as a matrix from all inputs to its outputs."""

    def axes(path: tuple, leaf: Any) -> MuonDimensionNumbers | None:
        if path[-1].key != "kernel":
            return None
        return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree.map_with_path(axes, params)


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors half of the images and shifts each by up to `SHIFT` pixels, filling with white; uint8 in and out."""
    size = images.shape[1]
    out = np.empty_like(images)
    for index, image in enumerate(images):
        padded = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), constant_values=255)
        y, x = rng.integers(0, 2 * SHIFT + 1, 2)
        cut = padded[y : y + size, x : x + size]
        out[index] = cut[:, ::-1] if rng.random() < 0.5 else cut
    return out
