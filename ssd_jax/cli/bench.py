"""Measures decoders in one process: python -m ssd_jax.bench --decoders=ar,ssd,"SSD(rounds=0)" --metrics=speed,quality

Writes bench.md, bench.json and plots. Speed is measured at batch 1; the model's own guidance is used throughout.
"""

import argparse
import importlib.util
import itertools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssd_jax.bench import accelerator, bench_report, plots
from ssd_jax.bench.baseline import measure_baseline
from ssd_jax.bench.numerics import measure_numerics
from ssd_jax.bench.options import parse
from ssd_jax.bench.painters import chosen
from ssd_jax.bench.pass_pieces import Clock
from ssd_jax.bench.quality import Painter, Task, measure_quality
from ssd_jax.bench.speed import Runs, agreement, measure_speed
from ssd_jax.bench.throughput import estimate_throughput, measure_throughput, require_countable, throughput_table
from ssd_jax.cli import entry
from ssd_jax.decode.ar import AR
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.cost import widest
from ssd_jax.decode.presets import require_heads
from ssd_jax.errors import UserError
from ssd_jax.eval.distances import LEAST
from ssd_jax.eval.features import available
from ssd_jax.eval.gallery import TUNED, Gallery
from ssd_jax.lock import locked
from ssd_jax.models.config import HeadCounts
from ssd_jax.pipeline.loading import find_folder_here, require_options
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.pipeline.opening import RANDOM, RANDOM_NOTE, is_random, open_model, refuse_branch
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.plan.job import job_of
from ssd_jax.plan.this_machine import measure, record
from ssd_jax.sequence.dims import bucket

EXTRA = 'pip install "ssd_jax[eval]"'


def main() -> None:
    args = parse(sys.argv[1:], __doc__.splitlines()[0])
    with locked(args.out):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Runs the measurements of the command line."""
    if args.accelerator:
        specs = [args.config] if args.config else accelerator.MODELS
        print(accelerator.run(entry.read_config, specs, args.passes, args.minutes, args.out))
        return
    args.config = args.config or "configs/emoji.py"
    config = entry.read_config(args.config)
    rows: dict[str, dict[str, Any]] = {}
    curve: dict[int, float] = {}
    notes: list[str] = []
    entry.use_devices(args.mesh)
    require_options(args.attention, args.quantize)
    if args.baseline:  # first, and alone: memory may hold only one model
        rows["transformers"], said = baseline(config, args)
        notes.append(said)

    def load(**options: Any) -> Pipeline:
        common = dict(weights=args.weights, mesh=args.mesh or None, attention=args.attention)
        common |= dict(heads=args.heads, branch=args.branch)
        return open_model(config, args.config, **common | options)

    if args.metrics == ["numerics"]:
        pipe, rows, notes = quality(load, None, {}, config.sample_prompts, args)
    else:
        pipe = load(dtype=None if args.dtype is None else np.dtype(args.dtype), quantize=args.quantize)
        painters = {"ar": (pipe, AR())} | chosen(load, pipe, args)
        if args.against and args.against not in painters:
            raise UserError(f"--against={args.against} is none of the decoders {', '.join(painters)}.")
        decoders = {name: decoder for name, (_, decoder) in painters.items()}
        rows = {name: {} for name in painters} | rows
    if is_random(pipe):
        notes.append(RANDOM_NOTE)
    if "throughput" in args.metrics and not args.passes:
        require_countable(pipe, decoders)
    rates = {}
    if "speed" in args.metrics:
        if not args.mesh:
            rates = record(measure(job_of(pipe)))
        prompts = args.prompt or list(config.sample_prompts[: 1 if is_random(pipe) else 2])
        found, curve, said = speed(pipe, decoders, prompts, args)
        rows = beside({name: row | found.get(name, {}) for name, row in rows.items()})
        notes += said
    if "throughput" in args.metrics:
        given = pipe, decoders, args.prompt or list(config.sample_prompts), args.batches, args.repeats
        found = estimate_throughput(*given, args.passes) if args.passes else measure_throughput(*given)
        for name, row in found.items():
            rows[name]["throughput"] = {size: each._asdict() for size, each in row.items()}
        what = f"at least {args.passes} passes of one batch" if args.passes else f"the same {args.batches[-1]} images"
        notes.append(f"Throughput: {what} in every column.\n\n{throughput_table(found)}\n")
    if "quality" in args.metrics:
        _, found, said = quality(load, pipe, painters, config.sample_prompts, args)
        for name, row in found.items():
            # The passes of the speed measurement, if any, as its seconds are of those.
            rows[name] = {"passes": row["passes"], **rows[name], **{k: v for k, v in row.items() if k != "passes"}}
        notes += said
    setup = {
        "command": shlex.join(["python", "-m", "ssd_jax.bench", *sys.argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "mesh": args.mesh or "one device",
        **pipe.numerics(),
        "guidance": pipe.config.cfg_scale,
        "grid": f"{pipe.config.rows} x {pipe.config.cols}",
        "model": pipe.fingerprint()[:12],
        **rates,
    }
    plotting = importlib.util.find_spec("matplotlib") is not None
    if not plotting:
        notes.append(f"No plots, because matplotlib is not installed ({EXTRA}).")
    bench_report.write(args.out, setup, rows, curve, notes)
    if plotting and curve:
        plots.pass_against_window(curve, args.out / "window.png")
    if plotting and "quality" in args.metrics:
        plots.quality_against_passes(rows, args.out / "quality.png")
    for text in filter(None, [bench_report.table(rows), *notes]):
        print(text)
    print(f"{args.out / 'bench.md'} has this table, {args.out / 'bench.json'} all numbers.")


def baseline(config: Mapping[str, Any], args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The table row of transformers for our model's sizes, and a note; raises `UserError` before any timing."""
    weights = config["weights"] if args.weights in (None, RANDOM) else args.weights
    if weights and find_folder_here(weights) is None:
        raise UserError(f"--baseline needs --weights=random or a folder that is here, not {weights!r}.")
    if args.weights == RANDOM:
        refuse_branch(args.branch)
    backbone, heads, _, branch = find_models(config, args.config, weights, args.heads, args.branch)
    for decoder, _ in args.painters.values() if args.weights == RANDOM else ():
        require_heads(decoder, *HeadCounts.of(heads, branch))
    guidance, prompt = backbone.cfg_scale, bucket(1)
    row = measure_baseline(backbone, prompt, guidance, backbone.top_k, args.repeats, args.passes, args.dtype)
    return row, f"transformers: {row['loop']} Fastest setting: {row['setting']} ({row['versions']})."


def beside(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The table rows with their seconds as shares of transformers', if that was timed."""
    if "transformers" not in rows:
        return rows
    theirs, ours = rows["transformers"]["seconds"], rows["ar"]["seconds"]
    shares = {name: row["seconds"] / theirs for name, row in rows.items() if "seconds" in row}
    more = {name: {"of transformers": share} for name, share in shares.items()}
    more["transformers"]["speedup"] = ours / theirs
    return {name: row | more.get(name, {}) for name, row in rows.items()}


def speed(
    pipe: Pipeline, decoders: dict[str, Decoder], prompts: list[str], args: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], dict[int, float], list[str]]:
    """The speed columns, seconds of a pass by window, and notes."""
    random = is_random(pipe)
    runs = measure_speed(pipe, decoders, prompts, args.seeds, args.repeats, args.passes, counts=not random)
    clock = Clock(pipe, max(3, args.repeats))
    rows = {name: speed_row(runs[name], runs["ar"], clock, decoder) for name, decoder in decoders.items()}
    notes = [f"Speed: {len(prompts)} prompts x {args.seeds} seeds x {args.repeats} runs at batch 1, interleaved."]
    parts = {name: found.extrapolated for name, found in runs.items() if found.extrapolated}
    if parts:
        listed = ", ".join(f"{name} {timed}" for name, timed in parts.items())
        notes.append(f"Of these only some passes were timed, and images extrapolated from them (~): {listed}.")
    unknown = [name for name, found in runs.items() if found.passes is None]
    if unknown:
        why = "of noise the number would mean nothing" if random else "none was drawn whole"
        notes.append(f"How many passes an image takes depends on the image, and {why}: {', '.join(unknown)}.")
    return rows, clock.curve(), notes


def speed_row(runs: Runs, baseline: Runs, clock: Clock, decoder: Decoder) -> dict[str, Any]:
    """The speed columns of one decoder; seconds, and `ar`'s runs as the baseline."""
    known = runs.passes is not None
    parts = clock.split(decoder, float(runs.passes.mean()) if known else None)
    row = {"window": widest(decoder.stretches(clock.grid, clock.horizontal)), "extrapolated": runs.extrapolated}
    if known:
        seconds = float(np.median(runs.seconds))
        row |= {
            "passes": float(runs.passes.mean()),
            "passes range": (int(runs.passes.min()), int(runs.passes.max())),
            "reduction": float(baseline.passes.mean() / runs.passes.mean()),
            "seconds": seconds,
            "seconds range": (float(runs.seconds.min()), float(runs.seconds.max())),
            "speedup": float(np.median(baseline.seconds)) / seconds,
        }
    if runs.seconds_per_pass is not None:
        rest = runs.seconds_per_pass - sum(parts.values())
        row |= {"seconds per pass": runs.seconds_per_pass, **parts, "rest": rest}
    if runs.tokens is not None and baseline.tokens is not None:
        row["equal tokens"], row["equal pictures"] = agreement(runs.tokens, baseline.tokens)
    return row


def quality(
    load: Callable[..., Pipeline],
    pipe: Pipeline | None,
    painters: dict[str, Painter],
    usual: Sequence[str],
    args: argparse.Namespace,
) -> tuple[Pipeline, dict, list[str]]:
    """The quality columns of painters, or, without a model, of numerics; notes say what is left out without the extra
    packages or reference images. `usual` are the prompts if neither the command line nor the data has any."""
    notes = []
    gallery = fresh = None
    if args.data is None:
        notes.append("No retrieval, because --data names no reference images.")
    else:
        gallery = Gallery.read(args.data)
    if args.prompt or gallery is None:
        prompts = list(itertools.islice(itertools.cycle(args.prompt or usual), args.images))
    else:
        prompts = gallery.prompts(args.images)
        fresh = np.arange(args.images) >= TUNED if args.images > TUNED + LEAST else None
    different = len(set(prompts))
    if not available():
        notes.append(f"No KID, FD and retrieval, because the image features are not installed ({EXTRA}).")
    elif different < LEAST:
        notes.append(f"No KID, FD and retrieval, which need {LEAST} prompts at least.")
    task = Task(prompts, args.batch, fresh, gallery, available() and different >= LEAST)
    if pipe is None:
        pipe, found, more = measure_numerics(load, task)
    else:
        baseline = next(name for name, (_, decoder) in painters.items() if decoder == AR())
        found, more, _ = measure_quality(pipe, painters, baseline, task, args.against)
    notes.append(
        f"Quality: {args.images} images per row, {different} prompts; in brackets 95 % intervals, over prompts (R@k: "
        "over images)."
    )
    return pipe, found, notes + more


def console() -> None:
    """The command ssd-bench."""
    entry.run(main)
