"""GenEval (arXiv 2310.11513): a folder for each line of its metadata, with four images, each scored by itself."""

import json
import shlex
from pathlib import Path

import numpy as np

from ssd_jax.errors import UserError, shown
from ssd_jax.eval.benchmarks.base import SAMPLES, Item
from ssd_jax.files import parse_json, read_text
from ssd_jax.pipeline.request import require_prompt

NEEDED = ("tag", "prompt")
"""Keys of every line without which the scorer stops."""

CLASSES = ("include", "exclude")
"""Keys under which the scorer finds lists of objects, if they are there."""


class GenEval:
    """IMAGES/00000/metadata.jsonl is the first line of the prompts file, IMAGES/00000/samples/0000.png to 0003.png
    are its images, and so on."""

    def read(self, path: Path) -> list[Item]:
        """From JSON lines, such as the official evaluation_metadata.jsonl; empty lines at the end are left out."""
        lines = read_text(path, f"The prompts file {path}").rstrip().split("\n")
        if lines == [""]:
            raise UserError(f"The prompts file {path} has no prompts in it.")
        return [_item(number, line.strip(), f"Line {number + 1} of {path}") for number, line in enumerate(lines)]

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of an image; any will do."""
        return height, width

    def lay_out(self, images: np.ndarray) -> list[np.ndarray]:
        """A file for each image."""
        return list(images)

    def commands(self, images: Path, height: int) -> list[str]:
        """The detector's folder is where GenEval's download_models.sh put it."""
        del height
        folder, results = (shlex.quote(str(path)) for path in (images, images.with_name("results.jsonl")))
        return [
            f"python evaluation/evaluate_images.py {folder} --outfile {results} --model-path DETECTOR_FOLDER",
            f"python evaluation/summary_scores.py {results}",
        ]


def _item(number: int, line: str, name: str) -> Item:
    """The item of a line, which messages call `name`."""
    try:
        found = parse_json(line)
    except ValueError as error:
        raise UserError(f"{name} is no JSON object: {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{name} is no JSON object: {shown(line)}.")
    for key in NEEDED:
        if not isinstance(found.get(key), str) or not found[key].strip():
            raise UserError(f"{name} has no text under {json.dumps(key)}, which the scorer needs.")
    for key in CLASSES:
        objects = found.get(key, [])
        if not isinstance(objects, list) or not all(_is_object(entry) for entry in objects):
            raise UserError(f'{name} must have a list of objects with "class" and "count" under {json.dumps(key)}.')
    folder = f"{number:05d}"
    images = tuple(f"{folder}/samples/{sample:04d}.png" for sample in range(SAMPLES))
    prompt = require_prompt(found["prompt"], f"The prompt in line {number + 1}")
    return Item(folder, prompt, {f"{folder}/metadata.jsonl": line + "\n"}, images)


def _is_object(entry: object) -> bool:
    """Whether an entry says what the scorer looks for, and how often."""
    return isinstance(entry, dict) and isinstance(entry.get("class"), str) and type(entry.get("count")) is int
