"""Measures decoders in one process: python -m ssd_jax.bench --decoders=ar

For every decoder: verifier passes, seconds per image, seconds per pass, and how much of a pass lies outside the model's
own forward (attention, mlp, output head). Runs of all decoders are interleaved, so that a drifting machine speed
touches them alike.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import ssd_jax.pipeline as pipeline
from ssd_jax import entry
from ssd_jax.decode.engine import bind, make_cache, prefill
from ssd_jax.decode.presets import find_decoder
from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.transformer import Transformer
from ssd_jax.prompts import pad_left
from ssd_jax.sampling import Sampler


@partial(jax.jit, static_argnames=("config", "grid"), donate_argnames="cache")
def forward_only(params: Any, cache: Any, ids: jax.Array, mask: jax.Array, *, config: ModelConfig, grid: Grid) -> Any:
    """The model's share of `ar`: the same prefill and R*C - 1 guided passes with their logits, but nothing is drawn."""
    model = Transformer(config)
    one = jnp.float32(1.0)
    sampler = Sampler(one, one, jnp.int32(config.visual_size), one)
    images = ids.shape[0] // 2
    functions = bind(model, params, mask, jax.random.split(jax.random.key(0), images), sampler, guided=True)
    hidden, cache = prefill(model, params, cache, ids, mask)

    def body(position: jax.Array, state: tuple) -> tuple:
        hidden, cache = state
        logits = model.apply(params, hidden, method="logits")
        # The next input hangs on every logit, so that none of the head's work can be left out.
        token = (jnp.sum(logits, axis=(1, 2))[:images, None] > 1e30).astype(jnp.int32)
        return functions.verify(cache, token, jnp.full((images, 1), position, jnp.int32))

    return jax.lax.fori_loop(0, grid.size - 1, body, (hidden, cache))


def forward_seconds(pipe: pipeline.Pipeline, prompt: str, repeats: int) -> float:
    """Median seconds of `forward_only` at batch 1."""
    config = pipe.config
    grid = Grid(config.rows, config.cols)
    ids, mask = pad_left([pipe.prompts.frame(prompt), pipe.prompts.frame("")], config.pad_id)
    taken = []
    for _ in range(repeats + 1):
        cache = make_cache(config, find_decoder("ar"), grid, 2, ids.shape[1], cache_dtype(pipe))
        start = time.perf_counter()
        jax.block_until_ready(forward_only(pipe.params, cache, ids, mask, config=config, grid=grid))
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])  # the first one compiled


def cache_dtype(pipe: pipeline.Pipeline) -> Any:
    """The dtype that the pipeline computes in."""
    return jax.tree.leaves(pipe.params)[0].dtype


def measure(pipe: pipeline.Pipeline, decoders: list[str], prompts: list[str], seeds: int, repeats: int) -> list[dict]:
    """One row of numbers per decoder, batch 1; every (prompt, seed) is decoded `repeats` times by each."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    passes: dict[str, list[int]] = {name: [] for name in decoders}
    jobs = [(text, seed) for _ in range(repeats) for text in prompts for seed in range(seeds)]
    for name in decoders:  # compile before anything is timed
        pipe.generate(prompts[:1], decoder=name)
    for text, seed in tqdm(jobs, desc="bench", unit="image", dynamic_ncols=True):
        for name in decoders:
            out = pipe.generate([text], decoder=name, seed=seed)
            seconds[name].append(out.seconds)
            passes[name].append(int(out.passes[0]))
    forward = forward_seconds(pipe, prompts[0], max(3, repeats))
    rows = []
    for name in decoders:
        median, mean_passes = statistics.median(seconds[name]), float(np.mean(passes[name]))
        row = {
            "decoder": name,
            "passes": mean_passes,
            "seconds per image": median,
            "spread": (min(seconds[name]), max(seconds[name])),
            "ms per pass": 1e3 * median / mean_passes,
        }
        if name == "ar":
            row["outside forward"] = 1.0 - forward / median
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as a markdown table."""
    lines = [
        "| decoder | passes | seconds per image (median, min..max) | ms per pass | outside the model's forward |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["spread"]
        outside = f"{100 * row['outside forward']:.1f} %" if "outside forward" in row else "-"
        lines.append(
            f"| {row['decoder']} | {row['passes']:.1f} | {row['seconds per image']:.3f} ({low:.3f}..{high:.3f}) "
            f"| {row['ms per pass']:.3f} | {outside} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--decoders", default="ar", metavar="NAMES", help="comma-separated presets (default ar)")
    parser.add_argument("--weights", default="emoji", metavar="DIR", help="checkpoint (default: the bundled one)")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="may be given several times")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds per prompt (default 3)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed runs of each image (default 3)")
    args = parser.parse_args(sys.argv[1:])
    if args.seeds < 1 or args.repeats < 1:
        raise UserError("--seeds and --repeats must be at least 1.")
    names = [name.strip() for name in args.decoders.split(",")]
    for name in names:
        find_decoder(name)
    pipe = pipeline.load(args.weights)
    prompts = args.prompt or ["red apple", "grinning face"]
    rows = measure(pipe, names, prompts, args.seeds, args.repeats)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {cache_dtype(pipe)}, batch 1, guided")
    print(table(rows))


if __name__ == "__main__":
    entry.run(main)
