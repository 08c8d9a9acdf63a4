"""The flags of every command that draws images: which model, on which devices, and how it draws."""

import argparse
from typing import Any

from ssd_jax.cli import entry
from ssd_jax.decode.presets import PRESETS
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.pipeline.opening import open_model
from ssd_jax.pipeline.pipeline import Pipeline


def add_sampling(parser: argparse.ArgumentParser, decoder: str = "default ar") -> None:
    """The flags of how images are drawn; `decoder` says in the help what --decoder is without the flag."""
    add = parser.add_argument
    add("--seed", type=int, default=0, metavar="N", help="same seed, same images (default 0)")
    add("--decoder", metavar="NAME", help=f"{', '.join(PRESETS)} ({decoder})")
    add("--cfg_scale", type=float, metavar="S", help="guidance; default: the model's own; 1 is none")
    add("--temperature", type=float, default=1.0, metavar="T", help="default 1; 0 is greedy")
    add("--top_k", type=int, metavar="K", help="default: the model's own; 0 keeps all codes")
    add("--top_p", type=float, metavar="P", help="default: off")
    add("--negative_prompt", metavar="TEXT", help="what guidance leads away from")
    add("--size", metavar="HxW", help="pixels, such as 512x768, or, for Emu3 and Emu3.5, a ratio such as 16:9")
    add("--max_batch", "--batch", type=int, metavar="N", help="images drawn at once; default: the config's")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The flags of what draws, and on which devices."""
    add = parser.add_argument
    add("--config", default="configs/emoji.py", metavar="FILE", help="which model (default: emoji)")
    add("--weights", metavar="DIR", help="checkpoint folder, or random; default: the config's own")
    add("--vq_weights", metavar="DIR", help="image tokenizer, where the checkpoint folder lacks it")
    add("--heads", metavar="DIR", help="draft heads, or a NAME for the checkpoint's heads-NAME; default: its own")
    add("--branch", metavar="DIR", help="vertical branch; default: the checkpoint's own")
    add("--attention", choices=tuple(ATTENTIONS), default="plain", help="how it is done (default plain)")
    add("--quantize", metavar="HOW", help="int8: about half the memory, other images")
    add("--mesh", default="", metavar="M", help="spread the model over devices: data:1,model:8")
    add("--coordinator", default="", metavar="HOST:PORT", help="of several processes; or auto")
    add("--num_processes", type=int, metavar="N", help="how many there are")
    add("--process_id", type=int, metavar="N", help="which this is, from 0")


def use_devices(args: argparse.Namespace) -> None:
    """See `entry.use_devices`."""
    entry.use_devices(args.mesh, args.coordinator, args.num_processes, args.process_id)


def open_pipeline(args: argparse.Namespace, config: Any) -> Pipeline:
    """The model that the flags name; see `pipeline.opening.open_model`."""
    options = dict(mesh=args.mesh or None, heads=args.heads, branch=args.branch, vq_weights=args.vq_weights)
    options |= dict(attention=args.attention, quantize=args.quantize)
    return open_model(config, args.config, args.weights, **options)


def sampling_of(args: argparse.Namespace, config: Any, pipe: Pipeline) -> dict[str, Any]:
    """The options of `Pipeline.generate` that the flags name, JSON, with the model's own where there is no flag;
    without the decoder and the seed."""
    return dict(
        cfg_scale=pipe.config.cfg_scale if args.cfg_scale is None else args.cfg_scale,
        temperature=args.temperature,
        top_k=pipe.config.top_k if args.top_k is None else args.top_k,
        top_p=args.top_p,
        negative_prompt=args.negative_prompt,
        size=args.size,
        max_batch=config.max_batch if args.max_batch is None else args.max_batch,
    )
