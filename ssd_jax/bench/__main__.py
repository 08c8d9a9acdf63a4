"""Measures decoders in one process: python -m ssd_jax.bench --decoders=ar,ssd,"SSD(rounds=0)" --metrics=speed,quality

Writes bench.md, bench.json and plots. Speed is measured at batch 1; the model's own guidance is used throughout.
"""

import argparse
import importlib.util
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssd_jax import entry
from ssd_jax.bench import plots, report
from ssd_jax.bench.pieces import Clock
from ssd_jax.bench.quality import Gallery, measure_quality
from ssd_jax.bench.speed import Runs, agreement, measure_speed
from ssd_jax.decode.ar import AR
from ssd_jax.decode.names import parse_decoders
from ssd_jax.decode.presets import PRESETS, Decoder
from ssd_jax.decode.stretches import widest
from ssd_jax.errors import UserError
from ssd_jax.eval.features import available
from ssd_jax.loading import load
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.pipeline import Pipeline

METRICS = ("speed", "quality")
PROMPTS = ["green heart, noto", "santa claus, noto"]
EXTRA = 'pip install "ssd_jax[eval]"'


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; raises `UserError` for values that make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m ssd_jax.bench", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--decoders", default="all", metavar="NAMES", help="comma-separated; default: all that the checkpoint can run")
    add("--metrics", default="speed", metavar="NAMES", help="speed, quality or both (default speed)")
    add("--weights", default="emoji", metavar="DIR", help="checkpoint (default: the bundled one)")
    add("--heads", metavar="DIR", help="draft heads; default: the checkpoint's own")
    add("--dtype", choices=("float32", "bfloat16"), help="of parameters and cache; default: what is fast here")
    add("--attention", choices=tuple(ATTENTIONS), default="plain", help="its implementation (default plain)")
    add("--mesh", default="", metavar="M", help="spread the model over devices: data:1,model:8")
    add("--prompt", action="append", metavar="TEXT", help="may be given several times")
    add("--seeds", type=int, default=3, metavar="N", help="speed: seeds per prompt (default 3)")
    add("--repeats", type=int, default=3, metavar="N", help="speed: timed runs of each picture (default 3)")
    add("--images", type=int, default=128, metavar="N", help="quality: pictures per decoder (default 128)")
    add("--batch", type=int, default=16, metavar="N", help="quality: pictures drawn at once (default 16)")
    add("--data", type=Path, metavar="DIR", help="quality: reference pictures, which also give the prompts")
    add("--out", type=Path, default=Path("outputs/bench"), metavar="DIR", help="default: outputs/bench")
    args = parser.parse_args(arguments)
    args.metrics = [name.strip() for name in args.metrics.split(",")]
    for name in args.metrics:
        if name not in METRICS:
            raise UserError(f"Unknown metric {name!r}; choose from {', '.join(METRICS)}.")
    for name in ("seeds", "repeats", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1.")
    if args.images < 3:
        raise UserError("--images must be at least 3.")
    return args


def main() -> None:
    args = parse(sys.argv[1:])
    parsed = None if args.decoders == "all" else parse_decoders(args.decoders)
    entry.use_devices(args.mesh)
    dtype = None if args.dtype is None else np.dtype(args.dtype)
    pipe = load(args.weights, dtype=dtype, mesh=args.mesh or None, heads=args.heads, attention=args.attention)
    decoders = {"ar": AR()} | (parsed or {name: PRESETS[name] for name in pipe.decoders()})
    for decoder in decoders.values():
        pipe.require(decoder)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {args.out} cannot be written to: {error.strerror}.") from None
    prompts = args.prompt or PROMPTS
    rows: dict[str, dict[str, Any]] = {name: {} for name in decoders}
    curve: dict[int, float] = {}
    notes: list[str] = []
    if "speed" in args.metrics:
        runs = measure_speed(pipe, decoders, prompts, args.seeds, args.repeats)
        clock = Clock(pipe, max(3, args.repeats))
        for name, decoder in decoders.items():
            rows[name] |= speed_row(runs[name], runs["ar"], clock, decoder)
        curve = clock.curve()
        notes.append(
            f"Speed: {len(prompts)} prompts x {args.seeds} seeds x {args.repeats} runs at batch 1, interleaved."
        )
    if "quality" in args.metrics:
        found, more = quality(pipe, decoders, args)
        for name, row in found.items():
            # The passes of the speed part, if there was one: they are what the seconds were spent on.
            rows[name] = {"passes": row["passes"], **rows[name], **{k: v for k, v in row.items() if k != "passes"}}
        notes += more
    setup = {
        "command": shlex.join(["python", "-m", "ssd_jax.bench", *sys.argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "mesh": args.mesh or "one device",
        **pipe.numerics(),
        "guidance": pipe.config.cfg_scale,
        "grid": f"{pipe.config.rows} x {pipe.config.cols}",
        "model": pipe.fingerprint()[:12],
    }
    if importlib.util.find_spec("matplotlib") is None:
        notes.append(f"No plots, because matplotlib is not installed ({EXTRA}).")
    else:
        if curve:
            plots.pass_against_window(curve, args.out / "window.png")
        if "quality" in args.metrics:
            plots.quality_against_passes(rows, args.out / "quality.png")
    report.write(args.out, setup, rows, curve, notes)
    print(report.table(rows))
    for note in notes:
        print(note)
    print(f"{args.out / 'bench.md'} has this table, {args.out / 'bench.json'} all numbers.")


def speed_row(runs: Runs, baseline: Runs, clock: Clock, decoder: Decoder) -> dict[str, Any]:
    """The speed columns of one decoder; seconds, and `ar`'s runs as the baseline."""
    same_tokens, same_pictures = agreement(runs.tokens, baseline.tokens)
    passes, seconds, per_pass = float(runs.passes.mean()), float(np.median(runs.seconds)), runs.seconds_per_pass
    parts = clock.split(decoder, passes)
    return {
        "window": widest(decoder.stretches(clock.grid, clock.horizontal)),
        "passes": passes,
        "passes range": (int(runs.passes.min()), int(runs.passes.max())),
        "reduction": float(baseline.passes.mean()) / passes,
        "seconds": seconds,
        "seconds range": (float(runs.seconds.min()), float(runs.seconds.max())),
        "speedup": float(np.median(baseline.seconds)) / seconds,
        "seconds per pass": per_pass,
        **parts,
        "rest": per_pass - sum(parts.values()),
        "equal tokens": same_tokens,
        "equal pictures": same_pictures,
    }


def quality(pipe: Pipeline, decoders: dict[str, Decoder], args: argparse.Namespace) -> tuple[dict, list[str]]:
    """The quality columns; without the extra packages or the reference pictures a note says what is left out."""
    notes = []
    gallery = None
    if args.data is None:
        notes.append("No retrieval, because --data names no reference pictures.")
    else:
        gallery = Gallery.read(args.data)
    if args.prompt or gallery is None:
        prompts = list(itertools.islice(itertools.cycle(args.prompt or PROMPTS), args.images))
    else:
        prompts = gallery.prompts(args.images)
    if not available():
        notes.append(f"No KID, FD and retrieval, because the image features are not installed ({EXTRA}).")
    found, more = measure_quality(pipe, decoders, prompts, args.batch, gallery, available())
    notes.append(
        f"Quality: {args.images} pictures per decoder, {len(set(prompts))} prompts; 95 % intervals in brackets."
    )
    return found, notes + more


if __name__ == "__main__":
    entry.run(main)
