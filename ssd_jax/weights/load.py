"""Reading a checkpoint folder. Nothing is unpickled, and a file is checked from its header before any data is read."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from ssd_jax.errors import UserError
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig, from_dict, read_json
from ssd_jax.weights.mapping import COLLECTION, flatten, unflatten

CONFIG_NAME = "config.json"
FORMAT = "ssd_jax-1"
HEADS_KEY = "heads"
"""The metadata of a heads file: JSON with `config` and `backbone`, the fingerprint of the file they belong to."""
"""Keys in the metadata of a heads file."""

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_FLOATS = {"F64", "F32", "F16", "BF16"}


class WeightsError(UserError):
    """A checkpoint file that cannot be used."""


def read_tensors(path: Path, like: Mapping[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """Reads parameters, one tensor at a time, so that host memory holds one tensor more than the result.

    Args:
        path: a safetensors file with exactly the tensors of `like`.
        like: nested dict of `jax.ShapeDtypeStruct`, with or without the leading "params". A leaf's sharding, if
            any, says where the array goes.
        dtype: what floating-point tensors are cast to; others must be stored as `like` has them.
    Returns:
        the structure of `like` with arrays.
    Raises:
        WeightsError: the file is missing, damaged or a pickle, or a tensor is missing, unexpected, or of another
            shape or dtype.
    """
    leaves = flatten(like)
    with _opened(path) as file:
        _check(path, file, leaves)
        flat = {}
        for name, leaf in leaves.items():
            kind = dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
            flat[name] = jax.device_put(file.get_tensor(name).astype(kind, copy=False), leaf.sharding)
    params = unflatten(flat)
    return params if COLLECTION in like else params[COLLECTION]


def read_config(folder: Path) -> tuple[ModelConfig, VQConfig]:
    """Reads `config.json` of a checkpoint folder; raises a `UserError` that names the file and what is wrong in it."""
    path = Path(folder) / CONFIG_NAME
    sections = read_json(path)
    if sections.get("format") != FORMAT:
        raise WeightsError(f"{path}: format must be {FORMAT!r}, not {sections.get('format')!r}.")
    for name in ("model", "vq"):
        if name not in sections:
            raise WeightsError(f"{path}: section {name!r} is missing.")
    model = from_dict(ModelConfig, sections["model"], f"{path}: model")
    return model, from_dict(VQConfig, sections["vq"], f"{path}: vq")


def read_metadata(path: Path) -> dict[str, str]:
    """The text in a safetensors file's header; empty if there is none."""
    with _opened(path) as file:
        return file.metadata() or {}


def fingerprint(path: Path) -> str:
    """Identifies a backbone file: sha256 of the sorted tensor names with shapes and the bytes of every 1-D tensor.

    Only the 1-D tensors are hashed, because a backbone may have 16 GB: they are the norm scales, a few kilobytes, and
    as trained parameters they differ between any two trainings. Two untrained backbones, whose scales are all ones,
    or two that differ in matrices alone are not told apart. The bytes are those stored: the dtype in which a file is
    loaded does not matter, but the same weights saved in another dtype are another file.
    """
    digest = hashlib.sha256()
    with _opened(path) as file:
        for name in sorted(file.keys()):
            shape = file.get_slice(name).get_shape()
            digest.update(f"{name} {shape}\n".encode())
            if len(shape) == 1:
                digest.update(file.get_tensor(name).tobytes())
    return digest.hexdigest()


def read_heads_config(path: Path, backbone_path: Path) -> HeadsConfig:
    """The config of a heads file; raises `WeightsError` unless the heads were trained on this very backbone file."""
    metadata = read_metadata(path)
    if HEADS_KEY not in metadata:
        raise WeightsError(f"{path}: metadata {HEADS_KEY!r} is missing, so this is no file of draft heads.")
    try:
        values = json.loads(metadata[HEADS_KEY])
        found, trained_on = values["config"], values["backbone"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise WeightsError(f"{path}: metadata {HEADS_KEY!r} is not JSON with 'config' and 'backbone'.") from None
    config = from_dict(HeadsConfig, found, f"{path}: {HEADS_KEY}")
    if trained_on != fingerprint(backbone_path):
        raise WeightsError(f"{path}: these draft heads were trained on another backbone than {backbone_path}.")
    return config


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """An open safetensors file; opening checks that the header fits the file's size and describes every byte of it."""
    path = Path(path)
    if path.suffix in _PICKLES:
        raise WeightsError(
            f"{path} is refused: {path.suffix} files are pickles, which can run any code when loaded; "
            "convert it to safetensors."
        )
    if not path.exists():
        raise WeightsError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}.") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}.") from None


def _check(path: Path, file: safe_open, leaves: Mapping[str, Any]) -> None:
    """Compares the header with the wanted tensors."""
    stored = set(file.keys())
    for what, names in (("is missing", set(leaves) - stored), ("is unexpected", stored - set(leaves))):
        if names:
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise WeightsError(f"{path}: tensor {min(names)!r} {what}{others}.")
    for name, leaf in leaves.items():
        tensor = file.get_slice(name)
        shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
        if shape != tuple(leaf.shape):
            raise WeightsError(f"{path}: tensor {name!r} has shape {shape}, but the config wants {tuple(leaf.shape)}.")
        if kind not in _stored_as(leaf.dtype):
            wanted = " or ".join(sorted(_stored_as(leaf.dtype)))
            raise WeightsError(f"{path}: tensor {name!r} has dtype {kind}, but {wanted} is wanted.")


def _stored_as(dtype: DTypeLike) -> set[str]:
    """The safetensors names of the dtypes that a parameter of `dtype` may be stored in: "int8" is "I8"."""
    if jnp.issubdtype(dtype, jnp.floating):
        return _FLOATS
    return {np.dtype(dtype).name.replace("uint", "U").replace("int", "I").upper()}
