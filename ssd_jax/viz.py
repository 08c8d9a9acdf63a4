"""Pictures of pictures: grids to look at."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4
LINE = 12
"""Pixels between pictures, and per line of a caption."""


def grid(images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None) -> np.ndarray:
    """Lays uint8 pictures [height, width, 3] of one size out in rows of `columns`, on white.

    Captions, one per picture, stand below in at most two lines.
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
    """Columns of a grid that is a little wider than high, at most eight."""
    return min(8, max(1, int(np.ceil(np.sqrt(count * 1.5)))) if count > 4 else count)
