"""Generates images: python sample.py --prompt="green heart, noto" --prompt="santa claus, noto" --out=outputs

Without arguments it generates images of a few prompts with the bundled model.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from ssd_jax.backbones.prompting import doubts
from ssd_jax.cli import entry
from ssd_jax.cli.comparing import compare
from ssd_jax.cli.drawing import add_model, add_sampling, open_pipeline, sampling_of, use_devices
from ssd_jax.cli.inpainting import add_inpainting, given_part, require_usable
from ssd_jax.cli.output import save
from ssd_jax.cli.planning import plan
from ssd_jax.cli.progress_bar import progress_bar
from ssd_jax.decode.names import parse_decoder, parse_decoders
from ssd_jax.errors import UserError
from ssd_jax.lock import locked
from ssd_jax.parallel.processes import is_first, together
from ssd_jax.pipeline.opening import RANDOM_NOTE, is_random
from ssd_jax.pipeline.request import require_prompt
from ssd_jax.prompts.lines import read_lines


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself exits with code 2 on a malformed one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    parser.add_argument("--prompts_file", type=Path, metavar="FILE", help="one prompt per line")
    parser.add_argument("--num_images", type=int, default=1, metavar="N", help="images per prompt (default 1)")
    parser.add_argument("--out", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")
    parser.add_argument("--compare", metavar="NAMES", help="decoders, such as ar,ssd,ssd-wave, side by side")
    parser.add_argument("--trace", action="store_true", help="show, per image, which pass fixed which token")
    parser.add_argument("--progress", action="store_true", help="show how many tokens are final while it draws")
    add_inpainting(parser)
    add_sampling(parser, "default ar; with --plan ssd")
    add_model(parser)
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
    require_usable(args)
    config = entry.read_config(args.config)
    prompts = read_prompts(args, list(config.sample_prompts))
    require_prompt(args.negative_prompt or "", "negative_prompt")
    decoders = parse_decoders(args.compare) if args.compare is not None else {args.decoder: parse_decoder(args.decoder)}
    if args.compare is not None and args.progress:
        raise UserError("--compare has a progress bar of its own; leave out --progress.")
    if args.coordinator and args.progress:
        raise UserError("Progress cannot be shown when several processes draw together; leave out --progress.")
    if args.plan:
        print(plan(args, config, prompts, decoders))
        return
    use_devices(args)
    with contextlib.ExitStack() as held:
        together("folder of images", lambda: held.enter_context(locked(args.out)))  # held by one of the processes
        draw(args, config, prompts, decoders)


def draw(args: argparse.Namespace, config, prompts: list[str], decoders: dict) -> None:
    """Loads the model and generates the images."""
    pipe = open_pipeline(args, config)
    if is_random(pipe) and is_first():
        print(RANDOM_NOTE)
    for decoder in decoders.values():
        pipe.require(decoder, args.size)
    for sentence in doubts(pipe.prompts, [*prompts, args.negative_prompt or ""]) if is_first() else ():
        print(f"warning: {sentence}", file=sys.stderr)
    options = {"num_images": args.num_images, "seed": args.seed, **sampling_of(args, config, pipe)}
    if args.compare is None:
        given, record = given_part(args, pipe)
        with progress_bar(args.progress) as watched:
            out = pipe.generate(prompts, decoder=decoders[args.decoder], **options, **given, **watched)
        if is_first():
            save(args, {"decoder": args.decoder, **options, **record}, decoders[args.decoder], pipe, out)
    else:
        compare(args, decoders, options, pipe, prompts)


def read_prompts(args: argparse.Namespace, default: list[str]) -> list[str]:
    """Prompts of the command line, then of the file; the config's own if there are none."""
    prompts = [require_prompt(text).strip() for text in args.prompt or []]  # argparse makes a list of "--"
    if args.prompts_file is not None:
        prompts += read_lines(args.prompts_file)
    return [require_prompt(text) for text in prompts or default]


def console() -> None:
    """The command ssd-sample."""
    entry.run(main)
