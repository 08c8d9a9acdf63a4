"""DPG-Bench (arXiv 2403.05135): a file for each prompt, four square images edge to edge."""

import shlex
from pathlib import Path

import numpy as np

from ssd_jax.errors import UserError, require_text
from ssd_jax.eval.benchmarks.base import SAMPLES, Item
from ssd_jax.files import read_text
from ssd_jax.pipeline.request import require_prompt

SUFFIX = ".txt"


class DPG:
    """IMAGES/STEM.png is for STEM.txt of the prompts' folder: the first two images above the other two."""

    def read(self, path: Path) -> list[Item]:
        """From a folder of .txt files, such as the official dpg_bench/prompts, sorted by name; others are ignored."""
        if path.is_file():
            raise UserError(f"The prompts of DPG-Bench are a folder of {SUFFIX} files, and {path} is a file.")
        try:
            found = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        except OSError as error:
            raise UserError(f"The folder of prompts {path} cannot be read: {error.strerror}.") from None
        found = sorted(entry for entry in found if entry.suffix.lower() == SUFFIX)
        if not found:
            raise UserError(f"The folder of prompts {path} has no {SUFFIX} files in it.")
        seen: dict[str, Path] = {}
        for entry in found:
            stem = require_text("The name of a prompt's file", entry.stem)
            if "." in stem:
                raise UserError(
                    f"{entry} cannot be scored: the scorer knows a prompt by its file's name up to the first dot."
                )
            other = seen.setdefault(stem.casefold(), entry)  # on some systems a.png and A.png are one file
            if other is not entry:
                raise UserError(f"{other.name} and {entry.name} in {path} would be one image: rename one of them.")
        return [_item(entry) for entry in found]

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """Twice the size of an image, which must be square: the scorer is told one side."""
        if height != width:
            raise UserError(f"DPG-Bench is scored on square images, not on {height} x {width}; choose another --size.")
        return 2 * height, 2 * width

    def lay_out(self, images: np.ndarray) -> list[np.ndarray]:
        """One image of all four, without a gap: 0 1 above 2 3."""
        return [np.concatenate([np.concatenate(list(images[at : at + 2]), axis=1) for at in (0, 2)])]

    def commands(self, images: Path, height: int) -> list[str]:
        """What the official dist_eval.sh runs, with results beside the images instead of among them, and with the
        hashes of strings fixed, without which several processes mix up the categories."""
        folder, results = (shlex.quote(str(path)) for path in (images, images.with_name("results.txt")))
        return [
            "PYTHONHASHSEED=0 accelerate launch --num_machines 1 --num_processes 8 --multi_gpu --mixed_precision fp16 "
            f"dpg_bench/compute_dpg_bench.py --image-root-path {folder} --resolution {height} --pic-num {SAMPLES} "
            f"--vqa-model mplug --res-path {results}"
        ]


def _item(path: Path) -> Item:
    """The item of a prompt's file."""
    prompt = require_prompt(read_text(path, f"The prompt {path}").strip(), f"The prompt {path}")
    if not prompt:
        raise UserError(f"The prompt {path} is empty.")
    image = f"{path.stem}.png"
    return Item(image, prompt, {}, (image,))
