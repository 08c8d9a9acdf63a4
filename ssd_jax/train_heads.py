"""Draft heads for a published backbone: what `python train.py --config=configs/emu3.py --config.weights=DIR` runs.

The backbone is loaded as for drawing and stays as it is. Pictures, drawn by itself from a file of prompts or encoded
from a folder with captions, are kept as codes under `config.data`; the heads are trained on the states that the
backbone has while it reads them, and go to `<workdir>/export`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssd_jax.backbones.prompting import grid_of
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.names import parse_decoder
from ssd_jax.decode.presets import PRESETS
from ssd_jax.distributed import together
from ssd_jax.errors import UserError, require_whole
from ssd_jax.files import replacing
from ssd_jax.layout import Grid
from ssd_jax.loading import load
from ssd_jax.models.config import HeadsConfig, from_dict
from ssd_jax.models.heads import boxed_heads
from ssd_jax.pipeline import Pipeline
from ssd_jax.prompts.lines import read_lines
from ssd_jax.sharding import DATA, place, using
from ssd_jax.training.bands import Setup
from ssd_jax.training.distilled import digest_of, draw_missing, jobs
from ssd_jax.training.folder import encode_missing, read_folder
from ssd_jax.training.heads import export_heads, heads_task
from ssd_jax.training.loop import fit
from ssd_jax.training.overlap import digest, overlap_task
from ssd_jax.training.prompted import Frames, PromptedCodes, split
from ssd_jax.training.report import heads_report, heads_tables
from ssd_jax.training.shards import TokenShards
from ssd_jax.training.sound import require_plots, require_stage
from ssd_jax.training.spread import gathered
from ssd_jax.weights.export import heads_metadata
from ssd_jax.weights.load import fingerprint, read_tensors
from ssd_jax.weights.store import find_weights

REPORT = "report.md"


def run(config: Any) -> Path:
    """Makes the tokens that are missing, trains the heads, writes the report; returns the export folder.

    Raises:
        UserError: a value of the config, a checkpoint, data or a cache that cannot be used.
    """
    decoder, heads = checked(config)
    pipe = open_backbone(config)
    grid = grid_of(pipe.config, config.size or None, pipe.vq_config.stride)
    frames, shards = encoded(config, pipe, grid) if config.images else drawn(config, pipe, grid, decoder)
    codes, pad_id = shards.read(), max(pipe.config.pad_id, 0)  # padding is masked, so any id will do

    def source(stage: Any) -> PromptedCodes:
        return PromptedCodes(codes, shards.prompts, frames, pad_id, stage.batch, stage.caption_drop, config.heldout)

    def setup(stage: Any) -> Setup:
        return Setup(pipe.config, heads, grid, stage.matmul, config.window, stage.accumulation)

    export, weights, first = Path(config.workdir) / "export", find_weights(pipe.folder), config.heads
    with using(pipe.mesh, pipe.config):
        origin = {**heads_metadata(heads, weights), "tokens": shards.manifest}
        origin |= {"heldout": config.heldout, "seed": config.seed}
        states = train(config, pipe, origin, setup, source)
        last, path = list(states)[-1], export / "heads.safetensors"
        whole = gathered(states[last], pipe.mesh)
        together("heads: exported", lambda: export_heads(path, whole, heads, weights))
        # The last state as it is stored.
        states[last] = read_tensors(path, place(boxed_heads(heads, pipe.config.width), pipe.mesh), jnp.float32)
        batch = first.batch // first.accumulation
        found = heads_report(setup(first), states, pipe.params, source(first), config.report_images, batch, pipe.mesh)
    together("heads: report", lambda: write_report(export.with_name(REPORT), found, config, pipe, shards))
    return export


def train(
    config: Any,
    pipe: Pipeline,
    origin: dict[str, Any],
    setup: Callable[[Any], Setup],
    source: Callable[[Any], PromptedCodes],
) -> dict[str, Any]:
    """The heads' parameters after each part of their training, by what that part minimised."""
    workdir, first, second = Path(config.workdir), config.heads, config.overlap
    task = heads_task(setup(first), pipe.params, first, config.seed, source(first), pipe.mesh)
    params = fit(task, first, config.seed, workdir, origin)
    if not second.steps:
        return {"Smooth L1": params}
    task = overlap_task(setup(second), pipe.params, second, config.seed, source(second), params, pipe.mesh)
    begun = digest(gathered(params, pipe.mesh))
    return {
        "Smooth L1": params,
        "Smooth L1, then overlap": fit(task, second, config.seed, workdir, {**origin, "start": begun}),
    }


def checked(config: Any) -> tuple[Decoder | None, HeadsConfig]:
    """The decoder that draws, None for a folder of pictures, and the heads' config; raises `UserError` for whatever can
    be seen to be wrong before a file is opened."""
    require_plots()
    if not config.weights:
        raise UserError("No weights come with this config; say where they are with --config.weights=DIR.")
    if bool(config.images) == bool(config.prompts_file):
        raise UserError(
            "Heads are trained on pictures: give either --config.images=DIR, a folder of pictures with captions, or "
            "--config.prompts_file=FILE, and the model draws them."
        )
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed must be between 0 and {2**32 - 1}, but is {config.seed}.")
    for name in ("pictures_per_prompt", "pictures_per_file", "heldout", "max_batch", "report_images"):
        require_whole(f"config.{name}", config[name], 1)
    require_whole("config.window", config.window, 0)
    for name, stage in (("heads", config.heads), ("overlap", config.overlap)):
        require_stage(name, stage, least_steps=int(name == "heads"))
    heads = from_dict(HeadsConfig, config.heads_model.to_dict(), "config.heads_model")
    if config.images:
        return None, heads
    decoder = parse_decoder(config.decoder)
    if not decoder.lossless:
        fitting = ", ".join(name for name, preset in PRESETS.items() if preset.lossless and not any(preset.heads))
        raise UserError(
            f"The decoder {config.decoder} does not draw what the model would; to train on, choose a lossless one: "
            f"{fitting}."
        )
    return decoder, heads


def open_backbone(config: Any) -> Pipeline:
    """The checkpoint of the config, over its mesh."""
    pipe = load(config.weights, mesh=config.mesh or None, vq_weights=config.vq_weights or None)
    wanted, found = config.model.architecture, pipe.config.architecture
    if found != wanted:
        raise UserError(f"The config is for checkpoints of {wanted}, but {config.weights} is one of {found}.")
    parts = 1 if pipe.mesh is None else pipe.mesh.shape[DATA]
    for name, stage in (("heads", config.heads), ("overlap", config.overlap)):
        if (part := stage.batch // stage.accumulation) % parts:
            raise UserError(
                f"config.{name}.batch / accumulation is {part}, but must be a multiple of the mesh's data:{parts}."
            )
    return pipe


def drawn(config: Any, pipe: Pipeline, grid: Grid, decoder: Decoder) -> tuple[Frames, TokenShards]:
    """Prompts' frames, and pictures that the backbone draws of them with its own guidance and top-k."""
    pipe.require(decoder)
    prompts = list(dict.fromkeys(read_lines(config.prompts_file)))  # of equal ones some might be held out and some not
    frames = _frames(pipe, prompts, grid)
    made_with = {
        "backbone": pipe.fingerprint(),
        "dtype": jnp.dtype(pipe.dtype).name,
        "prompts": digest_of(prompts),
        "pictures_per_prompt": config.pictures_per_prompt,
        "seed": config.seed,
        "decoder": {"kind": type(decoder).__name__, **dataclasses.asdict(decoder)},
        "cfg_scale": pipe.config.cfg_scale,
        "top_k": pipe.config.top_k,
        "temperature": 1.0,
    }
    wanted = jobs(len(prompts), config.pictures_per_prompt)
    shards = _shards(config, pipe, grid, wanted[:, 0], made_with)
    size = config.size or None

    def draw(indices: list[int], seeds: list[int]) -> np.ndarray:
        texts = [prompts[index] for index in indices]
        out = pipe.generate(texts, decoder=decoder, seed=seeds, size=size, max_batch=config.max_batch, pixels=False)
        return out.tokens

    draw_missing(shards, wanted, config.seed, config.max_batch, draw)
    return frames, shards


def encoded(config: Any, pipe: Pipeline, grid: Grid) -> tuple[Frames, TokenShards]:
    """Captions' frames, and pictures of a folder as codes."""
    pictures = read_folder(Path(config.images))
    frames = _frames(pipe, [picture.caption for picture in pictures], grid)
    made_with = {
        "tokenizer": fingerprint(pipe.origin.vq_path(pipe.config)),
        "images": digest_of([[picture.name, picture.bytes] for picture in pictures]),
    }
    shards = _shards(config, pipe, grid, np.arange(len(pictures), dtype=np.int32), made_with)
    stride = pipe.vq_config.stride
    size = (grid.rows * stride, grid.cols * stride)
    encode_missing(shards, Path(config.images), pictures, size, config.max_batch, pipe.encode)
    return frames, shards


def _frames(pipe: Pipeline, prompts: list[str], grid: Grid) -> Frames:
    """All of them before the first picture is made: a prompt that cannot be read should not stop a night's work."""
    return [pipe.prompts.pair(text, None, grid) for text in prompts]


def _shards(config: Any, pipe: Pipeline, grid: Grid, prompts: np.ndarray, made_with: dict) -> TokenShards:
    split(prompts, config.heldout)  # too few pictures are reported before they are made
    return TokenShards(Path(config.data), prompts, grid, pipe.config.visual_size, config.pictures_per_file, made_with)


def write_report(path: Path, found: dict[str, dict], config: Any, pipe: Pipeline, shards: TokenShards) -> None:
    """Writes what the heads are worth on held-out pictures, as markdown tables."""
    made = f"drawn by it from {config.prompts_file}" if config.prompts_file else f"of the folder {config.images}"
    lines = [
        f"Draft heads of {pipe.folder} (fingerprint {pipe.fingerprint()[:12]}), trained on {len(shards.prompts)} "
        f"pictures {made}: {config.heads.steps} steps of {config.heads.batch} pictures on Smooth L1, "
        f"{config.overlap.steps} of {config.overlap.batch} on overlap. Means over at most {config.report_images} "
        "held-out pictures; overlap is the chance that a draft is kept, with the model's own guidance and top-k.",
        *heads_tables(found),
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
