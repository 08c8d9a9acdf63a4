"""Reference pictures: where prompts come from, and what pictures are looked up among."""

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
"""Options of decoders were chosen on the first prompts of `Gallery.prompts`, so many; on no others."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures of a data folder to find identities among: those of all styles and splits without skin tones, which are
    up to 25 variants of one picture.

    Attributes:
        folder: the data folder; features are kept in it.
        data: pictures, captions, identities, splits.
        rows: int64 [M], which of the pictures belong to the gallery.
        mark: twelve hexadecimal digits of the pictures and of what is said of them.
    """

    folder: Path
    data: emoji.EmojiData
    rows: np.ndarray
    mark: str

    @classmethod
    def read(cls, folder: Path) -> "Gallery":
        """From a data folder that `ssd_jax.data.emoji_build.build` wrote; raises `UserError` if it is none."""
        folder = Path(folder)
        try:
            data = emoji.load(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"The reference pictures cannot be read: {error}.") from None
        digest = hashlib.sha256()
        for name in ("index.json", "images.npy"):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        rows = np.array([row for row, tone in enumerate(data.tones) if not tone])
        return cls(folder, data, rows, digest.hexdigest()[:12])

    def prompts(self, count: int, splits: Sequence[str] = ("train", "combination")) -> list[str]:
        """Captions of the gallery's pictures of some splits, in a fixed random order; repeated if there are too few.

        The default are those of identities that a model has been trained on. Raises `UserError` if there is none.
        """
        asked = self.rows[np.isin(self.data.splits[self.rows], splits)]
        if not len(asked):
            raise UserError(f"{self.folder} has no picture without skin tone in {' or '.join(splits)}.")
        order = np.random.default_rng(0).permutation(asked)
        return [self.data.captions[i] for i in np.resize(order, count)]

    def shelf(self, network: Any) -> np.ndarray:
        """Features of its pictures, float32 [M, d]; kept in the folder if it can be written to."""
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
            pass  # a folder of somebody else's; the next run computes them anew
        return found

    def find(
        self, pipe: Pipeline, network: Any, prompts: Sequence[str], seen: dict[str, np.ndarray]
    ) -> tuple[dict[str, dict[int, Estimate]], str]:
        """R@1 and R@5 of every painter, in any style, and what there is to say about them.

        Args:
            pipe: its image tokenizer shows what real pictures reach that went through it.
            network: from `features.load_network`.
            prompts: N texts; those that are no caption of a reference picture are left out.
            seen: painter -> features [N, d].
        """
        row_of = {self.data.captions[row]: row for row in self.rows.tolist()}
        asked = [index for index, text in enumerate(prompts) if text in row_of]
        if not asked:
            return {}, "No prompt is the caption of a reference picture, so there is no retrieval."
        rows = [row_of[prompts[index]] for index in asked]
        shelf, identities = self.shelf(network), [self.data.identities[row] for row in self.rows]

        def found(queries: np.ndarray) -> dict[int, Estimate]:
            return retrieval(queries, [self.data.identities[row] for row in rows], shelf, identities)

        shares = {name: found(values[asked]) for name, values in seen.items()}
        note = f"Retrieval: {len(asked)} pictures among {len(shelf)} (gallery {self.mark})"
        if self.data.images.shape[1] % pipe.vq_config.stride:
            return shares, f"{note}."
        real = np.asarray(self.data.images[rows])
        best = found(features(network, pipe.decode(pipe.encode(real))))
        return shares, (
            f"{note}; the real pictures, through the VQ tokenizer and back, reach R@1 {best[1].value:.3f} and R@5 "
            f"{best[5].value:.3f}."
        )
