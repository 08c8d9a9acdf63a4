"""A gallery of reference images, which gives prompts and is searched in retrieval."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd_jax.data import emoji
from ssd_jax.errors import UserError
from ssd_jax.eval.estimates import Estimate
from ssd_jax.eval.features import features
from ssd_jax.eval.retrieval import retrieval
from ssd_jax.files import replacing
from ssd_jax.pipeline.pipeline import Pipeline

TUNED = 64
"""Number of the first prompts of `Gallery.prompts` on which options of decoders were chosen; on no others."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images of a data folder in which identities are searched: all styles and splits, but no skin tones, which are up
    to 25 variants of one image.

    Attributes:
        folder: the data folder; features are cached in it.
        data: images, captions, identities, splits.
        rows: int64 [M], indices of the gallery's images.
        mark: twelve hexadecimal digits of a digest of images and captions.
    """

    folder: Path
    data: emoji.EmojiData
    rows: np.ndarray
    mark: str

    @classmethod
    def read(cls, folder: Path) -> "Gallery":
        """Reads a data folder written by `ssd_jax.data.emoji_build.build`; raises `UserError` if it is not one."""
        folder = Path(folder)
        try:
            data = emoji.load(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"The reference images cannot be read: {error}.") from None
        digest = hashlib.sha256()
        for name in ("index.json", "images.npy"):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        rows = np.array([row for row, tone in enumerate(data.tones) if not tone])
        return cls(folder, data, rows, digest.hexdigest()[:12])

    def prompts(self, count: int, splits: Sequence[str] = ("train", "combination")) -> list[str]:
        """Captions of the gallery's images of some splits, in a fixed random order; repeated if there are too few.

        By default those of identities that a model was trained on. Raises `UserError` if there are none.
        """
        asked = self.rows[np.isin(self.data.splits[self.rows], splits)]
        if not len(asked):
            raise UserError(f"{self.folder} has no image without skin tone in {' or '.join(splits)}.")
        order = np.random.default_rng(0).permutation(asked)
        return [self.data.captions[i] for i in np.resize(order, count)]

    def shelf(self, network: Any) -> np.ndarray:
        """Features of its images, float32 [M, d]; cached in the folder if it is writable."""
        path = self.folder / f"features-{self.mark}.npy"
        if path.is_file():
            found = np.load(path, allow_pickle=False)
            if len(found) == len(self.rows):
                return found
        parts = np.array_split(self.rows, -(-len(self.rows) // 256))
        everything = tqdm(parts, desc="gallery", unit="part", dynamic_ncols=True)
        found = np.concatenate([features(network, np.asarray(self.data.images[part])) for part in everything])
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, found)
        except OSError:
            pass  # not writable; the next run recomputes them
        return found

    def find(
        self, pipe: Pipeline, network: Any, prompts: Sequence[str], seen: dict[str, np.ndarray]
    ) -> tuple[dict[str, dict[int, Estimate]], str]:
        """R@1 and R@5 of every decoder, in any style, and a note on them.

        Args:
            pipe: its image tokenizer gives the values of real images after encoding and decoding.
            network: from `features.load_network`.
            prompts: N texts; those that are not a caption of a reference image are left out.
            seen: decoder -> features [N, d].
        """
        row_of = {self.data.captions[row]: row for row in self.rows.tolist()}
        asked = [index for index, text in enumerate(prompts) if text in row_of]
        if not asked:
            return {}, "No prompt is the caption of a reference image, so there is no retrieval."
        rows = [row_of[prompts[index]] for index in asked]
        shelf, identities = self.shelf(network), [self.data.identities[row] for row in self.rows]

        def found(queries: np.ndarray) -> dict[int, Estimate]:
            return retrieval(queries, [self.data.identities[row] for row in rows], shelf, identities)

        shares = {name: found(values[asked]) for name, values in seen.items()}
        note = f"Retrieval: {len(asked)} images among {len(shelf)} (gallery {self.mark})"
        if self.data.images.shape[1] % pipe.vq_config.stride:
            return shares, f"{note}."
        real = np.asarray(self.data.images[rows])
        best = found(features(network, pipe.decode(pipe.encode(real))))
        return shares, (
            f"{note}; the real images, through the VQ tokenizer and back, reach R@1 {best[1].value:.3f} and R@5 "
            f"{best[5].value:.3f}."
        )
