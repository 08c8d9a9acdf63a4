"""Loss functions of the stages, and the terms that they are made of: pure functions of arrays."""

import jax
import jax.numpy as jnp

Metrics = dict[str, jax.Array]


def tokenizer_loss(
    images: jax.Array, rebuilt: jax.Array, terms: Metrics, gradient_weight: float
) -> tuple[jax.Array, Metrics]:
    """L1 on pixels, L1 on pixel differences (edges), and the quantisation terms of `VQModel`.

    Images are float32 [B, height, width, 3] in [-1, 1]; `terms` are scalars.
    """
    error = rebuilt - images
    pixel = jnp.mean(jnp.abs(error))
    edges = jnp.mean(jnp.abs(jnp.diff(error, axis=1))) + jnp.mean(jnp.abs(jnp.diff(error, axis=2)))
    loss = pixel + gradient_weight * edges + terms["codebook"] + 0.25 * terms["commitment"]
    return loss, {"l1": pixel, "psnr": psnr(images, rebuilt).mean(), **terms}


def psnr(images: jax.Array, rebuilt: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB of every image, [B]; inputs in [-1, 1], the rebuilt one is clipped first."""
    mse = jnp.mean(((images - jnp.clip(rebuilt, -1.0, 1.0)) / 2.0) ** 2, axis=(1, 2, 3))
    return -10.0 * jnp.log10(jnp.maximum(mse, 1e-10))


def token_nll(logits: jax.Array, codes: jax.Array) -> jax.Array:
    """Negative log-likelihood of every code in nats; logits [..., V], codes int32 [...]."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_p, codes[..., None], axis=-1)[..., 0]


def smooth_l1(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Smooth L1 (Huber, delta 1) of hidden states [..., D], averaged over their width; [...].

    Source: SSD, arXiv 2606.20543.
    """
    error = jnp.abs(predicted - target)
    return jnp.where(error < 1.0, 0.5 * error**2, error - 0.5).mean(axis=-1)


def shared_mass(p: jax.Array, q: jax.Array) -> jax.Array:
    """sum_v min(p, q) of probabilities [..., V]: the chance that speculative sampling accepts a draft from q; [...].

    One minus it is the total variation distance.
    """
    return jnp.minimum(p, q).sum(axis=-1)


def valid_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the valid elements of every entry of axis 0; [O, ...] and bool, broadcast to it -> [O]."""
    axes = tuple(range(1, values.ndim))
    valid = jnp.broadcast_to(valid, values.shape).astype(values.dtype)
    return (values * valid).sum(axes) / jnp.maximum(valid.sum(axes), 1.0)
