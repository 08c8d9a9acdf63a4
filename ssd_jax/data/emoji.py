"""Loads the captioned emoji images that `data.emoji_build` builds.

>>> data = load(Path("data/emoji"))
>>> data.captions[int(data.indices("train")[0])]
'keycap hash, twemoji'
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SIZE = 128  # pixels, height and width
SPLITS = ("train", "identity", "combination")
HELD_OUT = ("combination", "identity", "train")  # evaluation splits: the first that has images
TONED_WEIGHT = 0.5  # total weight of the skin-tone variants of an emoji in a style; an untoned image has 1


@dataclasses.dataclass(frozen=True)
class EmojiData:
    """N captioned images; every list has one entry per image, in order.

    Attributes:
        images: uint8 [N, 128, 128, 3], RGB on white, 0 to 255, a read-only view of the file.
        captions: the prompts, "red apple, noto" ("red apple" if the data has a single style).
        styles: one of `emoji_sources.STYLES`.
        names: the caption without the style.
        codes: hexadecimal code points without FE0F, "1f44d-1f3fd".
        identities: the code without skin tones; the same for all styles and tones of an emoji.
        tones: "", "light", "medium-light", "medium", "medium-dark", "dark" or "mixed".
        splits: str [N], one of `SPLITS`.
        weights: float64 [N], how often to sample an image, relative to 1 for one without skin tone.
    """

    images: np.ndarray
    captions: list[str]
    styles: list[str]
    names: list[str]
    codes: list[str]
    identities: list[str]
    tones: list[str]
    splits: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.captions)

    def indices(self, split: str) -> np.ndarray:
        """Indices of a split's images, int64 [M], ascending. Raises ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
        return np.flatnonzero(self.splits == split)


def sampling_weights(records: Sequence[Mapping[str, str]]) -> np.ndarray:
    """float64 [N]: 1 for an image without skin tone; the toned ones of an emoji in a style share `TONED_WEIGHT`.

    Half of all images are skin-tone variants of people and hands, up to 25 of each; sampled uniformly they would
    fill half of every batch.
    """
    toned = Counter((r["style"], r["identity"]) for r in records if r["tone"])
    shares = [TONED_WEIGHT / toned[r["style"], r["identity"]] if r["tone"] else 1.0 for r in records]
    return np.asarray(shares, np.float64)


def load(folder: Path) -> EmojiData:
    """Opens the output of `build`; the images stay on disk until they are used.

    Raises:
        FileNotFoundError: the folder has not been built.
        ValueError: index and images do not match.
    """
    folder = Path(folder)
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"no emoji data in {folder}; write it with ssd_jax.data.emoji_build.build")
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    records = index["pictures"]
    expected = (len(records), index["size"], index["size"], 3)
    if images.shape != expected or images.dtype != np.uint8:
        raise ValueError(
            f"{folder}: index.json describes uint8 {expected}, but images.npy is {images.dtype} {images.shape}; "
            "remove the folder and build it again"
        )

    def column(key: str) -> list[str]:
        return [record[key] for record in records]

    return EmojiData(
        images=images,
        captions=column("caption"),
        styles=column("style"),
        names=column("name"),
        codes=column("code"),
        identities=column("identity"),
        tones=column("tone"),
        splits=np.asarray(column("split"), dtype=str),
        weights=sampling_weights(records),
    )
