"""Encodes the images of a small data set as codes of an image tokenizer, all at once."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ssd_jax.files import replacing
from ssd_jax.models.config import VQConfig
from ssd_jax.models.vq import VQModel, to_float

BATCH = 64


def encode_images(vq: VQConfig, params: Any, images: np.ndarray, path: Path) -> np.ndarray:
    """Codes int32 [N, R*C] of images uint8 [N, height, width, 3]; cached in `path`, and read from there if the number
    matches."""
    if path.exists():
        codes = np.load(path, allow_pickle=False)
        if len(codes) == len(images):
            return codes
    encode = jax.jit(lambda params, images: VQModel(vq).apply(params, to_float(images), method="encode"))
    codes = []
    for start in tqdm(range(0, len(images), BATCH), desc="images to codes", dynamic_ncols=True):
        part = np.asarray(images[start : start + BATCH])
        full = np.resize(part, (BATCH, *part.shape[1:]))  # one shape, one compilation
        codes.append(np.asarray(encode(params, full)).reshape(BATCH, -1)[: len(part)])
    codes = np.concatenate(codes)
    with replacing(path) as temporary:
        np.save(temporary, codes)
    return codes
