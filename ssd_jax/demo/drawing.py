"""Draws an image for the page: previews while it is drawn, then how it came about. Knows nothing of gradio."""

import contextlib
import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.backbones.prompting import doubts, grid_of
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import total
from ssd_jax.decode.names import parse_decoder
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import Output, require_prompt
from ssd_jax.viz import frames, heat_map, write_gif

PAUSE = 0.5
"""Least seconds between previews: their pixels take the time of a few passes."""

PREVIEWS = 16
"""About how often a drawing looks whether a preview is due."""

SHOWN = 256
"""Least height in which images are shown, in pixels; smaller ones are enlarged by a whole factor."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the page asks for.

    Attributes:
        prompt: the text.
        decoder: a decoder, as on a command line.
        options: further options of `Pipeline.generate`, JSON.
    """

    prompt: str
    decoder: str
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows.

    Attributes:
        status: a sentence.
        image: the image so far, uint8 [H, W, 3].
        animation: a GIF file of how it came about.
        passes: a map of the pass in which each token became final, uint8 [H, W, 3].
        files: the image, and how it was made, to keep.
    """

    status: str
    image: np.ndarray | None = None
    animation: str | None = None
    passes: np.ndarray | None = None
    files: list[str] | None = None


def draw(pipe: Pipeline, wish: Wish, folder: Path) -> Iterator[Shown]:
    """Draws an image; files are written to a new folder in `folder`. Raises `UserError` as `Pipeline.generate` does."""
    decoder, remarks = parse_decoder(wish.decoder), doubts(pipe.prompts, [require_prompt(wish.prompt)])
    grid = grid_of(pipe.config, wish.options.get("size"), pipe.vq_config.stride)
    every = max(1, int(total(decoder.stretches(grid, pipe.head_counts[0]))) // PREVIEWS)
    yield Shown(f"{wish.decoder}: drawing; the first image of a kind is compiled first.")
    with contextlib.closing(pipe.stream([wish.prompt], decoder=decoder, every=every, **wish.options)) as stream:
        last = time.monotonic()
        for preview in stream:
            if time.monotonic() - last >= PAUSE:
                yield Shown(
                    f"{wish.decoder}: {preview.passes} passes, {preview.share:.0%} of the tokens are final.",
                    enlarged(preview.images()[0]),
                )
                last = time.monotonic()
        assert stream.output is not None
        yield _finished(pipe, wish, decoder, stream.output, remarks, folder)


def _finished(pipe: Pipeline, wish: Wish, decoder: Decoder, out: Output, remarks: list[str], folder: Path) -> Shown:
    """The image, and the files about it."""
    image, trace = np.asarray(out.images[0]), out.trace[0]
    name = re.sub(r"[^a-z0-9]+", "-", wish.prompt.lower()).strip("-")[:40] or "image"
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{name}-{out.seeds[0]}"
    picture, record, animation = (path.with_name(f"{path.name}{end}") for end in (".png", ".json", ".gif"))
    out.images[0].save(picture)
    made = {"prompt": wish.prompt, "decoder": wish.decoder, **wish.options, **pipe.made_with()}
    made |= {"passes": int(out.passes[0]), "seconds": out.seconds, "compile_seconds": out.compile_seconds}
    record.write_text(json.dumps(made, indent=2), encoding="utf-8")
    write_gif(animation, [enlarged(frame) for frame in frames(image, trace)[0]])
    status = f"**{wish.decoder}**: {out.passes[0]} passes for {trace.size} tokens, {out.seconds:.2f} seconds"
    if out.compile_seconds:
        status += f", after {out.compile_seconds:.1f} seconds of compiling"
    law = "The distribution of its images is the model's own." if decoder.lossless else "It is not lossless."
    return Shown(
        "  \n".join([f"{status}.", law, *(f"Note: {remark}." for remark in remarks)]),
        enlarged(image),
        str(animation),
        heat_map(trace),
        [str(picture), str(record)],
    )


def enlarged(image: np.ndarray) -> np.ndarray:
    """An image of at least `SHOWN` pixels of height, without blur."""
    factor = -(-SHOWN // image.shape[0])
    return image.repeat(factor, axis=0).repeat(factor, axis=1)
