"""Parses the bench's command line."""

import argparse
from pathlib import Path

from ssd_jax.bench.named_decoders import parse_labels, parse_painters
from ssd_jax.errors import UserError, shown
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.pipeline.request import MOST_IMAGES

METRICS = ("speed", "throughput", "quality", "numerics")
BASELINES = ("transformers",)
RUNBOOK = ("config", "passes", "minutes", "out")
"""The flags that may be combined with --accelerator."""


def parse(arguments: list[str], title: str = "") -> argparse.Namespace:
    """Reads the command line; raises `UserError` for invalid values."""
    parser = argparse.ArgumentParser(prog="python -m ssd_jax.bench", description=title, allow_abbrev=False)
    add = parser.add_argument
    add("--decoders", default="all", metavar="NAMES", help="comma-separated; default: all that the checkpoint can run")
    add("--metrics", default="speed", metavar="NAMES", help="speed, throughput, quality, numerics (default speed)")
    add("--config", metavar="FILE", help="which model (default: emoji; accelerator: all published)")
    add("--weights", metavar="DIR", help="checkpoint, or random; default: the config's own")
    add("--heads", metavar="DIR", help="draft heads, or a NAME for the checkpoint's heads-NAME; default: its own")
    add("--branch", metavar="DIR", help="vertical branch; default: the checkpoint's own")
    add("--other_heads", action="append", default=[], metavar="LABEL=DIR", help="quality: for decoders DECODER@LABEL")
    add("--other_models", action="append", default=[], metavar="LABEL=DIR", help="likewise, with a checkpoint's model")
    add("--dtype", choices=("float32", "bfloat16"), help="of parameters and cache; default: what is fast here")
    add("--attention", choices=tuple(ATTENTIONS), default="plain", help="its implementation (default plain)")
    add("--quantize", metavar="HOW", help="int8: about half the memory, other images")
    add("--mesh", default="", metavar="M", help="spread the model over devices: data:1,model:8")
    add("--baseline", metavar="NAME", help="speed: time transformers on the same sizes, too")
    add("--passes", type=int, metavar="N", help="speed, throughput: time so many passes and extrapolate")
    add("--accelerator", action="store_true", help="the published sizes on this machine, all at once; see docs")
    add("--minutes", type=float, default=8, metavar="N", help="accelerator: begin nothing after so long (default 8)")
    add("--prompt", action="append", metavar="TEXT", help="may be given several times")
    add("--seeds", type=int, default=3, metavar="N", help="speed: seeds per prompt (default 3)")
    add("--repeats", type=int, default=3, metavar="N", help="speed: timed runs of each image (default 3)")
    add("--batches", default="1,4,16", metavar="SIZES", help="throughput: images drawn at once (default 1,4,16)")
    add("--images", type=int, default=128, metavar="N", help="quality: images per decoder (default 128)")
    add("--batch", type=int, default=16, metavar="N", help="quality: images drawn at once (default 16)")
    add("--against", metavar="DECODER", help="quality: print paired differences to this one, too")
    add("--data", type=Path, metavar="DIR", help="quality: reference images, which also give the prompts")
    add("--out", type=Path, default=Path("outputs/bench"), metavar="DIR", help="default: outputs/bench")
    args = parser.parse_args(arguments)
    if args.accelerator:
        given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
        if other := set(given) - {"accelerator", *RUNBOOK}:
            raise UserError(f"--accelerator goes with --{', --'.join(RUNBOOK)} alone, not with --{min(other)}.")
    args.metrics = [name.strip() for name in args.metrics.split(",")]
    for name in args.metrics:
        if name not in METRICS:
            raise UserError(f"Unknown metric {name!r}; choose from {', '.join(METRICS)}.")
    for name in ("seeds", "repeats", "batch", "passes"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1.")
    args.batches = _sizes(args.batches)
    if args.images < 3:
        raise UserError("--images must be at least 3.")
    args.other_heads = parse_labels("--other_heads", args.other_heads)
    args.other_models = parse_labels("--other_models", args.other_models)
    if both := args.other_heads.keys() & args.other_models.keys():
        raise UserError(f"--other_heads and --other_models both have the label {min(both)!r}.")
    labels = args.other_heads | args.other_models
    args.painters = {} if args.decoders == "all" else parse_painters(args.decoders, labels)
    if (labels or args.against) and args.metrics != ["quality"]:
        raise UserError("--other_heads, --other_models and --against belong to the metric quality alone.")
    if args.baseline is not None and args.baseline not in BASELINES:
        raise UserError(f"Unknown baseline {args.baseline!r}; choose {', '.join(BASELINES)}.")
    if "speed" not in args.metrics and args.baseline:
        raise UserError("--baseline belongs to the metric speed.")
    if args.passes and not {"speed", "throughput"} & set(args.metrics):
        raise UserError("--passes belongs to the metrics speed and throughput.")
    if args.weights == "random" and not {"speed", "throughput"}.issuperset(args.metrics):
        raise UserError("With random weights there is no quality to measure, only speed.")
    if "numerics" in args.metrics and (len(args.metrics) > 1 or args.dtype or args.quantize or args.decoders != "all"):
        raise UserError("The metric numerics goes by itself: it draws with ar in float32, bfloat16 and int8.")
    return args


def _sizes(text: str) -> list[int]:
    """Sizes of batches, each of which divides the last; raises `UserError` for anything else."""
    sizes = [int(part) if part.strip().isdecimal() and len(part) < 10 else 0 for part in text.split(",")]
    if (
        not all(sizes)
        or any(sizes[-1] % size for size in sizes)
        or sizes != sorted(set(sizes))
        or sizes[-1] > MOST_IMAGES
    ):
        raise UserError(
            "--batches are sizes in ascending order, of which each divides the last, such as 1,4,16, not "
            f"{shown(text)}."
        )
    return sizes
