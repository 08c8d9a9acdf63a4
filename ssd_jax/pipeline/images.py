"""Converts between pixels and codes with a checkpoint's image tokenizer, loaded on first use, on one device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.vq import to_float, to_uint8
from ssd_jax.models.vq_models import AnyVQConfig, vq_model
from ssd_jax.pipeline.origin import Origin

LIMIT = 2**27
"""Most pixels times channels that go through a tokenizer at once: half a gigabyte in float32, of which the published
tokenizers need up to eight times as much."""


class Pictures:
    """The image tokenizer of a pipeline; any number of images is processed, `at_once` of them at a time.

    Attributes:
        origin: source of its parameters.
        model: the backbone's config.
        config: the tokenizer's config.
    """

    def __init__(self, origin: Origin, model: ModelConfig, config: AnyVQConfig):
        self.origin, self.model, self.config = origin, model, config
        self._params: Any = None

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [B, H, W, 3] to codes int32 [B, R, C]; raises `UserError` for any other array, or none."""
        images = np.asarray(images)
        stride = self.config.stride
        fits = (
            images.ndim == 4 and images.shape[3] == 3 and not images.shape[1] % stride and not images.shape[2] % stride
        )
        if not fits or not images.size or images.dtype != np.uint8:
            raise UserError(
                f"Images must be uint8 [B, H, W, 3], none of them 0, with H and W multiples of {stride}, "
                f"not {images.dtype} {images.shape}."
            )
        return self._in_parts(_to_codes, images, at_once(self.config, *images.shape[1:3]))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int32 [B, R, C] to images uint8 [B, H, W, 3]; raises `UserError` for any other array."""
        codes = np.asarray(codes, np.int32)
        if codes.ndim != 3 or not codes.size or codes.min() < 0 or codes.max() >= self.config.codebook_size:
            raise UserError(f"Codes must be [B, R, C] with values in 0..{self.config.codebook_size - 1}.")
        stride = self.config.stride
        return self._in_parts(to_pixels, codes, at_once(self.config, *(side * stride for side in codes.shape[1:])))

    def _in_parts(self, program: Callable, given: np.ndarray, size: int) -> np.ndarray:
        """Runs `program` on [B, ...], `size` images at a time; the last part is padded, so that one program does."""
        if len(given) <= size:
            return np.asarray(program(self.params, given, config=self.config))
        out = []
        for start in range(0, len(given), size):
            part = given[start : start + size]
            filled = np.resize(part, (size, *part.shape[1:]))
            out.append(np.asarray(program(self.params, filled, config=self.config))[: len(part)])
        return np.concatenate(out)

    @property
    def params(self) -> Any:
        """The parameters. Raises `UserError` if they cannot be read or are for another number of codes than the
        backbone's."""
        if self._params is None:
            drawn, known = self.model.visual_size, self.config.codebook_size
            if drawn != known:
                raise UserError(
                    f"{self.origin.name}: the backbone draws {drawn} visual codes, but the image tokenizer has {known}."
                )
            self._params = self.origin.tokenizer(self.model, self.config)
        return self._params


def at_once(config: AnyVQConfig, height: int, width: int) -> int:
    """How many images of height x width pixels go through a tokenizer at once: as many as `LIMIT` allows, or one.

    A 720 x 720 image of Emu3 has 133 million pixels times channels and goes alone; Janus-Pro takes seven at a time, the
    bundled model 170.
    """
    return max(1, LIMIT // (height * width * config.channels))


@partial(jax.jit, static_argnames="config")
def _to_codes(params: Any, images: jax.Array, *, config: AnyVQConfig) -> jax.Array:
    return vq_model(config).apply(params, to_float(images), method="encode")


@partial(jax.jit, static_argnames="config")
def to_pixels(params: Any, codes: jax.Array, *, config: AnyVQConfig) -> jax.Array:
    """Codes int32 [B, R, C] to images uint8 [B, H, W, 3]."""
    return to_uint8(vq_model(config).apply(params, codes, method="decode"))
