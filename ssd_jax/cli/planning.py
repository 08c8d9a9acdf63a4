"""Implements `sample.py --plan`."""

import argparse
import dataclasses
import sys

import jax.numpy as jnp

from ssd_jax.cli import entry
from ssd_jax.errors import UserError, require_whole
from ssd_jax.models.matmul import fast_dtype
from ssd_jax.pipeline.model_sizes import find_models
from ssd_jax.pipeline.opening import RANDOM, refuse_branch
from ssd_jax.pipeline.request import MOST_IMAGES, guidance_of, images_of_call, sampler_of
from ssd_jax.plan.chips import CHIPS
from ssd_jax.plan.job import job_for
from ssd_jax.plan.memory import scratch
from ssd_jax.plan.rendering import render
from ssd_jax.plan.this_machine import measure


def plan(args: argparse.Namespace, config, prompts: list[str], decoders: dict) -> str:
    """The plan as text: memory of the first decoder and least seconds of all, from shapes alone."""
    weights = config.weights if args.weights in (None, RANDOM) else args.weights
    if args.weights == RANDOM:
        refuse_branch(args.branch)
    models = find_models(config, args.config, weights, args.heads, args.branch)
    if args.plan == "here" and args.mesh:
        raise UserError("--plan=here is for the one device that is measured; leave --mesh out.")
    images = min(require_whole("max_batch", 1 if args.max_batch is None else args.max_batch, 1, None), MOST_IMAGES)
    scale = guidance_of(models.backbone, args.cfg_scale)
    images_of_call(prompts, args.num_images, args.seed)  # a plan refuses what decoding would
    job, chips = job_for(models, args.mesh, args.size, images, scale, args.quantize, args.attention), CHIPS
    if args.plan == "chips":
        entry.use_simulated_devices(args.mesh)
    sampler_of(models.backbone, scale, args.temperature, args.top_k, args.top_p)
    if args.plan == "here":
        job = dataclasses.replace(job, dtype=jnp.dtype(fast_dtype()), here=True)
        chips = (measure(job),)
    name, decoder = next(iter(decoders.items()))
    where = "this machine" if job.here else f"{job.devices} simulated device{'s' * (job.devices > 1)}"
    print(f"compiling {name} for {where} ...", file=sys.stderr)
    return render(job, decoders, scratch(job, decoder), chips)
