"""Pictures of pictures: grids to look at."""

from collections.abc import Sequence

import numpy as np


def grid(images: Sequence[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """Lays uint8 pictures [height, width, 3] of one size out in rows of `columns`, on white."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet
