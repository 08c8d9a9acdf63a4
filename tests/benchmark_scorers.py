"""What the official scorers read of a folder, written from their code, without what they make of the images."""

import json
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image


def geneval(folder: Path) -> list[tuple[str, dict, np.ndarray]]:
    """Of djghosh13/geneval af4902f, evaluation/evaluate_images.py: (path below the folder, metadata, uint8 [H, W, 3]).

    Folders that are no number are skipped without a word, and so are files whose names do not begin like an image's.
    """
    found = []
    for name in os.listdir(folder):
        if not (folder / name).is_dir() or not name.isdigit():
            continue
        with open(folder / name / "metadata.jsonl") as file:
            metadata = json.load(file)  # of two objects it raises
        assert {"tag", "prompt"} <= metadata.keys()
        for image in os.listdir(folder / name / "samples"):
            if (folder / name / "samples" / image).is_file() and re.match(r"\d+\.png", image):
                path = Path(name, "samples", image)
                found.append((path.as_posix(), metadata, pixels(folder / path)))
    return sorted(found, key=lambda entry: entry[0])


def dpg(folder: Path, resolution: int, pic_num: int = 4) -> dict[str, list[np.ndarray]]:
    """Of TencentQQGYLab/ELLA 3c228f1, dpg_bench/compute_dpg_bench.py: key of the questions -> uint8 [R, R, 3] each.

    Every name in the folder is opened; a crop beyond the edge is black, and nobody is told.
    """
    corners = [(0, 0), (resolution, 0), (0, resolution), (resolution, resolution)][:pic_num]
    found = {}
    for name in os.listdir(folder):
        image = Image.open(folder / name)
        crops = [image.crop((x, y, x + resolution, y + resolution)) for x, y in corners]
        found[name.split(".")[0]] = [np.asarray(crop) for crop in crops]
    return found


def pixels(path: Path) -> np.ndarray:
    """An image, uint8 [H, W, 3]."""
    return np.asarray(Image.open(path))
