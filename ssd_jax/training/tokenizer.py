"""Stage "tokenizer": train the VQ model on pictures."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.models.config import VQConfig
from ssd_jax.models.vq import VQModel, to_float, to_uint8
from ssd_jax.training.emoji import EmojiData
from ssd_jax.training.losses import psnr, tokenizer_loss
from ssd_jax.training.loop import Task
from ssd_jax.viz import grid

SHIFT = 8
"""Pixels by which a training picture may move, so that codes do not tie themselves to the centred layout."""


def tokenizer_task(vq: VQConfig, config: Any, seed: int, data: EmojiData) -> Task:
    """The tokenizer's part of the loop.

    Args:
        vq: what to train.
        config: the stage's config (`batch`, `eval_images`, `gradient_weight`, and the optimizer's fields).
        seed: decides batches and augmentation together with the step.
        data: pictures; those of the held-out identities are only evaluated on.
    """
    model = VQModel(vq)
    train, heldout = data.indices("train"), data.indices("identity")
    chance = data.weights[train] / data.weights[train].sum()
    picked = heldout[np.linspace(0, len(heldout) - 1, min(config.eval_images, len(heldout))).astype(int)]

    def loss(params: Any, batch: jax.Array, key: jax.Array):
        del key
        images = to_float(batch)
        rebuilt, codes, terms = model.apply(params, images)
        value, metrics = tokenizer_loss(images, rebuilt, terms, config.gradient_weight, config.usage_weight)
        used = jnp.zeros(vq.codebook_size, bool).at[codes.reshape(-1)].set(True)
        return value, {**metrics, "codes_in_batch": used.sum()}

    def batch(step: int) -> np.ndarray:
        rng = np.random.default_rng([seed, step])
        return augment(np.asarray(data.images[rng.choice(train, config.batch, p=chance)]), rng)

    @partial(jax.jit, donate_argnums=())
    def rebuild(params: Any, images: jax.Array):
        images = to_float(images)
        codes = model.apply(params, images, method="encode")
        rebuilt = model.apply(params, codes, method="decode")
        return rebuilt, codes, psnr(images, rebuilt), jnp.abs(images - rebuilt).mean()

    def evaluate(params: Any) -> dict[str, float]:
        ratios, errors, codes = [], [], []
        for part in np.array_split(picked, max(1, len(picked) // config.batch)):
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
        return model.init(key, jnp.zeros((1, *data.images.shape[1:])))

    return Task("tokenizer", init, loss, batch, evaluate, sample)


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors half of the pictures and moves each by up to `SHIFT` pixels over white; uint8 in and out."""
    size = images.shape[1]
    out = np.empty_like(images)
    for index, image in enumerate(images):
        padded = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), constant_values=255)
        y, x = rng.integers(0, 2 * SHIFT + 1, 2)
        cut = padded[y : y + size, x : x + size]
        out[index] = cut[:, ::-1] if rng.random() < 0.5 else cut
    return out
