"""The recipe of a benchmark's images: all that they depend on."""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_jax.cli import entry
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import widest
from ssd_jax.eval.benchmarks.base import SAMPLES, Item
from ssd_jax.eval.benchmarks.seeds import RULE, seed_of
from ssd_jax.pipeline.opening import is_random
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.sequence.layout import Grid
from ssd_jax.weights.heads_file import heads_file
from ssd_jax.weights.hub import find_local
from ssd_jax.weights.load import fingerprint


def recipe_of(
    args: argparse.Namespace,
    options: dict[str, Any],
    decoder: Decoder,
    pipe: Pipeline,
    grid: Grid,
    items: Sequence[Item],
) -> dict[str, Any]:
    """The recipe, JSON. It leaves out what images do not depend on: shards, batches, and where files lie.

    Args:
        args: the command line.
        options: of `Pipeline.generate`, without the batch.
        decoder: what --decoder means.
        pipe: the model.
        grid: of an image's tokens.
        items: all prompts of the benchmark.
    """
    return {
        "benchmark": args.benchmark,
        "config": f"{entry.find_config(args.config).stem}{''.join(args.config.partition(':')[1:])}",
        "decoder": str(decoder),
        "window": widest(decoder.stretches(grid, pipe.head_counts[0])),
        "seed": args.seed,
        **options,
        "mesh": args.mesh,
        **pipe.made_with(),
        "model": fingerprints(pipe, args.heads),
        "seed of an image": RULE,
        "seeds": [[seed_of(args.seed, number, sample) for sample in range(SAMPLES)] for number in range(len(items))],
        "prompts": [{"place": item.place, "prompt": item.prompt, "texts": item.texts} for item in items],
    }


def fingerprints(pipe: Pipeline, heads: str | None) -> dict[str, str | None]:
    """What identifies the weights of backbone, draft heads and image tokenizer; `heads` is the flag's text."""
    found: dict[str, str | None] = dict(backbone=pipe.fingerprint(), heads=None, tokenizer=None)
    if is_random(pipe):
        return found
    if pipe.heads is not None:
        with heads_file(pipe.folder if heads is None else Path(find_local(heads))).open("rb") as file:
            found["heads"] = hashlib.file_digest(file, "sha256").hexdigest()
    found["tokenizer"] = fingerprint(pipe.origin.vq_path(pipe.config))
    return found
