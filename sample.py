"""Draws pictures for prompts: python sample.py --prompt="green heart, noto" --prompt="santa claus, noto" --out=outputs

Without arguments it draws a few prompts with the model that comes with the package.
"""

import argparse
import contextlib
import dataclasses
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

import ssd_jax
from ssd_jax import entry
from ssd_jax.backbones.prompting import doubts
from ssd_jax.config_models import find_models
from ssd_jax.decode.names import parse_decoder, parse_decoders
from ssd_jax.decode.stretches import widest
from ssd_jax.distributed import is_first, together
from ssd_jax.errors import UserError, require_whole
from ssd_jax.layout import Grid
from ssd_jax.lock import locked
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.models.products import fast_dtype
from ssd_jax.opening import RANDOM, RANDOM_NOTE, is_random, open_model
from ssd_jax.plan.chips import CHIPS
from ssd_jax.plan.job import job_for
from ssd_jax.plan.memory import scratch
from ssd_jax.plan.report import render
from ssd_jax.plan.this_machine import measure
from ssd_jax.prompts.lines import read_lines
from ssd_jax.request import guidance_of, images_of_call, require_prompt, sampler_of
from ssd_jax.results import Results, replacing_results
from ssd_jax.viz import columns_for, comparison, frames, grid, heat_map, write_gif


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself ends with exit code 2 on a malformed one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    parser.add_argument("--prompts_file", type=Path, metavar="FILE", help="one prompt per line")
    parser.add_argument("--num_images", type=int, default=1, metavar="N", help="pictures per prompt (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same pictures (default 0)")
    parser.add_argument("--out", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")
    names = ", ".join(ssd_jax.PRESETS)
    parser.add_argument("--decoder", metavar="NAME", help=f"{names} (default ar; with --plan ssd)")
    parser.add_argument("--compare", metavar="NAMES", help="decoders, such as ar,ssd,ssd-wave, side by side")
    parser.add_argument("--trace", action="store_true", help="show, per picture, which pass fixed which token")
    parser.add_argument("--cfg_scale", type=float, metavar="S", help="guidance; default: the model's own; 1 is none")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="default 1; 0 is greedy")
    parser.add_argument("--top_k", type=int, metavar="K", help="default: the model's own; 0 keeps all codes")
    parser.add_argument("--top_p", type=float, metavar="P", help="default: off")
    parser.add_argument("--negative_prompt", metavar="TEXT", help="what guidance leads away from")
    parser.add_argument("--size", metavar="HxW", help="pixels, such as 512x768, or, for Emu3, a ratio such as 16:9")
    parser.add_argument("--max_batch", type=int, metavar="N", help="pictures drawn at once; default: the config's")
    parser.add_argument("--config", default="configs/emoji.py", metavar="FILE", help="which model (default: emoji)")
    parser.add_argument("--weights", metavar="DIR", help="checkpoint folder, or random; default: the config's own")
    parser.add_argument("--vq_weights", metavar="DIR", help="image tokenizer, where the checkpoint folder lacks it")
    parser.add_argument("--heads", metavar="DIR", help="draft heads; default: the checkpoint's own")
    parser.add_argument(
        "--attention", choices=tuple(ATTENTIONS), default="plain", help="how it is done (default plain)"
    )
    parser.add_argument("--quantize", metavar="HOW", help="int8: about half the memory, other pictures")
    parser.add_argument("--mesh", default="", metavar="M", help="spread the model over devices: data:1,model:8")
    parser.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of several processes; or auto")
    parser.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process_id", type=int, metavar="N", help="which this is, from 0")
    parser.add_argument(
        "--plan",
        nargs="?",
        const="chips",
        choices=("chips", "here"),
        help="draw nothing; print what it takes and how fast it can be on known chips, or, with =here, on this machine",
    )
    args = parser.parse_args(arguments)
    args.decoder = args.decoder or ("ssd" if args.plan else "ar")
    return args


def main() -> None:
    args = parse(sys.argv[1:])
    config = entry.read_config(args.config)
    prompts = read_prompts(args, list(config.sample_prompts))
    require_prompt(args.negative_prompt or "", "negative_prompt")
    decoders = parse_decoders(args.compare) if args.compare is not None else {args.decoder: parse_decoder(args.decoder)}
    if args.plan:
        print(plan(args, config, prompts, decoders))
        return
    entry.use_devices(args.mesh, args.coordinator, args.num_processes, args.process_id)
    with contextlib.ExitStack() as held:
        together("folder of pictures", lambda: held.enter_context(locked(args.out)))  # held by one of the processes
        draw(args, config, prompts, decoders)


def draw(args: argparse.Namespace, config, prompts: list[str], decoders: dict) -> None:
    """Loads the model and draws the prompts."""
    options = dict(mesh=args.mesh or None, heads=args.heads, vq_weights=args.vq_weights)
    options |= dict(attention=args.attention, quantize=args.quantize)
    pipe = open_model(config, args.config, args.weights, **options)
    if is_random(pipe) and is_first():
        print(RANDOM_NOTE)
    for decoder in decoders.values():
        pipe.require(decoder, args.size)
    for sentence in doubts(pipe.prompts, [*prompts, args.negative_prompt or ""]) if is_first() else ():
        print(f"warning: {sentence}", file=sys.stderr)
    options = dict(
        num_images=args.num_images,
        seed=args.seed,
        cfg_scale=pipe.config.cfg_scale if args.cfg_scale is None else args.cfg_scale,
        temperature=args.temperature,
        top_k=pipe.config.top_k if args.top_k is None else args.top_k,
        top_p=args.top_p,
        negative_prompt=args.negative_prompt,
        size=args.size,
        max_batch=config.max_batch if args.max_batch is None else args.max_batch,
    )
    if args.compare is None:
        out = pipe.generate(prompts, decoder=decoders[args.decoder], **options)
        if is_first():
            save(args, {"decoder": args.decoder, **options}, decoders[args.decoder], pipe, out)
    else:
        compare(args, decoders, options, pipe, prompts)


def plan(args: argparse.Namespace, config, prompts: list[str], decoders: dict) -> str:
    """What the first of the decoders takes and how fast all of them can be, from shapes alone."""
    weights = config.weights if args.weights in (None, RANDOM) else args.weights
    models = find_models(config, args.config, weights, args.heads)
    if args.plan == "here" and args.mesh:
        raise UserError("--plan=here is for the one device that is measured; leave --mesh out.")
    images = require_whole("max_batch", 1 if args.max_batch is None else args.max_batch, 1, None)
    scale = guidance_of(models.backbone, args.cfg_scale)
    images_of_call(prompts, args.num_images, args.seed)  # a plan refuses what drawing would
    sampler_of(models.backbone, scale, args.temperature, args.top_k, args.top_p)
    job, chips = job_for(models, args.mesh, args.size, images, scale, args.quantize, args.attention), CHIPS
    if args.plan == "here":
        job = dataclasses.replace(job, dtype=jnp.dtype(fast_dtype()), here=True)
        chips = (measure(job),)
    else:
        entry.use_simulated_devices(args.mesh)
    name, decoder = next(iter(decoders.items()))
    where = "this machine" if job.here else f"{job.devices} simulated device{'s' * (job.devices > 1)}"
    print(f"compiling {name} for {where} ...", file=sys.stderr)
    return render(job, decoders, scratch(job, decoder), chips)


def read_prompts(args: argparse.Namespace, default: list[str]) -> list[str]:
    """Prompts of the command line, then of the file; the config's own if there are none."""
    prompts = [text.strip() for text in args.prompt or []]
    if args.prompts_file is not None:
        prompts += read_lines(args.prompts_file)
    return [require_prompt(text) for text in prompts or default]


def compare(
    args: argparse.Namespace, decoders: dict, options: dict, pipe: ssd_jax.Pipeline, prompts: list[str]
) -> None:
    """Draws every picture with every decoder, one at a time, and writes them side by side."""
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
        results.record = {"options": options, **made_with(pipe), "images": records}
    tell(args.out, results, lines)
    print(f"{args.out / 'compare.png'} has a line per picture and a column per decoder.")


def add_traces(results: Results, folder: Path, prefix: str, out: ssd_jax.Output, prompt: int = 0) -> list[str]:
    """Adds, per picture, a map of the pass that fixed each token, and an animation of how they appeared; returns what
    there is to say of them."""
    lines = []
    for index, image in enumerate(out.images, start=prompt * len(out.images)):
        trace = out.trace[index - prompt * len(out.images)]
        name = f"{prefix}{index:03d}"
        Image.fromarray(heat_map(trace)).save(results.add(f"{name}-trace.png"))
        write_gif(results.add(f"{name}.gif"), frames(np.asarray(image), trace)[0])
        lines.append(f"{folder / name}-trace.png and {name}.gif show in which pass its tokens became final.")
    return lines


def made_with(pipe: ssd_jax.Pipeline) -> dict:
    """What pictures depend on besides their options."""
    return {
        "model": {"weights": pipe.origin.name, "fingerprint": pipe.fingerprint()},
        "numerics": pipe.numerics(),
        "versions": {"ssd_jax": ssd_jax.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind},
    }


def save(args: argparse.Namespace, options: dict, decoder, pipe: ssd_jax.Pipeline, out: ssd_jax.Output) -> None:
    """Writes the pictures, the grid and what is needed to make them again; prints a line for each."""
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
            **made_with(pipe),
            "seconds": out.seconds,
            "compile_seconds": out.compile_seconds,
            "images": records,
        }
    tell(args.out, results, lines)


def tell(folder: Path, results: Results, lines: list[str]) -> None:
    """Says what became of an earlier run's files, then the lines about the new ones."""
    for path in results.unread:
        print(f"warning: {path} was no list of an earlier run's files; none was removed for it", file=sys.stderr)
    if results.removed:
        print(f"Removed {results.removed} file{'s' * (results.removed > 1)} of an earlier run from {folder}.")
    print("\n".join(lines))


if __name__ == "__main__":
    entry.run(main)
