"""Reads a folder of captioned images as training data.

Captions are in captions.jsonl, a line {"file": "a/b.png", "caption": "..."} for every image to be used; without that
file every image in the folder or its subfolders has its caption in a text file of the same name (b.png, b.txt).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from ssd_jax.data.token_shards import TokenShards
from ssd_jax.errors import UserError
from ssd_jax.files import parse_json, read_text
from ssd_jax.parallel.processes import together

CAPTIONS = "captions.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Allowed file formats, whatever the file's name; Pillow passes some others to external programs."""

MOST_PIXELS = 80_000_000
"""Largest image; larger ones are refused from their header, before decompression."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file and its caption.

    Attributes:
        name: path relative to the folder, with slashes.
        caption: not empty; white space is collapsed to single spaces.
        bytes: size of the file.
    """

    name: str
    caption: str
    bytes: int


def read_folder(folder: Path) -> list[Picture]:
    """The captioned images of a folder, sorted by name.

    Raises:
        UserError: no such folder, no images, a missing caption, a malformed line, or an image that does not exist or
            is outside the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {str(folder)!r} with images.")
    listed = folder / CAPTIONS
    captions = _listed(listed) if listed.exists() else _beside(folder)
    if not captions:
        raise UserError(f"{folder} has no images ({', '.join(SUFFIXES)}).")
    without = sorted(name for name, caption in captions.items() if not caption)
    if without:
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        raise UserError(
            f"{folder / without[0]}{more} has no caption: write one to {PurePosixPath(without[0]).stem}.txt beside it, "
            f"or all to {listed}."
        )
    found = []
    for name, caption in sorted(captions.items()):
        try:
            found.append(Picture(name, caption, (folder / name).stat().st_size))
        except OSError as error:
            raise UserError(f"The image {folder / name} cannot be read: {error.strerror}.") from None
    return found


def _listed(path: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for number, line in enumerate(read_text(path, str(path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
            name, caption = values["file"], values["caption"]
        except (ValueError, KeyError, TypeError):
            name = caption = None
        if not isinstance(name, str) or not isinstance(caption, str):
            raise UserError(f'{path}:{number} is not a line {{"file": "name.png", "caption": "text"}}.')
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or pure.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}:{number}: {name!r} is not an image ({', '.join(SUFFIXES)}) in this folder.")
        if captions.setdefault(str(pure), _plain(caption)) != _plain(caption):
            raise UserError(f"{path}:{number}: {name!r} has another caption before.")
    return captions


def _beside(folder: Path) -> dict[str, str]:
    captions = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            text = path.with_suffix(".txt")
            captions[path.relative_to(folder).as_posix()] = _plain(read_text(text, str(text))) if text.is_file() else ""
    return captions


def _plain(caption: str) -> str:
    return " ".join(caption.split())


def read_picture(path: Path, height: int, width: int) -> np.ndarray:
    """An image centre-cropped to the aspect ratio and resized, uint8 [height, width, 3]; transparency becomes white.
    Raises `UserError` if it cannot be read or is too large."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(
                    f"{path} has {image.width} x {image.height} pixels; at most {MOST_PIXELS} in all are read."
                )
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS))
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is damaged or not an image: {error}.") from None


def encode_missing(
    shards: TokenShards,
    folder: Path,
    pictures: list[Picture],
    size: tuple[int, int],
    batch: int,
    encode: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Writes the missing shards: encodes images of `size` (height, width) in batches by `encode`, uint8 [batch, height,
    width, 3] -> int32 [batch, R, C]."""
    missing = shards.missing()

    def work() -> None:
        there = len(pictures) - sum(len(shards.pictures(shard)) for shard in missing)
        with tqdm(total=len(pictures), initial=there, desc="images to codes", unit="image", dynamic_ncols=True) as bar:
            for shard in missing:
                part, codes = shards.pictures(shard), []
                for start in range(part.start, part.stop, batch):
                    chosen = range(start, min(start + batch, part.stop))
                    images = np.stack([read_picture(Path(folder) / pictures[i].name, *size) for i in chosen])
                    full = np.resize(images, (batch, *images.shape[1:]))  # one shape, one compilation
                    codes.append(np.asarray(encode(full))[: len(images)])
                    bar.update(len(images))
                shards.write(shard, np.concatenate(codes))

    together("tokens: encoded", work)
