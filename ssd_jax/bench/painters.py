"""Finds the models of the bench's decoders: the checkpoint's, other draft heads beside it, or another checkpoint's."""

import argparse
from collections.abc import Callable

from ssd_jax.bench.quality import Painter
from ssd_jax.decode.presets import PRESETS
from ssd_jax.errors import UserError
from ssd_jax.pipeline.pipeline import Pipeline


def chosen(load: Callable[..., Pipeline], pipe: Pipeline, args: argparse.Namespace) -> dict[str, Painter]:
    """The decoders of the command line, or all that the checkpoint can run, each with its model.

    Raises:
        UserError: a decoder whose draft heads or branch are missing, or a model whose images `pipe` cannot judge.
    """
    same = dict(dtype=pipe.dtype, quantize=args.quantize)
    pipes = {None: pipe} | {label: load(heads=folder, **same) for label, folder in args.other_heads.items()}
    same |= dict(heads=None, branch=None)
    for label, folder in args.other_models.items():
        pipes[label] = load(weights=folder, **same)
        if None in codes_of(pipe) or codes_of(pipes[label]) != codes_of(pipe):
            raise UserError(f"The images of --other_models={label} have other codes than this checkpoint's.")
    given = args.painters or {name: (PRESETS[name], None) for name in pipe.decoders()}
    for decoder, label in given.values():
        pipes[label].require(decoder)
    return {name: (pipes[label], decoder) for name, (decoder, label) in given.items()}


def codes_of(pipe: Pipeline) -> tuple:
    """What the codes of a checkpoint's images depend on; one can judge another's images if it is the same."""
    return pipe.fingerprints["tokenizer"], pipe.config.rows, pipe.config.cols, pipe.config.visual_size
