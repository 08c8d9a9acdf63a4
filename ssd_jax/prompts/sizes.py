"""Parses the image size that a user gives."""

import re
from collections.abc import Iterable

from ssd_jax.errors import UserError, is_whole, shown

PIXELS = re.compile(r"(\d{1,5})x(\d{1,5})")
RATIO = re.compile(r"(\d{1,5}):(\d{1,5})")


def is_ratio(size: tuple[int, int] | str) -> bool:
    """Whether a size is an aspect ratio, written "WIDTH:HEIGHT"."""
    return isinstance(size, str) and RATIO.fullmatch(size.strip()) is not None


def parse_size(size: tuple[int, int] | str) -> tuple[int, int]:
    """(height, width) in pixels from (height, width) or "HEIGHTxWIDTH"; from a ratio "WIDTH:HEIGHT" its two numbers,
    also height first. Raises `UserError` for anything else."""
    if isinstance(size, str):
        match = PIXELS.fullmatch(size.strip())
        if match is None and (match := RATIO.fullmatch(size.strip())) is not None:
            match = match[2], match[1]
        else:
            match = match and match.groups()
        if match is None:
            raise UserError(
                f"A size is HEIGHTxWIDTH in pixels, such as 512x768, or a ratio such as 16:9, not {shown(size)}."
            )
        size = tuple(map(int, match))
    sides = tuple(size) if isinstance(size, Iterable) else ()
    if len(sides) != 2 or not all(is_whole(side, 1) for side in sides):
        raise UserError(f"A size must be two whole numbers of at least 1, not {shown(size)}.")
    return int(sides[0]), int(sides[1])
