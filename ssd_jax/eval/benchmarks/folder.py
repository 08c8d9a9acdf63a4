"""The folder of a benchmark run: the images, and beside them the recipe and what is not finished yet."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssd_jax.errors import UserError, shown
from ssd_jax.eval.benchmarks.base import Benchmark, Item
from ssd_jax.eval.benchmarks.shard import Shard
from ssd_jax.files import LEFTOVER, check_origin, remove_leftovers
from ssd_jax.lock import NAME as LOCK
from ssd_jax.lock import locked

IMAGES, RECIPE, UNFINISHED = "images", "recipe.json", "unfinished"


class BenchmarkFolder:
    """OUT/images is what the scorer reads and has nothing else in it; OUT/recipe.json says how its images are made;
    OUT/unfinished has a folder for each shard that is at work, where the files of a prompt are written before they are
    moved among the images in one step.

    So a killed run leaves whole prompts, and what it was writing in OUT/unfinished.

    Args:
        out: the folder.
        benchmark: whose.
        items: all prompts, also those of other shards.
        shard: what this run draws.
    """

    def __init__(self, out: Path, benchmark: Benchmark, items: Sequence[Item], shard: Shard):
        self.out, self.benchmark, self.items, self.shard = out, benchmark, items, shard
        self.images = out / IMAGES
        self._own = out / UNFINISHED / str(shard)

    def require_ours(self) -> None:
        """Raises `UserError` if there is something that no run has begun."""
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out must be a folder, and {self.out} is a file.")
        names = {path.name for path in self.out.iterdir()} if self.out.exists() else set()
        foreign = sorted(name for name in names - {UNFINISHED, RECIPE} if not LEFTOVER.fullmatch(name))
        if foreign and not (self.out / RECIPE).exists():  # asked last: another shard may just have begun
            raise UserError(
                f"The folder {self.out} has {shown(foreign[0])} in it and no {RECIPE}, so no benchmark was begun "
                "there; choose another --out."
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs of the same shard out, and removes what a killed one had not finished; see `lock.locked`."""
        try:
            with locked(self._own):
                for path in self._own.iterdir():
                    if path.name != LOCK:
                        _remove(path)
                yield
        finally:
            for path in (self._own, self._own.parent):  # a killed run had made them
                with contextlib.suppress(OSError):  # they are gone, or not empty: others are at work
                    path.rmdir()

    def begin(self, recipe: dict[str, Any]) -> None:
        """Writes the recipe (JSON), or raises `UserError` if the folder began with another, or there are files among
        the images that the scorer would take for some."""
        check_origin(self.out / RECIPE, recipe, "images", "--out")
        files = {name for item in self.items for name in item.files}
        folders = {parent.as_posix() for name in files for parent in Path(name).parents}
        for path in sorted(self.images.rglob("*")):
            known = folders if path.is_dir() and not path.is_symlink() else files
            if (name := path.relative_to(self.images).as_posix()) not in known:
                raise UserError(f"{self.images} has {shown(name)} in it, which is none of its images: move it away.")

    def missing(self, size: tuple[int, int], shard: Shard | None = None) -> list[int]:
        """Numbers of the prompts whose files are not all there.

        Args:
            size: (height, width) of a file with images, in pixels.
            shard: whose prompts; None is this run's.
        """
        shard = shard or self.shard
        return [
            number
            for number, item in enumerate(self.items)
            if shard.has(number) and not (self._has_texts(item) and self._has_images(item, size))
        ]

    def put(self, number: int, images: np.ndarray) -> None:
        """Puts the files of a prompt in their place, all at once; raises `UserError` if they cannot be written.

        Args:
            number: of the prompt.
            images: its images, uint8 [SAMPLES, H, W, 3].
        """
        item = self.items[number]
        try:
            for name, text in item.texts.items():
                self._unfinished(name).write_text(text, encoding="utf-8", newline="")
            for name, image in zip(item.images, self.benchmark.lay_out(images), strict=True):
                Image.fromarray(image).save(self._unfinished(name))
            self.images.mkdir(exist_ok=True)
            target = self.images / item.place
            if target.is_dir():  # some of its files are missing
                os.replace(target, self._own / "removed")
            os.replace(self._own / item.place, target)
            _remove(self._own / "removed")
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"The images of {item.place} cannot be written to {self.out}: {why}.") from None

    def end(self) -> None:
        """Removes what killed runs of other shards had not finished. For a folder in which nothing is missing."""
        for path in (self.out / UNFINISHED).glob("*"):
            if path != self._own:
                shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # another shard has just ended, and does the same
            remove_leftovers(self.out)

    def _unfinished(self, name: str) -> Path:
        """Where to write a file."""
        path = self._own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _has_texts(self, item: Item) -> bool:
        try:
            return all((self.images / name).read_bytes() == text.encode() for name, text in item.texts.items())
        except OSError:
            return False

    def _has_images(self, item: Item, size: tuple[int, int]) -> bool:
        """By their headers: what the system had not written when the power failed has none."""
        try:
            for name in item.images:
                with Image.open(self.images / name) as image:
                    if (image.format, image.height, image.width) != ("PNG", *size):
                        return False
        except OSError:
            return False
        return True


def _remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
