"""What a benchmark is to those who draw for it: its prompts, and the files that its scorer reads."""

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np

SAMPLES = 4
"""Images of every prompt, in both benchmarks."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A prompt and what becomes of its images.

    Attributes:
        place: what is put among the images for it, a file or a folder; a name without a slash.
        prompt: what to draw.
        texts: files without images that belong to it, path below the images -> content.
        images: its files with images, paths below the images.
    """

    place: str
    prompt: str
    texts: dict[str, str]
    images: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All of its files."""
        return (*self.texts, *self.images)


class Benchmark(Protocol):
    """How prompts are read, and images laid out for a scorer."""

    def read(self, path: Path) -> list[Item]:
        """The prompts, in the order in which images are numbered; raises `UserError` if they cannot be used."""
        ...

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a file with images of that size, all in pixels; raises `UserError` for a size that
        cannot be scored."""
        ...

    def lay_out(self, images: np.ndarray) -> list[np.ndarray]:
        """What is in the files with images of an item, from its images uint8 [SAMPLES, H, W, 3]."""
        ...

    def commands(self, images: Path, height: int) -> list[str]:
        """What to run next in a checkout of the scorer: lines for a shell.

        Args:
            images: the folder that is scored; results go beside it.
            height: of an image that was drawn, in pixels.
        """
        ...
