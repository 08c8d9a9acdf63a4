"""Draft heads for a published backbone: what `python train.py --config=configs/emu3.py --config.weights=DIR` runs.

The backbone is loaded as for drawing and stays as it is. Images, drawn by itself from a file of prompts or encoded
from a folder with captions, are kept as codes under `config.data`; the heads are trained on the states that the
backbone has while it reads them, and go to `<workdir>/export`.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ssd_jax.backbones.prompting import grid_of
from ssd_jax.data.image_folder import encode_missing, read_folder
from ssd_jax.data.prompted_codes import Frames, PromptedCodes, split
from ssd_jax.data.self_distillation import digest_of, draw_missing, jobs
from ssd_jax.data.token_shards import TokenShards
from ssd_jax.errors import UserError
from ssd_jax.files import replacing
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.parallel.mesh import DATA
from ssd_jax.parallel.processes import together
from ssd_jax.pipeline.loading import load
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import require_prompt
from ssd_jax.prompts.lines import read_lines
from ssd_jax.recipes.published_spec import FromFolder, FromPrompts, PublishedSpec
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.head_training import Frozen, Values, tables, train_draft_heads
from ssd_jax.training.metrics import require_plots
from ssd_jax.weights.load import fingerprint
from ssd_jax.weights.store import find_weights


def run(spec: PublishedSpec) -> Path:
    """Makes the tokens that are missing, trains the heads, writes the report; returns the export folder.

    Raises:
        UserError: a checkpoint, data or a cache that cannot be used.
    """
    require_plots()
    pipe = open_backbone(spec)
    grid = grid_of(pipe.config, spec.size, pipe.vq_config.stride)
    frames, shards = (drawn if isinstance(spec.pictures, FromPrompts) else encoded)(spec, pipe, grid)
    pad_id = max(pipe.config.pad_id, 0)  # padding is masked, so any id will do
    source = PromptedCodes(shards.read(), shards.prompts, frames, pad_id, spec.heldout)
    frozen = Frozen(LoadedModel(pipe.params, pipe.config), grid, find_weights(pipe.folder), pipe.mesh)
    data = {"tokens": shards.manifest, "heldout": spec.heldout, "seed": spec.heads.seed}
    found = train_draft_heads(frozen, source, spec.heads, spec.workdir, data)
    together("heads: report", lambda: write_report(spec, pipe, len(shards.prompts), found))
    return spec.export


def open_backbone(spec: PublishedSpec) -> Pipeline:
    """The checkpoint of the spec, over its mesh."""
    pipe = load(spec.weights, mesh=spec.mesh, vq_weights=spec.vq_weights)
    if (found := pipe.config.architecture) != spec.architecture:
        raise UserError(f"The config is for checkpoints of {spec.architecture}, but {spec.weights} is one of {found}.")
    devices = 1 if pipe.mesh is None else pipe.mesh.shape[DATA]
    for name, phase in (("heads", spec.heads.smooth_l1), ("overlap", spec.heads.overlap)):
        if phase.micro_batch % devices:
            raise UserError(
                f"config.{name}.batch / accumulation is {phase.micro_batch}, but must be a multiple of the mesh's "
                f"data:{devices}."
            )
    return pipe


def drawn(spec: PublishedSpec, pipe: Pipeline, grid: Grid) -> tuple[Frames, TokenShards]:
    """Prompts' frames, and images that the backbone draws of them with its own guidance and top-k."""
    wanted: FromPrompts = spec.pictures
    pipe.require(wanted.decoder)
    # Of equal ones some might be held out and some not.
    prompts = list(dict.fromkeys(require_prompt(line) for line in read_lines(wanted.file)))
    frames = _frames(pipe, prompts, grid)
    seed = spec.heads.seed
    made_with = {
        "backbone": pipe.fingerprint(),
        "dtype": jnp.dtype(pipe.dtype).name,
        "prompts": digest_of(prompts),
        "pictures_per_prompt": wanted.each,
        "seed": seed,
        "decoder": {"kind": type(wanted.decoder).__name__, **dataclasses.asdict(wanted.decoder)},
        "cfg_scale": pipe.config.cfg_scale,
        "top_k": pipe.config.top_k,
        "temperature": 1.0,
    }
    pictures = jobs(len(prompts), wanted.each)
    shards = _shards(spec, pipe, grid, pictures[:, 0], made_with)
    options = dict(decoder=wanted.decoder, size=spec.size, max_batch=spec.max_batch, pixels=False)

    def draw(indices: list[int], seeds: list[int]) -> np.ndarray:
        return pipe.generate([prompts[index] for index in indices], seed=seeds, **options).tokens

    draw_missing(shards, pictures, seed, spec.max_batch, draw)
    return frames, shards


def encoded(spec: PublishedSpec, pipe: Pipeline, grid: Grid) -> tuple[Frames, TokenShards]:
    """Captions' frames, and images of a folder as codes."""
    given: FromFolder = spec.pictures
    pictures = read_folder(given.folder)
    frames = _frames(pipe, [picture.caption for picture in pictures], grid)
    made_with = {
        "tokenizer": fingerprint(pipe.origin.vq_path(pipe.config)),
        "images": digest_of([[picture.name, picture.bytes] for picture in pictures]),
    }
    shards = _shards(spec, pipe, grid, np.arange(len(pictures), dtype=np.int32), made_with)
    stride = pipe.vq_config.stride
    size = (grid.rows * stride, grid.cols * stride)
    encode_missing(shards, given.folder, pictures, size, spec.max_batch, pipe.encode)
    return frames, shards


def _frames(pipe: Pipeline, prompts: list[str], grid: Grid) -> Frames:
    """All of them before the first image is made: a prompt that cannot be read should not stop a night's work."""
    return [pipe.prompts.pair(text, None, grid) for text in prompts]


def _shards(spec: PublishedSpec, pipe: Pipeline, grid: Grid, prompts: np.ndarray, made_with: dict) -> TokenShards:
    split(prompts, spec.heldout)  # too few images are reported before they are made
    return TokenShards(spec.data, prompts, grid, pipe.config.visual_size, spec.pictures_per_file, made_with)


def write_report(spec: PublishedSpec, pipe: Pipeline, pictures: int, found: Values) -> None:
    """Writes what the heads are worth on held-out images, as markdown tables."""
    given, heads = spec.pictures, spec.heads
    made = f"drawn by it from {given.file}" if isinstance(given, FromPrompts) else f"of the folder {given.folder}"
    lines = [
        f"Draft heads of {pipe.folder} (fingerprint {pipe.fingerprint()[:12]}), trained on {pictures} pictures {made}: "
        f"{heads.smooth_l1.steps} steps of {heads.smooth_l1.batch} pictures on Smooth L1, {heads.overlap.steps} of "
        f"{heads.overlap.batch} on overlap. Means over at most {heads.report_images} held-out pictures; overlap is the "
        "chance that a draft is kept, with the model's own guidance and top-k.",
        *tables(found),
    ]
    with replacing(spec.report) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
