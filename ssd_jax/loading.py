"""From the name of a checkpoint to a `Pipeline`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from ssd_jax.errors import UserError, require_one_of
from ssd_jax.models.attention import ATTENTIONS
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.heads import boxed_heads
from ssd_jax.models.products import fast_dtype
from ssd_jax.models.transformer import boxed_backbone
from ssd_jax.pipeline import Pipeline
from ssd_jax.sharding import check_divides, make_mesh, place
from ssd_jax.weights.hub import download, find_local, is_hub_id
from ssd_jax.weights.load import read_backbone, read_config, read_heads_config, read_tensors
from ssd_jax.weights.store import find_weights

BUNDLED = Path(__file__).parent / "assets"
"""Checkpoints that come with the package, by folder name."""


def load(
    source: str | Path = "emoji",
    dtype: Any = None,
    mesh: Mesh | str | None = None,
    heads: str | Path | None = None,
    vq_weights: str | Path | None = None,
    tokens: Mapping[str, int] | None = None,
    attention: str = "plain",
) -> Pipeline:
    """Loads a checkpoint.

    Args:
        source: the name of a bundled checkpoint ("emoji"); a folder, in our format or as the models are published,
            which is "./emoji" if it has such a name; or "organisation/name" of the Hugging Face hub.
        dtype: of the parameters and the cache; None is what this machine is fast with: bfloat16 on GPUs, TPUs and CPUs
            that multiply it, float32 on others. All else is float32 (see `models.products`).
        mesh: over which devices the model is spread: a mesh of `sharding.make_mesh`, or text such as
            "data:2,model:4"; None is one device. Every device is given its own part of the weights alone.
        heads: draft heads, a file, a folder with heads.safetensors or a hub id; None takes the checkpoint's own, if it
            has any.
        vq_weights: the image tokenizer's weights, a file, a folder or a hub id, where the checkpoint lacks them
            (Lumina-mGPT) or they are published by themselves (Emu3-VisionTokenizer). They are read when they are first
            needed.
        tokens: special ids where config.json and tokenizer.json do not tell: "pad", "unk", "bos", "boi", "row_end";
            in prompts of Emu3 "img", of Lumina-mGPT "end" and "size_24".
        attention: "plain", or "fused", `jax.nn.dot_product_attention`, which on NVIDIA GPUs is cuDNN's.
    Raises:
        UserError: no such checkpoint, files in it that are damaged or do not fit together, heads of another backbone,
            more devices than there are, or so many that the model cannot be split over them.
    """
    folder = find_folder(source)
    require_one_of("attention", attention, tuple(ATTENTIONS))
    dtype = fast_dtype() if dtype is None else dtype
    config, vq_config = read_config(folder, tokens)
    mesh = make_mesh(mesh) if isinstance(mesh, str) else mesh
    if mesh is not None:
        check_divides(config, mesh)
        if attention == "fused":
            raise UserError("The fused attention runs on one device; leave the mesh out, or take the plain one.")
    weights = find_weights(folder)
    params = read_backbone(weights, config, place(boxed_backbone(config), mesh), dtype)
    path = folder if heads is None else find_local(heads)
    path = path / "heads.safetensors" if path.is_dir() else path
    drafters = (None, None)
    if heads is not None or path.exists():
        drafters = _read_heads(path, weights, config, dtype, mesh)
    vq_path = None if vq_weights is None else find_local(vq_weights)
    return Pipeline(folder, config, vq_config, params, dtype, *drafters, vq_path, tokens, mesh, attention)


def find_folder(source: str | Path) -> Path:
    """The folder of a checkpoint: a local one, a bundled one, or a download; raises `UserError` if there is none."""
    folder = find_folder_here(source)
    if folder is not None:
        return folder
    if is_hub_id(str(source)):
        return download(str(source))
    known = ", ".join(_bundled()) or "none"
    raise UserError(f"There is no checkpoint folder {str(source)!r}; bundled checkpoints: {known}.")


def find_folder_here(source: str | Path) -> Path | None:
    """The folder of a bundled or local checkpoint; None if there is none. Nothing is downloaded."""
    if isinstance(source, str) and source in _bundled():
        return BUNDLED / source
    folder = Path(source)
    return folder if folder.is_dir() else None


def _bundled() -> list[str]:
    return sorted(path.name for path in BUNDLED.iterdir()) if BUNDLED.is_dir() else []


def _read_heads(
    path: Path, backbone: Path, config: ModelConfig, dtype: Any, mesh: Mesh | None
) -> tuple[HeadsConfig, Any]:
    """Config and parameters of a heads file; raises `UserError` if they belong to another backbone."""
    heads = read_heads_config(path, backbone)
    return heads, read_tensors(path, place(boxed_heads(heads, config.width), mesh), dtype)
