"""The recipe of a benchmark's images: all that they depend on."""

import argparse
from collections.abc import Sequence
from typing import Any

from ssd_jax.cli import entry
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import widest
from ssd_jax.eval.benchmarks.base import SAMPLES, Item
from ssd_jax.eval.benchmarks.seeds import RULE, seed_of
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.sequence.layout import Grid


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
        "model": {**pipe.fingerprints},
        "seed of an image": RULE,
        "seeds": [[seed_of(args.seed, number, sample) for sample in range(SAMPLES)] for number in range(len(items))],
        "prompts": [{"place": item.place, "prompt": item.prompt, "texts": item.texts} for item in items],
    }
