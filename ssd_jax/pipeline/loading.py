"""Loads a checkpoint by name or path into a `Pipeline`."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from ssd_jax.decode.engine import cache_sharding
from ssd_jax.errors import UserError, require_one_of, shown
from ssd_jax.files import require_name
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.models.branch import boxed_branch, require_fits
from ssd_jax.models.config import NONE, ModelConfig
from ssd_jax.models.draft_heads import boxed_heads
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.matmul import fast_dtype
from ssd_jax.models.transformer import boxed_backbone
from ssd_jax.parallel.mesh import DATA, abstract, check_divides, make_mesh
from ssd_jax.pipeline.execution import Execution
from ssd_jax.pipeline.free_memory import require_room
from ssd_jax.pipeline.origin import Checkpoint
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.sequence.cache import CacheSpec
from ssd_jax.sequence.dims import bucket
from ssd_jax.sequence.layout import Grid, Layout
from ssd_jax.weights.hub import download, find_local, is_hub_id
from ssd_jax.weights.load import read_backbone, read_config
from ssd_jax.weights.part_file import BRANCH_FILE, HEADS_FILE
from ssd_jax.weights.published_branch import published_branch, read_published_branch
from ssd_jax.weights.store import find_weights
from ssd_jax.weights.tensors import read_tensors

QUANTIZE = ("int8",)
"""Valid values of `load(quantize=)`."""

BUNDLED = Path(__file__).parents[1] / "assets"
"""Folder of the checkpoints that are bundled with the package."""


def load(
    source: str | Path = "emoji",
    dtype: Any = None,
    mesh: Mesh | str | None = None,
    heads: str | Path | None = None,
    vq_weights: str | Path | None = None,
    tokens: Mapping[str, int] | None = None,
    attention: str = "plain",
    quantize: str | None = None,
    revision: str | None = None,
    branch: str | Path | None = None,
) -> Pipeline:
    """Loads a checkpoint.

    Args:
        source: the name of a bundled checkpoint ("emoji", or "emoji-flash", which was trained with a vertical branch);
            a folder, in our format or a published one ("./emoji" for a folder of that name); or "organisation/name" of
            the Hugging Face hub, at its newest commit, or "organisation/name@revision", at a branch, tag or commit; so
            may `heads`, `branch` and `vq_weights` be written.
        dtype: dtype of parameters and cache; None is the fastest on this machine: bfloat16 on GPUs, TPUs and CPUs that
            multiply it, float32 on others. All else is float32 (see `models.matmul`).
        mesh: the devices over which the model is sharded: a mesh of `parallel.mesh.make_mesh`, or text such as
            "data:2,model:4"; None is one device. Every device gets only its own shard of the weights.
        heads: draft heads, a file, a folder with heads.safetensors or a hub id, or the NAME of a file
            heads-NAME.safetensors of the checkpoint: "emoji" has "published", which are of the published kind. None
            takes the checkpoint's own, if it has any.
        vq_weights: the image tokenizer's weights, a file, a folder or a hub id, if the checkpoint lacks them
            (Lumina-mGPT) or they are published separately (Emu3, Emu3.5). They are read on first use.
        tokens: special ids that config.json and tokenizer.json do not give: "pad", "unk", "bos", "boi", "row_end"; in
            prompts of Emu3 "img", of Emu3.5 also "task", of Lumina-mGPT "end" and "size_24".
        attention: "plain", or "fused", `jax.nn.dot_product_attention`, which on NVIDIA GPUs is cuDNN's.
        quantize: "int8" quantises the matrices of blocks, a branch's included, and draft heads as they are read (see
            `models.int8`): half the memory, other images.
        revision: another way to say which revision of the hub's `source`.
        branch: a vertical branch, a file, a folder with branch.safetensors or a hub id; None takes the checkpoint's
            own, if it has one.
    Raises:
        UserError: no such checkpoint, files in it that are damaged or do not fit together, parts of another backbone,
            more devices than there are, or so many that the model cannot be sharded over them.
    """
    folder = find_folder(source if revision is None else at_revision(source, revision))
    require_options(attention, quantize)
    dtype = fast_dtype() if dtype is None else dtype
    config, vq_config = read_config(folder, tokens)
    mesh = mesh_for(config, mesh, attention)
    weights = find_weights(folder)
    heads_path = HEADS_FILE.choose(None if heads is None else find_local(heads), folder)
    branch_path = BRANCH_FILE.choose(None if branch is None else find_local(branch), folder)
    drafters = None if heads_path is None else HEADS_FILE.read_config(heads_path, weights)
    below = published_branch(folder, config) if branch_path is None else BRANCH_FILE.read_config(branch_path, weights)
    if below is not None:
        require_fits(config, below, f"{branch_path or folder}: ")
    like = partial(abstract, mesh=mesh, dtype=dtype, quantize=quantize)
    backbone = like(boxed_backbone(config))
    like_heads = None if drafters is None else like(boxed_heads(drafters, config.width))
    like_branch = None if below is None else like(boxed_branch(config, below))
    require_model_fits(config, backbone, {"draft heads": like_heads, "vertical branch": like_branch}, dtype, mesh)
    params = read_backbone(weights, config, backbone, dtype)
    heads_params = None if heads_path is None else read_tensors(heads_path, like_heads, dtype)
    branch_params = None
    if branch_path is not None:
        branch_params = read_tensors(branch_path, like_branch, dtype)
    elif like_branch is not None:
        branch_params = read_published_branch(weights, config, like_branch, dtype)
    vq_path = None if vq_weights is None else find_local(vq_weights)
    origin = Checkpoint(folder, vq_path, tokens, heads_path, branch_path)
    model = LoadedModel.of(config, params, drafters, heads_params, below, branch_params)
    return Pipeline(origin, model, vq_config, Execution(dtype, mesh, attention))


def require_options(attention: str = "plain", quantize: str | None = None, spread: bool = False) -> None:
    """Raises `UserError` for unknown names, and for options that a sharded model does not support."""
    require_one_of("attention", attention, tuple(ATTENTIONS))
    if spread and attention == "fused":
        raise UserError("The fused attention runs on one device; leave the mesh out, or take the plain one.")
    if quantize is not None:
        require_one_of("quantize", quantize, QUANTIZE)


def mesh_for(config: ModelConfig, mesh: Mesh | str | None, attention: str) -> Mesh | None:
    """The mesh that `load` was given, parsed if text; raises `UserError` if the model cannot be sharded over it."""
    mesh = make_mesh(mesh) if isinstance(mesh, str) else mesh
    if mesh is not None:
        check_divides(config, mesh)
        require_options(attention, spread=True)
    return mesh


def require_model_fits(
    config: ModelConfig, backbone: Any, parts: Mapping[str, Any], dtype: Any, mesh: Mesh | None
) -> None:
    """Raises `UserError` if parameters and the cache of one image, with guidance, would not fit in memory.

    Args:
        config: the backbone's config.
        backbone: parameters as shapes, with shardings on a mesh.
        parts: what is loaded beside it, for messages -> parameters, likewise.
        dtype: dtype of the cache.
        mesh: None is one device.
    """
    length = bucket(1) + Layout(Grid(config.rows, config.cols), config.row_end_id != NONE).length
    rows = 2 if mesh is None else math.lcm(2, mesh.shape[DATA])  # as many images as fill the mesh
    spec = CacheSpec(config.layers, rows, config.kv_heads, length, config.head_dim, jnp.dtype(dtype))
    cache = spec.abstract(cache_sharding(spec, mesh))
    require_room({"weights": backbone, **parts, "cache of an image": cache}, mesh)


def find_folder(source: str | Path) -> Path:
    """The folder of a checkpoint: a local one, a bundled one, or a download; raises `UserError` if there is none."""
    folder = find_folder_here(source)
    if folder is not None:
        return folder
    if is_hub_id(str(source)):
        return download(str(source))
    known = ", ".join(_bundled()) or "none"
    raise UserError(f"There is no checkpoint folder {str(source)!r}; bundled checkpoints: {known}.")


def at_revision(source: str | Path, revision: str) -> str:
    """The hub id of a revision; raises `UserError` if the source is no hub id, or names one itself."""
    if find_folder_here(source) is not None or "@" in str(source) or not is_hub_id(str(source)):
        raise UserError(
            f"revision={shown(revision)} is for a repository of the hub, organisation/name, not for "
            f"{shown(str(source))}."
        )
    if not is_hub_id(found := f"{source}@{revision}"):
        raise UserError(f"{shown(revision)} is no name of a branch, tag or commit.")
    return found


def find_folder_here(source: str | Path) -> Path | None:
    """The folder of a bundled or local checkpoint, or None; downloads nothing."""
    if isinstance(source, str) and source in _bundled():
        return BUNDLED / source
    folder = require_name(source)
    return folder if folder.is_dir() else None


def _bundled() -> list[str]:
    return sorted(path.name for path in BUNDLED.iterdir()) if BUNDLED.is_dir() else []
