"""Lumina-mGPT's prompts and sizes (Alpha-VLLM/Lumina-mGPT, `inference_solver.py`).

    BOS "Generate an image of WIDTHxHEIGHT ..." END | BOI height width (COLS codes, row end) x ROWS

The model would sample BOI and the two size tokens by itself; for a given size they are put there.

It is published without negative prompts. That one takes a whole frame is decided here, after Emu3's example; nothing
tells how well the model can be led away from it.
"""

from typing import ClassVar

from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import ModelConfig
from ssd_jax.prompts.published import Published
from ssd_jax.prompts.sizes import is_ratio, parse_size

REQUEST = "Generate an image of {}x{} according to the following prompt:\n"

PATCH = 2
"""Tokens per side of a patch; sizes are whole numbers of patches, and size tokens count them."""

TOKEN_PIXELS = 16

MAX_ASPECT = 4


class LuminaPrompts(Published):
    """Frames of Lumina-mGPT. The unconditional frame has only the tokens from BOI on."""

    NAMES: ClassVar = {"bos": "<s>", "end": "<reserved08706>", "boi": "<racm3:break>"}

    def frame(self, text: str, grid: Grid) -> list[int]:
        """`BOS request END BOI height width`."""
        request = REQUEST.format(grid.cols * TOKEN_PIXELS, grid.rows * TOKEN_PIXELS)
        return [self.id("bos"), *self.text(text, request + "{}"), self.id("end"), *self.opening(grid)]

    def opening(self, grid: Grid) -> list[int]:
        """`BOI height width`, with which a picture begins."""
        return [self.id("boi"), self._size(grid.rows // PATCH), self._size(grid.cols // PATCH)]

    def _size(self, patches: int) -> int:
        """Id of the token that says how many patches a side has; 24 is `<reserved08824>`."""
        return self.id(f"size_{patches}", f"<reserved{8800 + patches:05d}>")

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The prompt's frame and `BOI height width`, or, given a negative prompt, its frame."""
        return self.frame(text, grid), self.opening(grid) if negative is None else self.frame(negative, grid)

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The grid of a size in whole patches: no more than the model's own has, no side over four times the other."""
        height, width = parse_size(size)
        patch, most = PATCH * stride, config.rows * config.cols // PATCH**2
        fits = not is_ratio(size) and not height % patch and not width % patch
        if fits and height * width <= most * patch**2 and max(height, width) <= MAX_ASPECT * min(height, width):
            return Grid(height // stride, width // stride)
        raise UserError(
            f"Lumina-mGPT draws pictures of HEIGHTxWIDTH in multiples of {patch} pixels, with an area of at most "
            f"{most * patch**2} pixels and no side more than {MAX_ASPECT} times the other, not {size}."
        )
