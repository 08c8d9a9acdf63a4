"""Draws grids and comparisons of images, heat maps of passes, and animations of a decode."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4
LINE = 12
"""Pixels between images, and height of a caption's line."""
NARROWEST = 96
"""Least width in pixels of a comparison's caption."""


def grid(images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None) -> np.ndarray:
    """Arranges uint8 images [height, width, 3] of one size in `columns` columns, on white.

    Captions, one per image, are written below in at most two lines.
    """
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    below = 0 if captions is None else 2 * LINE + GAP
    cell = height + below + GAP
    sheet = np.full((rows * cell - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = (index // columns) * cell, (index % columns) * (width + GAP)
        sheet[y : y + height, x : x + width] = image
    if captions is None:
        return sheet
    canvas = Image.fromarray(sheet)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    letters = max(8, int(width / 5.4))  # what fits a line at this size
    for index, caption in enumerate(captions):
        y, x = (index // columns) * cell + height, (index % columns) * (width + GAP)
        lines = textwrap.wrap(caption, letters, max_lines=2, placeholder="...")
        draw.multiline_text((x + width / 2, y + 2), "\n".join(lines), (60, 60, 60), font, anchor="ma", align="center")
    return np.asarray(canvas)


def columns_for(count: int) -> int:
    """Columns of a grid that is about square, at most eight."""
    return min(8, int(np.ceil(np.sqrt(count))) if count > 4 else count)


def comparison(rows: Sequence[tuple[str, Sequence[np.ndarray]]], captions: Sequence[Sequence[str]]) -> np.ndarray:
    """One line of images per entry of `rows`, with its title above and a caption under every image; uint8 [H, W, 3].

    Images too narrow for a caption are enlarged by an integer factor.

    Args:
        rows: (title, uint8 images of one size).
        captions: one text per image.
    """
    strips = []
    for (title, images), texts in zip(rows, captions, strict=True):
        factor = -(-NARROWEST // images[0].shape[1])
        strip = grid([enlarged(image, factor) for image in images], len(images), texts)
        heading = Image.new("RGB", (strip.shape[1], 2 * LINE), "white")
        width = max(8, int(strip.shape[1] / 5.4))
        text = textwrap.shorten(title, width, placeholder="...")
        ImageDraw.Draw(heading).text((2, LINE / 2), text, (0, 0, 0), ImageFont.load_default(10))
        strips += [np.asarray(heading), strip]
    return np.concatenate(strips)


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    """An image, uint8 [H, W, 3], enlarged by a whole factor, without blur."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def heat_map(trace: np.ndarray, height: int = 256) -> np.ndarray:
    """The pass in which each token became final, dark for early and bright for late, with a legend; uint8 [H, W, 3].

    Args:
        trace: int32 [R, C], passes from 1.
        height: pixels of the map, less where it would be more than four times as wide; cells are square.
    """
    cell = max(1, min(height // trace.shape[0], 4 * height // trace.shape[1]))
    first, last = int(trace.min()), int(trace.max())
    cells = colours((trace - first) / max(last - first, 1))
    field = cells.repeat(cell, axis=0).repeat(cell, axis=1)
    bar = colours(np.linspace(1.0, 0.0, field.shape[0]))[:, None].repeat(3 * GAP, axis=1)
    canvas = Image.new("RGB", (field.shape[1] + 7 * LINE, field.shape[0]), "white")
    canvas.paste(Image.fromarray(field), (0, 0))
    canvas.paste(Image.fromarray(bar), (field.shape[1] + 2 * GAP, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    x = field.shape[1] + 6 * GAP
    draw.text((x, 0), f"pass {last}", (60, 60, 60), font)
    draw.text((x, field.shape[0] - LINE), f"pass {first}", (60, 60, 60), font)
    return np.asarray(canvas)


STOPS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64)
"""Five colours of the perceptually uniform map "viridis" (CC0, by van der Walt and Smith)."""


def colours(values: np.ndarray) -> np.ndarray:
    """Maps values in 0..1, [...], to colours, uint8 [..., 3]."""
    places = np.linspace(0.0, 1.0, len(STOPS))
    return np.stack([np.interp(values, places, stop) for stop in STOPS.T], axis=-1).round().astype(np.uint8)


UNDRAWN = np.array([200, 200, 200], np.uint8)
MAX_FRAMES = 60


def uncovered(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """An image, uint8 [H, W, 3], grey where tokens are not drawn, bool [R, C]; H and W are multiples of R and C."""
    (H, W, _), (R, C) = image.shape, drawn.shape
    return np.where(drawn.repeat(H // R, axis=0).repeat(W // C, axis=1)[..., None], image, UNDRAWN)


def frames(image: np.ndarray, trace: np.ndarray, limit: int = MAX_FRAMES) -> tuple[list[np.ndarray], list[int]]:
    """Frames of an animation: tokens appear in the pass in which they became final, others are grey.

    The pixels are those of the finished image; the VQ decoder is not run on unfinished grids.

    Args:
        image: uint8 [H, W, 3], H and W multiples of R and C.
        trace: int32 [R, C].
        limit: the most frames; passes are skipped evenly.
    Returns:
        uint8 frames, the last one complete, and the pass that each shows.
    """
    last = int(trace.max())
    shown = sorted({round(x) for x in np.linspace(1, last, min(limit, last))})
    return [uncovered(image, trace <= number) for number in shown], shown


def write_gif(path: Path, pictures: Sequence[np.ndarray], milliseconds: int = 80, hold: int = 2000) -> None:
    """Writes an endless animation of uint8 images; the last one is shown for `hold` milliseconds."""
    # One palette, of the finished image and grey, avoids flicker.
    grey = np.broadcast_to(UNDRAWN, (max(8, pictures[-1].shape[0] // 4), *pictures[-1].shape[1:]))
    palette = Image.fromarray(np.concatenate([pictures[-1], grey])).quantize(256)
    images = [Image.fromarray(p).quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    durations = [milliseconds] * (len(images) - 1) + [hold]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
