"""Reference pictures: where prompts come from, and what pictures are looked up among."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd_jax.errors import UserError
from ssd_jax.eval.estimates import Estimate
from ssd_jax.eval.features import features
from ssd_jax.eval.retrieval import retrieval
from ssd_jax.pipeline import Pipeline
from ssd_jax.training import emoji

TUNED = 64
"""Options of decoders were chosen on the first prompts of `Gallery.prompts`, so many; on no others."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Reference pictures to find identities among: those without skin tones.

    Attributes:
        images: uint8 [M, H, W, 3], a view of the file.
        picked: int64 [M'], rows of `images` that belong to the gallery.
        captions, identities: of the picked rows.
        known: which of them are of identities that the model was trained on, bool [M'].
    """

    images: np.ndarray
    picked: np.ndarray
    captions: list[str]
    identities: list[str]
    known: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> "Gallery":
        """From a data folder that `ssd_jax.training.emoji.build` wrote; raises `UserError` if it is none."""
        try:
            data = emoji.load(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"The reference pictures cannot be read: {error}.") from None
        picked = np.array([index for index, tone in enumerate(data.tones) if not tone])
        captions, identities = ([column[i] for i in picked] for column in (data.captions, data.identities))
        return cls(data.images, picked, captions, identities, data.splits[picked] != "identity")

    def prompts(self, count: int) -> list[str]:
        """Captions of known identities in a fixed random order; repeated if there are not enough."""
        order = np.random.default_rng(0).permutation(np.flatnonzero(self.known))
        return [self.captions[i] for i in np.resize(order, count)]

    def pictures(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures of rows of `picked`, uint8."""
        return np.stack([self.images[self.picked[row]] for row in rows])

    def find(
        self, pipe: Pipeline, network: Any, prompts: Sequence[str], seen: dict[str, np.ndarray]
    ) -> tuple[dict[str, dict[int, Estimate]], str]:
        """R@1 and R@5 of every painter, and what there is to say about them.

        Args:
            pipe: its image tokenizer shows what real pictures reach that went through it.
            network: from `features.load_network`.
            prompts: N texts; those that are no caption of a reference picture are left out.
            seen: painter -> features [N, d].
        """
        row_of = {caption: row for row, caption in enumerate(self.captions)}
        asked = [index for index, text in enumerate(prompts) if text in row_of]
        if not asked:
            return {}, "No prompt is the caption of a reference picture, so there is no retrieval."
        wanted = [self.identities[row_of[prompts[index]]] for index in asked]
        everything = tqdm(np.array_split(np.arange(len(self.picked)), -(-len(self.picked) // 256)), desc="gallery")
        shelf = np.concatenate([features(network, self.pictures(part)) for part in everything])

        def found(queries: np.ndarray) -> dict[int, Estimate]:
            return retrieval(queries, wanted, shelf, self.identities)

        shares = {name: found(values[asked]) for name, values in seen.items()}
        note = f"Retrieval: {len(asked)} pictures among {len(shelf)}"
        real = self.pictures([row_of[prompts[index]] for index in asked])
        if real.shape[1] % pipe.vq_config.stride:
            return shares, f"{note}."
        best = found(features(network, pipe.decode(pipe.encode(real))))
        return shares, (
            f"{note}; the real pictures, through the VQ tokenizer and back, reach R@1 {best[1].value:.3f} and R@5 "
            f"{best[5].value:.3f}."
        )
