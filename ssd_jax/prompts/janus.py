"""Janus-Pro's prompts and its one size (deepseek-ai/Janus, `generation_inference.py`).

    BOS "<|User|>: text\\n\\n<|Assistant|>:" BOI | ROWS * COLS codes

It is published without negative prompts. That one takes a whole frame is decided here, after Emu3's example; nothing
tells how well the model can be led away from it.
"""

from typing import ClassVar

from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import ModelConfig
from ssd_jax.prompts.published import Published
from ssd_jax.prompts.sizes import is_ratio, parse_size

TEMPLATE, EMPTY = "<|User|>: {}\n\n<|Assistant|>:", "<|User|>:<|Assistant|>:{}"
"""A text's turn in the conversation, and that of an empty one, which is written without its separators."""


class JanusPrompts(Published):
    """Frames of Janus-Pro. The unconditional frame is as long as the prompt's, with padding that is attended to."""

    NAMES: ClassVar = {
        "bos": "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        "pad": "<\uff5c\u2581pad\u2581\uff5c>",
        "boi": "<begin_of_image>",
    }

    def frame(self, text: str) -> list[int]:
        """`BOS "<|User|>: text\\n\\n<|Assistant|>:" BOI`."""
        text = text.strip()
        return [self.id("bos"), *self.text(text, TEMPLATE if text else EMPTY), self.id("boi")]

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The prompt's frame and the same with all ids but the first and the last replaced by padding, or, given a
        negative prompt, its frame."""
        del grid  # is always the same
        frame = self.frame(text)
        if negative is not None:
            return frame, self.frame(negative)
        return frame, [frame[0], *[self.id("pad")] * (len(frame) - 2), frame[-1]]

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The model's own grid; raises `UserError` for another size."""
        own = Grid(config.rows, config.cols)
        if is_ratio(size) or parse_size(size) != (own.rows * stride, own.cols * stride):
            raise UserError(
                f"Janus-Pro draws pictures of {own.rows * stride}x{own.cols * stride} pixels only, not {size}."
            )
        return own
