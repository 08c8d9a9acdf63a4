"""Writes the files of a run of sample.py."""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ssd_jax.decode.cost import widest
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import Output
from ssd_jax.results import Results, replacing_results
from ssd_jax.sequence.layout import Grid
from ssd_jax.viz import columns_for, frames, grid, heat_map, write_gif


def add_traces(results: Results, folder: Path, prefix: str, out: Output, prompt: int = 0) -> list[str]:
    """Adds, per image, a map of the pass in which each token became final, and an animation of it; returns lines that
    describe them."""
    lines = []
    for index, image in enumerate(out.images, start=prompt * len(out.images)):
        trace = out.trace[index - prompt * len(out.images)]
        name = f"{prefix}{index:03d}"
        Image.fromarray(heat_map(trace)).save(results.add(f"{name}-trace.png"))
        write_gif(results.add(f"{name}.gif"), frames(np.asarray(image), trace)[0])
        lines.append(f"{folder / name}-trace.png and {name}.gif show in which pass its tokens became final.")
    return lines


def save(args: argparse.Namespace, options: dict, decoder, pipe: Pipeline, out: Output) -> None:
    """Writes the images, the grid and a record to reproduce them; prints a line for each."""
    records, lines = [], []
    with replacing_results(args.out, "images.json") as results:
        for index, image in enumerate(out.images):
            name = f"{index:03d}.png"
            image.save(results.add(name))
            records.append(
                {
                    "file": name,
                    "prompt": out.prompts[index],
                    "seed": out.seeds[index],
                    "number": out.numbers[index],
                    "passes": int(out.passes[index]),
                }
            )
            lines.append(
                f"{args.out / name}  {out.passes[index]} passes  {out.seconds / len(out.images):.2f} s  "
                f"(compiled in {out.compile_seconds:.1f} s)  {out.prompts[index]}"
            )
        pixels = [np.asarray(image) for image in out.images]
        Image.fromarray(grid(pixels, columns_for(len(pixels)), out.prompts)).save(results.add("grid.png"))
        lines.append(f"{args.out / 'grid.png'} shows all of them; {args.out / 'images.json'} tells how they were made.")
        if args.trace:
            lines += add_traces(results, args.out, "", out)
        results.record = {
            "options": options,
            "window": widest(decoder.stretches(Grid(*out.tokens.shape[1:]), pipe.head_counts[0])),
            **pipe.made_with(),
            "seconds": out.seconds,
            "compile_seconds": out.compile_seconds,
            "images": records,
        }
    tell(args.out, results, lines)


def tell(folder: Path, results: Results, lines: list[str]) -> None:
    """Prints what happened to an earlier run's files, then the lines about the new ones."""
    for path in results.unread:
        print(f"warning: {path} was no list of an earlier run's files; none was removed for it", file=sys.stderr)
    if results.removed:
        print(f"Removed {results.removed} file{'s' * (results.removed > 1)} of an earlier run from {folder}.")
    print("\n".join(lines))
