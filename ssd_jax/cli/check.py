"""Compares a checkpoint folder with transformers, on one page: python -m ssd_jax.check --weights=DIR

The page says what the folder holds, then, part by part, whether logits, greedy codes and image tokenizer are those of
transformers. It names no place of this machine and can be pasted into an issue. Exit code 1: a part failed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ssd_jax.check import verdicts
from ssd_jax.check.comparison import compare, look
from ssd_jax.check.folder import inspect
from ssd_jax.check.page import found_lines, part_lines, verdict
from ssd_jax.cli import entry
from ssd_jax.errors import UserError
from ssd_jax.pipeline.loading import find_folder_here
from ssd_jax.pipeline.opening import require_family

DTYPES = ("float32", "bfloat16")
HASHES = ("header", "full")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself ends with exit code 2 on a malformed one."""
    parser = argparse.ArgumentParser(
        prog="python -m ssd_jax.check", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="DIR", help="checkpoint folder; nothing is downloaded")
    add("--config", metavar="FILE", help="which model it should be; default: what the folder says")
    add("--vq_weights", type=Path, metavar="DIR", help="image tokenizer, where the checkpoint folder lacks it")
    add("--reference", metavar="DIR", help="what transformers reads, the same model in its layout; default: --weights")
    add("--dtype", choices=DTYPES, default="float32", help="of both backbones (default float32, which tells the most)")
    add("--layers", type=int, metavar="N", help="compare the first N layers alone, in less memory")
    add("--hash", choices=HASHES, default="header", help="of weight files: the header's (default), or of every byte")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse(sys.argv[1:])
    parts = []
    for part in checked(args):
        parts.append(part)
        print("\n".join(part_lines([part])), flush=True)
    print(f"\n{verdict(parts)}", flush=True)
    if any(part.passed is False for part in parts):
        sys.exit(1)


def checked(args: argparse.Namespace) -> Iterator[verdicts.Part]:
    """Prints what was found, then gives one part after the other."""
    found = inspect(folder_of("--weights", args.weights), args.vq_weights)
    if args.config is not None:
        require_family(entry.read_config(args.config), args.config, args.weights, found.config.architecture)
    reference = found if args.reference is None else inspect(folder_of("--reference", args.reference))
    layers = found.config.layers if args.layers is None else args.layers
    if not 1 <= layers <= found.config.layers:
        raise UserError(f"--layers must lie between 1 and {found.config.layers}, not {layers}.")
    print("\n".join([*found_lines(found, args.hash == "full"), ""]), flush=True)
    tensors = verdicts.tensors(found)
    yield tensors
    if not tensors.passed:
        return
    if found.published:
        yield from compare(found, reference, args.vq_weights, layers, args.dtype, say)
    else:
        say("transformers has no model of this family, so there is nothing to compare it with")
        yield from look(found)


def folder_of(flag: str, name: str) -> Path:
    """The folder that a flag names; raises `UserError` if there is none."""
    folder = find_folder_here(name)
    if folder is None:
        raise UserError(f"There is no checkpoint folder {name!r} for {flag}; nothing is downloaded for a check.")
    return folder


def say(sentence: str) -> None:
    """Puts a remark on the page."""
    print(f"      {sentence}", flush=True)
