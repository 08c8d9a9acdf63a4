"""The flags of sample.py that give a part of the image."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssd_jax.backbones.prompting import grid_of
from ssd_jax.errors import UserError
from ssd_jax.files import require_file
from ssd_jax.pipeline.pipeline import Pipeline

FORMATS = ("PNG", "JPEG", "WEBP")


def add_inpainting(parser: argparse.ArgumentParser) -> None:
    """--image, and --mask or --keep_rows."""
    add = parser.add_argument
    add("--image", type=Path, metavar="FILE", help="an image to draw a part of anew, of the size that is drawn")
    add("--mask", type=Path, metavar="FILE", help="where: an image as large, not black where to draw anew")
    add("--keep_rows", type=int, metavar="N", help="or keep its upper N rows of tokens, and continue them")


def require_usable(args: argparse.Namespace) -> None:
    """Raises `UserError` for flags that do not go together."""
    if args.image is None:
        if args.mask is not None or args.keep_rows is not None:
            raise UserError("--mask and --keep_rows say what to keep of an image; give it with --image.")
    elif (args.mask is None) == (args.keep_rows is None):
        raise UserError("--image needs either --mask or --keep_rows, which say where to draw anew.")
    elif any(path is not None and path.resolve().parent == args.out.resolve() for path in (args.image, args.mask)):
        raise UserError(f"--image or --mask lies in {args.out}, whose files are replaced; choose another --out.")
    elif args.compare is not None or args.plan:
        raise UserError("--image does not go together with --compare or --plan.")


def given_part(args: argparse.Namespace, pipe: Pipeline) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `Pipeline.generate`, and what to record of them, JSON; both empty without --image.

    Raises `UserError` for files that cannot be read, or of another size than is drawn.
    """
    if args.image is None:
        return {}, {}
    grid, stride = grid_of(pipe.config, args.size, pipe.vq_config.stride), pipe.vq_config.stride
    size = (grid.cols * stride, grid.rows * stride)
    image, record = _read(args.image, size)
    if args.keep_rows is not None:
        if not 1 <= args.keep_rows < grid.rows:
            raise UserError(f"--keep_rows must be from 1 to {grid.rows - 1}, not {args.keep_rows}.")
        mask = np.broadcast_to(np.arange(grid.rows)[:, None] >= args.keep_rows, (grid.rows, grid.cols))
        return {"image": image, "mask": mask}, {"image": record, "keep_rows": args.keep_rows}
    mask, mask_record = _read(args.mask, size)
    return {"image": image, "mask": mask}, {"image": record, "mask": mask_record}


def _read(path: Path, size: tuple[int, int]) -> tuple[Image.Image, dict[str, str]]:
    """An image of (width, height), read only if it has that size; and its name and hash."""
    require_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            found = image.size
            if found == size:
                image.load()
                return image.copy(), {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
        raise UserError(f"{path} cannot be read: {why}.") from None
    raise UserError(f"{path} has {found[1]} x {found[0]} pixels, but {size[1]} x {size[0]} are drawn.")
