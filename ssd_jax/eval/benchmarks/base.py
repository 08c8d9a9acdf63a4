"""What a benchmark is to those who draw for it: its prompts, and the files that its scorer reads."""

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np

SAMPLES = 4
"""Pictures of every prompt, in both benchmarks."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A prompt and what becomes of its pictures.

    Attributes:
        place: what is put among the pictures for it, a file or a folder; a name without a slash.
        prompt: what to draw.
        texts: files without pictures that belong to it, path below the pictures -> content.
        pictures: its files with pictures, paths below the pictures.
    """

    place: str
    prompt: str
    texts: dict[str, str]
    pictures: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All of its files."""
        return (*self.texts, *self.pictures)


class Benchmark(Protocol):
    """How prompts are read, and pictures laid out for a scorer."""

    def read(self, path: Path) -> list[Item]:
        """The prompts, in the order in which pictures are numbered; raises `UserError` if they cannot be used."""
        ...

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a file with pictures of that size, all in pixels; raises `UserError` for a size that
        cannot be scored."""
        ...

    def lay_out(self, images: np.ndarray) -> list[np.ndarray]:
        """What is in the files with pictures of an item, from its pictures uint8 [SAMPLES, H, W, 3]."""
        ...

    def commands(self, pictures: Path, height: int) -> list[str]:
        """What to run next in a checkout of the scorer: lines for a shell.

        Args:
            pictures: the folder that is scored; results go beside it.
            height: of a picture that was drawn, in pixels.
        """
        ...
