"""Draws the images of GenEval or DPG-Bench into a folder that the official scorer reads: python -m
ssd_jax.eval.benchmarks geneval --prompts=evaluation_metadata.jsonl --decoder=ssd --out=outputs/geneval

Started again, also after a kill -9, it goes on where it was. docs/benchmarks.md has the layouts, the seeds and what the
scorers do that one would not think.
"""

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd_jax.backbones.prompting import doubts, grid_of
from ssd_jax.cli import entry
from ssd_jax.cli.benchmark_recipe import recipe_of
from ssd_jax.cli.drawing import add_model, add_sampling, open_pipeline, sampling_of, use_devices
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.names import parse_decoder
from ssd_jax.errors import require_whole
from ssd_jax.eval.benchmarks import BENCHMARKS
from ssd_jax.eval.benchmarks.base import SAMPLES
from ssd_jax.eval.benchmarks.folder import BenchmarkFolder
from ssd_jax.eval.benchmarks.seeds import seed_of
from ssd_jax.eval.benchmarks.shard import Shard
from ssd_jax.files import require_name
from ssd_jax.parallel.processes import is_first, of_first, together
from ssd_jax.pipeline.opening import RANDOM_NOTE, is_random
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import require_prompt, sampler_of
from ssd_jax.sequence.layout import Grid

MOST_WARNINGS = 5
"""Warnings of words that the model does not know; a benchmark has many."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself ends with exit code 2 on a malformed one."""
    title = " ".join(__doc__.partition(":")[0].split()) + "."
    parser = argparse.ArgumentParser(prog="python -m ssd_jax.eval.benchmarks", description=title, allow_abbrev=False)
    parser.add_argument("benchmark", choices=tuple(BENCHMARKS))
    prompts = "geneval: evaluation_metadata.jsonl; dpg: a folder of .txt files"
    parser.add_argument("--prompts", type=Path, required=True, metavar="PATH", help=prompts)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="images go to DIR/images")
    shard = "draw every N-th prompt from the I-th on; 1/N to N/N, started side by side, draw all"
    parser.add_argument("--shard", default="1/1", metavar="I/N", help=shard)
    add_sampling(parser)
    add_model(parser)
    args = parser.parse_args(arguments)
    args.decoder = args.decoder or "ar"
    return args


def main() -> None:
    args = parse(sys.argv[1:])
    benchmark, shard, config = BENCHMARKS[args.benchmark], Shard.parse(args.shard), entry.read_config(args.config)
    decoder = parse_decoder(args.decoder)
    require_whole("seed", args.seed, 0, 2**32 - 1)
    require_prompt(args.negative_prompt or "", "negative_prompt")
    items = benchmark.read(require_name(args.prompts))
    folder = BenchmarkFolder(require_name(args.out), benchmark, items, shard)
    folder.require_ours()
    use_devices(args)
    with contextlib.ExitStack() as held:
        together("benchmark folder", lambda: held.enter_context(folder.held()))  # by one of the processes
        draw(args, config, folder, decoder)


def draw(args: argparse.Namespace, config: Any, folder: BenchmarkFolder, decoder: Decoder) -> None:
    """Loads the model, draws what is missing of this shard, and says what to do next."""
    pipe = open_pipeline(args, config)
    options = sampling_of(args, config, pipe)
    batch = options.pop("max_batch")
    batch = require_whole("max_batch", SAMPLES if batch is None else batch, 1, None)
    grid = require_drawable(pipe, folder, decoder, options)
    height, width = (side * pipe.vq_config.stride for side in (grid.rows, grid.cols))
    size = folder.benchmark.image_size(height, width)
    if is_first():
        tell_doubts(pipe, [*(item.prompt for item in folder.items), args.negative_prompt or ""])
    recipe = recipe_of(args, options, decoder, pipe, grid, folder.items)
    together("recipe", lambda: folder.begin(recipe))
    awaited = np.zeros(len(folder.items), bool)
    if is_first():
        awaited[folder.missing(size)] = True
    missing = np.flatnonzero(of_first(awaited)).tolist()
    passes, seconds, compiling = [], 0.0, 0.0
    own = sum(map(folder.shard.has, range(len(folder.items))))
    at_once = min(max(1, batch // SAMPLES), max(1, len(missing)))
    with tqdm(
        total=own * SAMPLES, initial=(own - len(missing)) * SAMPLES, desc=args.benchmark, unit="image",
        dynamic_ncols=True, disable=not is_first(),
    ) as bar:  # fmt: skip
        for start in range(0, len(missing), at_once):
            numbers = missing[start : start + at_once]
            filled = np.resize(numbers, at_once).tolist()  # a short last part, too, runs the program that there is
            texts = [folder.items[number].prompt for number in filled for _ in range(SAMPLES)]
            seeds = [seed_of(args.seed, number, sample) for number in filled for sample in range(SAMPLES)]
            out = pipe.generate(texts, decoder, seed=seeds, max_batch=batch, pixels=False, **options)
            if not start:
                together("recipe", lambda: folder.begin(recipe))  # another shard may have begun in the same moment
            together("images", functools.partial(put, pipe, folder, numbers, out.tokens))
            passes += out.passes[: SAMPLES * len(numbers)].tolist()
            seconds, compiling = seconds + out.seconds, compiling + out.compile_seconds
            bar.update(SAMPLES * len(numbers))
    if is_first():
        tell(folder, size, height, passes, seconds, compiling)


def require_drawable(pipe: Pipeline, folder: BenchmarkFolder, decoder: Decoder, options: dict[str, Any]) -> Grid:
    """The token grid of an image; raises `UserError` for whatever would stop the run later."""
    size, negative = options["size"], options["negative_prompt"]
    pipe.require(decoder, size)
    grid, stride = grid_of(pipe.config, size, pipe.vq_config.stride), pipe.vq_config.stride
    folder.benchmark.image_size(grid.rows * stride, grid.cols * stride)
    sampler_of(pipe.config, *(options[name] for name in ("cfg_scale", "temperature", "top_k", "top_p")))
    for item in folder.items:
        pipe.prompts.pair(item.prompt, negative, grid)
    pipe.pictures.params  # noqa: B018 - a damaged file is reported before the work, not after it
    return grid


def put(pipe: Pipeline, folder: BenchmarkFolder, numbers: Sequence[int], tokens: np.ndarray) -> None:
    """Puts the images of some prompts in their places; tokens are int32 [SAMPLES * prompts or more, R, C].

    The image tokenizer is always given the images of one prompt: its products are float32, whose bits depend on how
    many go through it together.
    """
    for place, number in enumerate(numbers):
        folder.put(number, pipe.decode(tokens[SAMPLES * place : SAMPLES * (place + 1)]))


def tell_doubts(pipe: Pipeline, texts: list[str]) -> None:
    """Warnings about the weights and the prompts, a few of them."""
    if is_random(pipe):
        print(RANDOM_NOTE)
    sentences = doubts(pipe.prompts, texts)
    for sentence in sentences[:MOST_WARNINGS]:
        print(f"warning: {sentence}", file=sys.stderr)
    if more := sentences[MOST_WARNINGS:]:
        print(f"warning: {len(more)} more like these", file=sys.stderr)


def tell(
    folder: BenchmarkFolder, size: tuple[int, int], height: int, passes: list[int], seconds: float, compiling: float
) -> None:
    """Says what was drawn, what is still missing and how it is scored; the last run clears up behind the others."""
    if passes:
        print(
            f"Drew {len(passes)} images of {len(passes) // SAMPLES} prompts: {np.mean(passes):.1f} passes "
            f"each, {seconds:.1f} s together ({seconds / len(passes):.2f} s each; compiled in {compiling:.1f} s)."
        )
    else:
        print("Drew nothing: all images were there.")
    lacking, prompts = len(folder.missing(size, Shard())), len(folder.items)
    if lacking:
        print(
            f"{folder.images} has {prompts - lacking} of {prompts} prompts; other shards have to draw the rest. The "
            "scorer does not notice what is missing. When all are there, run, in its own checkout:"
        )
    else:
        folder.end()
        print(f"{folder.images} has all {prompts} prompts. To score them run, in the scorer's own checkout:")
    for line in folder.benchmark.commands(folder.images.absolute(), height):
        print(f"  {line}")
