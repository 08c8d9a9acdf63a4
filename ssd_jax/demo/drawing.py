"""Draws an image for the page: previews while it is drawn, then how it came about. Knows nothing of gradio."""

import dataclasses
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssd_jax.backbones.prompting import doubts
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.names import parse_decoder
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import Output, require_prompt
from ssd_jax.viz import enlarged, frames, heat_map, write_gif

PAUSE = 0.5
"""Least seconds between previews: their pixels take the time of a few passes."""

LARGE = 10**8
"""From so many parameters on, every pass looks whether a preview is due; of a smaller model, that would take a good
part of its time."""

SHOWN = 256
"""Least height in which images are shown, in pixels; smaller ones are enlarged by a whole factor."""

KEPT = 3600
"""Seconds that files are kept."""


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


@dataclasses.dataclass(frozen=True, eq=False)
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


def require(pipe: Pipeline, wish: Wish) -> Decoder:
    """The decoder of a wish; raises `UserError` for what can be refused before anything is drawn."""
    require_prompt(wish.prompt)
    decoder = parse_decoder(wish.decoder)
    pipe.require(decoder, wish.options.get("size"))
    return decoder


def draw(pipe: Pipeline, wish: Wish, folder: Path) -> Iterator[Shown]:
    """Draws an image; files are written to a new folder in `folder`. Raises `UserError` as `Pipeline.generate` does."""
    decoder, prompts = require(pipe, wish), [wish.prompt, wish.options.get("negative_prompt") or ""]
    remarks = doubts(pipe.prompts, prompts)
    every = 1 if sum(leaf.size for leaf in jax.tree.leaves(pipe.params)) >= LARGE else 16
    yield Shown(f"{wish.decoder}: drawing; the first image of a kind is compiled first.")
    with pipe.stream([wish.prompt], decoder=decoder, every=every, **wish.options) as stream:
        last = time.monotonic()
        for preview in stream:
            if preview.share < 1 and time.monotonic() - last >= PAUSE:
                yield Shown(
                    f"{wish.decoder}: {preview.passes} passes, {preview.share:.0%} of the tokens are final.",
                    _large(preview.images()[0]),
                )
                last = time.monotonic()
    assert stream.output is not None
    yield _finished(pipe, wish, decoder, stream.output, remarks, folder)


def _finished(pipe: Pipeline, wish: Wish, decoder: Decoder, out: Output, remarks: list[str], folder: Path) -> Shown:
    """The image, and the files about it."""
    image, trace = np.asarray(out.images[0]), out.trace[0]
    name = re.sub(r"[^a-z0-9]+", "-", wish.prompt.lower())[:40].strip("-") or "image"
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > KEPT:
            shutil.rmtree(old, ignore_errors=True)
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{name}-{out.seeds[0]}"
    picture, record, animation = (path.with_name(f"{path.name}{end}") for end in (".png", ".json", ".gif"))
    out.images[0].save(picture)
    made = {"prompt": wish.prompt, "decoder": wish.decoder, **wish.options, **pipe.made_with()}
    made |= {"passes": int(out.passes[0]), "seconds": out.seconds, "compile_seconds": out.compile_seconds}
    record.write_text(json.dumps(made, indent=2), encoding="utf-8")
    write_gif(animation, [_large(frame) for frame in frames(image, trace)[0]])
    status = f"**{wish.decoder}**: {out.passes[0]} passes for {trace.size} tokens, {out.seconds:.2f} seconds"
    if out.compile_seconds:
        status += f", after {out.compile_seconds:.1f} seconds of compiling"
    law = "The distribution of its images is the model's own." if decoder.lossless else "It is not lossless."
    return Shown(
        "  \n".join([f"{status}.", law, *(f"Note: {remark}." for remark in remarks)]),
        _large(image),
        str(animation),
        heat_map(trace),
        [str(picture), str(record)],
    )


def _large(image: np.ndarray) -> np.ndarray:
    """The image, at least `SHOWN` pixels high."""
    return enlarged(image, -(-SHOWN // image.shape[0]))
