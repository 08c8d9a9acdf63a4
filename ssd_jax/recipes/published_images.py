"""Makes the training images of a published backbone, as codes: it draws them itself, or a folder's are encoded."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ssd_jax.data.image_folder import encode_missing, read_folder
from ssd_jax.data.prompted_codes import Frames, PromptedCodes, split
from ssd_jax.data.self_distillation import digest_of, draw_missing, jobs
from ssd_jax.data.token_shards import TokenShards
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import require_prompt
from ssd_jax.prompts.lines import read_lines
from ssd_jax.recipes.published_spec import FromFolder, FromPrompts, PublishedSpec
from ssd_jax.sequence.layout import Grid
from ssd_jax.weights.load import fingerprint


@dataclasses.dataclass(frozen=True)
class Images:
    """Training images as codes with their prompts.

    Attributes:
        source: serves batches of them.
        origin: JSON that identifies them.
        made: their number and where they come from, in words.
    """

    source: PromptedCodes
    origin: dict
    made: str

    @classmethod
    def make(cls, spec: PublishedSpec, pipe: Pipeline, grid: Grid) -> "Images":
        """Makes those that are missing in `spec.data`; raises `UserError` for an unusable data set or cache."""
        given = spec.pictures
        frames, shards = (drawn if isinstance(given, FromPrompts) else encoded)(spec, pipe, grid)
        pad_id = max(pipe.config.pad_id, 0)  # padding is masked, so any id will do
        source = PromptedCodes(shards.read(), shards.prompts, frames, pad_id, spec.heldout)
        made = f"drawn by it from {given.file}" if isinstance(given, FromPrompts) else f"of the folder {given.folder}"
        origin = {"tokens": shards.manifest, "heldout": spec.heldout, "seed": spec.seed}
        return cls(source, origin, f"{len(shards.prompts)} images {made}")


def drawn(spec: PublishedSpec, pipe: Pipeline, grid: Grid) -> tuple[Frames, TokenShards]:
    """Frames of the prompts, and images that the backbone generates of them with its own guidance and top-k."""
    wanted: FromPrompts = spec.pictures
    pipe.require(wanted.decoder)
    # Of equal ones some might be held out and some not.
    prompts = list(dict.fromkeys(require_prompt(line) for line in read_lines(wanted.file)))
    frames = _frames(pipe, prompts, grid)
    seed = spec.seed
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
    """Frames of the captions, and a folder's images as codes."""
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
    """Encodes all prompts before the first image is made: an invalid prompt should not stop a long run."""
    return [pipe.prompts.pair(text, None, grid) for text in prompts]


def _shards(spec: PublishedSpec, pipe: Pipeline, grid: Grid, prompts: np.ndarray, made_with: dict) -> TokenShards:
    split(prompts, spec.heldout)  # reports too few images before making them
    return TokenShards(spec.data, prompts, grid, pipe.config.visual_size, spec.pictures_per_file, made_with)
