"""Turns an image and a mask into the tokens that are given, so that only the others are drawn."""

import numpy as np
from PIL import Image

from ssd_jax.errors import UserError
from ssd_jax.pipeline.images import Pictures
from ssd_jax.sequence.layout import Grid

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"}
"""Pillow's modes of 8 bits or fewer; others are clipped when converted, without a word."""


def given_codes(tokenizer: Pictures, grid: Grid, image: object, mask: object) -> np.ndarray | None:
    """Codes of the tokens that an image gives, and -1 where tokens are drawn.

    Args:
        tokenizer: encodes the image.
        grid: R and C.
        image: a Pillow image, or uint8 [H, W, 3], of the size that is drawn; None gives nothing.
        mask: where to draw: bool [R, C], bool [H, W], or a Pillow image [H, W] that is not black there. A token is
            drawn if any of its pixels is.
    Returns:
        int32 [R*C]; None without an image.
    Raises:
        UserError: one without the other, another size, a mask of another kind, or one that draws nothing.
    """
    if (image is None) != (mask is None):
        raise UserError("In-painting needs both image and mask: what to keep a part of, and where to draw anew.")
    if image is None:
        return None
    pixels = _pixels(image, (grid.rows * tokenizer.config.stride, grid.cols * tokenizer.config.stride))
    drawn = _drawn(mask, grid, tokenizer.config.stride)
    codes = tokenizer.encode(pixels[None])[0]
    return np.where(drawn, -1, codes).astype(np.int32).reshape(-1)


def _pixels(image: object, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3], what is transparent on white."""
    if isinstance(image, Image.Image):
        if image.size != size[::-1]:
            raise UserError(f"The image is {image.height} x {image.width} pixels, but {size[0]} x {size[1]} are drawn.")
        if image.mode not in MODES:
            raise UserError(f"The image has the mode {image.mode}; convert it to RGB, of 8 bits, first.")
        image = image.convert("RGBA")
        image = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.shape != (*size, 3):
        raise UserError(f"The image must be uint8 [{size[0]}, {size[1]}, 3], not {image.dtype} {list(image.shape)}.")
    return image


def _drawn(mask: object, grid: Grid, stride: int) -> np.ndarray:
    """bool [R, C]: which tokens are drawn."""
    if isinstance(mask, Image.Image):
        if mask.mode not in MODES - {"LA", "PA", "RGBA"} or "transparency" in mask.info:
            raise UserError("The mask must be an image of 8 bits without transparency, black where nothing is drawn.")
        mask = np.asarray(mask.convert("RGB")).any(axis=-1)
    mask, shape = np.asarray(mask), (grid.rows, grid.cols)
    by_pixels = (grid.rows * stride, grid.cols * stride)
    if mask.dtype != bool or mask.shape not in (shape, by_pixels):
        raise UserError(
            f"The mask must be bool [{shape[0]}, {shape[1]}], or [{by_pixels[0]}, {by_pixels[1]}] by pixels, "
            f"not {mask.dtype} {list(mask.shape)}."
        )
    if mask.shape != shape:
        mask = mask.reshape(grid.rows, stride, grid.cols, stride).any(axis=(1, 3))
    if not mask.any():
        raise UserError("The mask draws nothing: it is False, or black, everywhere.")
    return mask
