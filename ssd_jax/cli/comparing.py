"""Implements `sample.py --compare`."""

import argparse
import re

import numpy as np
from PIL import Image
from tqdm import tqdm

from ssd_jax.cli.output import add_traces, tell
from ssd_jax.errors import require_whole
from ssd_jax.parallel.processes import is_first
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.results import replacing_results
from ssd_jax.viz import comparison


def compare(args: argparse.Namespace, decoders: dict, options: dict, pipe: Pipeline, prompts: list[str]) -> None:
    """Decodes every image with every decoder, one at a time, and writes them side by side."""
    require_whole("max_batch", 1 if options["max_batch"] is None else options["max_batch"], 1, None)
    options |= dict(max_batch=1)
    outs = {name: [] for name in decoders}
    pipe.pictures.params  # noqa: B018 - a damaged file is reported before the work, not after it
    for decoder in decoders.values():
        pipe.generate(prompts[:1], decoder=decoder, **{**options, "num_images": 1}, pixels=False)  # compiles
    for text in tqdm(prompts, desc="comparing", unit="prompt", dynamic_ncols=True, disable=not is_first()):
        for name, decoder in decoders.items():
            outs[name].append(pipe.generate([text], decoder=decoder, **options))
    if not is_first():
        return
    rows, captions, records = [], [], []
    for index, text in enumerate(prompts):
        for image in range(args.num_images):
            rows.append((text, [np.asarray(outs[name][index].images[image]) for name in decoders]))
            captions.append([])
            for name in decoders:
                passes = int(outs[name][index].passes[image])
                seconds = outs[name][index].seconds / args.num_images
                captions[-1].append(f"{name}: {passes} passes, {seconds:.2f} s")
                records.append({"prompt": text, "decoder": name, "number": image, "passes": passes, "seconds": seconds})
    lines = []
    with replacing_results(args.out, "compare.json") as results:
        Image.fromarray(comparison(rows, captions)).save(results.add("compare.png"))
        for name in decoders:
            found = [record for record in records if record["decoder"] == name]
            passes, seconds = (np.mean([record[key] for record in found]) for key in ("passes", "seconds"))
            lines.append(f"{name:12}  {passes:6.1f} passes  {seconds:7.3f} s")
            for index, out in enumerate(outs[name] if args.trace else ()):
                prefix = f"{re.sub('[^a-z0-9=]+', '-', name.lower()).strip('-')}-"
                lines += add_traces(results, args.out, prefix, out, index)
        results.record = {"options": options, **pipe.made_with(), "images": records}
    tell(args.out, results, lines)
    print(f"{args.out / 'compare.png'} has a line per image and a column per decoder.")
