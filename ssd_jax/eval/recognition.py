"""Measures whether a model's images are recognised: whether their nearest reference images show the same thing."""

from typing import NamedTuple

import numpy as np

from ssd_jax.eval.estimates import Estimate
from ssd_jax.eval.features import features, load_network
from ssd_jax.eval.gallery import Gallery
from ssd_jax.pipeline.pipeline import Pipeline

ASKED = {"trained captions": "train", "held-out combinations": "combination"}
"""Name in the report -> split of the captions."""

BATCH = 16  # images at once


class Recognition(NamedTuple):
    """R@1 and R@5 by kind of caption, and a note on the gallery."""

    shares: dict[str, dict[int, Estimate]]
    note: str


def recognition(pipe: Pipeline, gallery: Gallery, count: int) -> Recognition:
    """Generates images of `count` captions of every kind with `ar` at default settings, and measures their retrieval.

    Raises `UserError` if the image features are not installed, or if there are no such captions.
    """
    network, shares, notes = load_network(), {}, []
    for name, split in ASKED.items():
        prompts = gallery.prompts(count, (split,))
        out = pipe.generate(prompts, seed=list(range(count)), max_batch=BATCH)
        seen = features(network, np.stack([np.asarray(image) for image in out.images]))
        found, note = gallery.find(pipe, network, prompts, {name: seen})
        shares |= found
        notes.append(f"{name}: {note}")
    return Recognition(shares, " ".join(notes))
