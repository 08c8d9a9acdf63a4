"""Reading a checkpoint folder. Nothing is unpickled, and a file is checked from its header before any data is read."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ssd_jax.backbones import PUBLISHED, backbone_of
from ssd_jax.backbones.hf_config import from_hf, with_tokens
from ssd_jax.backbones.hf_vq import vq_from_hf
from ssd_jax.files import parse_json
from ssd_jax.models.config import HeadsConfig, ModelConfig, VQConfig, from_dict, read_json
from ssd_jax.models.int8 import SUFFIX, quantised_leaf, scales
from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig
from ssd_jax.weights.mapping import COLLECTION, Source, flatten, unflatten
from ssd_jax.weights.names import find_sources, ignored_names
from ssd_jax.weights.store import Store, WeightsError, find_weights, opened, others
from ssd_jax.weights.vq_names import find_vq_sources

CONFIG_NAME, TOKENIZER_NAME = "config.json", "tokenizer.json"
FORMAT = "ssd_jax-2"
"""Of config.json and of heads files: matrices are [out, in]. In "ssd_jax-1" they were [in, out]."""

HEADS_NAME = "heads.safetensors"

HEADS_KEY = "heads"
"""The metadata of a heads file: JSON with `format`, `config` and `backbone`, the fingerprint of that file."""

SMALL = 2**20
"""Tensors of fewer numbers are looked through by NumPy."""

_FLOATS = {"F64", "F32", "F16", "BF16"}


def read_tensors(
    path: Path,
    like: Mapping[str, Any],
    dtype: DTypeLike,
    sources: Mapping[str, Source] | None = None,
    ignored: str = "",
) -> dict[str, Any]:
    """Reads parameters one tensor at a time: host memory holds one tensor more than the result, and a device at most
    one that is still to be cast. Headers are compared with the wanted parameters before anything is read.

    Args:
        path: a safetensors file or the index of a sharded one.
        like: nested dict of `jax.ShapeDtypeStruct`, with or without the leading "params". A leaf's sharding, if
            any, says where the array goes; a device is then given its own part alone. An int8 leaf with a scale
            beside it (see `models.int8`) is stored as a float tensor and quantised as soon as it is read.
        dtype: what floating-point tensors are cast to; others must be stored as `like` has them.
        sources: for every flat name of `like`, but scales, where it is stored; None: under its own name, as it is.
        ignored: a pattern of the names of tensors that are left out on purpose.
    Returns:
        the structure of `like` with arrays.
    Raises:
        WeightsError: the file is missing, damaged or a pickle, or a tensor is missing, unexpected, or of another
            shape or dtype.
    """
    leaves = flatten(like)
    scaled = scales(leaves)
    leaves = {name: leaf for name, leaf in leaves.items() if name not in scaled}
    sources = sources or {name: Source(name) for name in leaves}
    if sources.keys() != leaves.keys():
        raise ValueError(f"no source, or no parameter, for {min(sources.keys() ^ leaves.keys())!r}")
    store = opened(path)
    stored_as = {name: _floating(leaf) if name + SUFFIX in scaled else leaf for name, leaf in leaves.items()}
    _check(store, stored_as, sources, ignored)
    order = {name: place for place, name in enumerate(store.tensors)}
    flat = {}
    for name in sorted(leaves, key=lambda name: order[sources[name].name]):
        if name + SUFFIX in scaled:
            whole = _read(store, _floating(leaves[name]), sources[name], None)
            flat[name], flat[name + SUFFIX] = quantised_leaf(name, whole)
            flat[name].block_until_ready()
            del whole
        else:
            flat[name] = _read(store, leaves[name], sources[name], dtype)
    params = unflatten(flat)
    return params if COLLECTION in like else params[COLLECTION]


def _floating(leaf: Any) -> jax.ShapeDtypeStruct:
    """The float parameter that a quantised one is made of."""
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)


def _read(store: Store, leaf: Any, source: Source, dtype: DTypeLike | None) -> jax.Array:
    """One parameter; None leaves it in the dtype it is stored in."""
    tensor, shape = store.tensors[source.name], tuple(leaf.shape)
    kind = dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
    if leaf.sharding is None:
        values = source.read(tensor, shape)
        # Axes are permuted by the transfer, which is many times faster at it than NumPy.
        array = jax.device_put(values).block_until_ready()
        del values  # before the cast takes memory
    else:
        array = jax.make_array_from_callback(shape, leaf.sharding, lambda index: source.read(tensor, shape, index))
    if not finite(array):
        raise WeightsError(f"{store.path}: tensor {source.name!r} has values that are not finite.")
    return array.astype(kind or array.dtype).block_until_ready()


@jax.jit
def _sums_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array.sum(axis=-1, dtype=jnp.float32)).all()


@jax.jit
def _each_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def finite(array: jax.Array) -> bool:
    """Whether all numbers of an array are finite.

    Reads it once, as fast as memory gives it: sums of rows tell, ten times as fast as a look at each number, which
    decides where a sum overflows. (Maxima do not: those of large arrays pass over NaN on a CPU with jax 0.10.2.) Small
    arrays, of which every shape would have to be compiled, are NumPy's.
    """
    if not array.size or not jnp.issubdtype(array.dtype, jnp.floating):
        return True
    if array.size < SMALL and array.is_fully_addressable:
        return bool(np.isfinite(np.asarray(array).astype(np.float32)).all())
    return bool(_sums_finite(array)) or bool(_each_finite(array))


def read_backbone(path: Path, config: ModelConfig, like: Mapping[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """Reads a backbone's parameters under our own names or under those of its publishers; otherwise `read_tensors`."""
    names = opened(path).tensors.keys()
    if "embedding" in names or config.architecture not in PUBLISHED:
        return read_tensors(path, like, dtype)
    leaves = flatten(like)
    try:
        sources = find_sources(config, leaves.keys() - scales(leaves), names)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return read_tensors(path, like, dtype, sources, ignored_names(config))


def read_vq(path: Path, family: str, like: Mapping[str, Any]) -> dict[str, Any]:
    """Reads an image tokenizer's parameters, in float32, under our own names or under those of its publishers.

    Args:
        path: the tokenizer's own file, or that of a whole published model; or the index of a sharded one.
        family: `ModelConfig.architecture`.
        like: as for `read_tensors`, which this is otherwise.
    """
    shapes = {name: tensor.shape for name, tensor in opened(path).tensors.items()}
    if family not in PUBLISHED or "codebook" in shapes:
        return read_tensors(path, like, jnp.float32)
    try:
        sources = find_vq_sources(family, like, shapes)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return read_tensors(path, like, jnp.float32, sources, ignored=".*")


def find_vq_weights(source: Path, family: str) -> Path:
    """The file or index with an image tokenizer: `source` itself, or in this folder the tokenizer's own file or, of
    published models, the model's, which often holds both."""
    source = Path(source)
    if source.is_file():
        return source
    for path in (source / "vq.safetensors", source / "vqgan.safetensors"):
        if path.exists() or family not in PUBLISHED:
            return path
    return find_weights(source)


def read_config(
    folder: Path, tokens: Mapping[str, int] | None = None
) -> tuple[ModelConfig, VQConfig | VQGANConfig | MoVQConfig]:
    """Reads `config.json` of a checkpoint folder, in our own format or as published.

    Args:
        folder: its tokenizer.json, if any, names special ids of a published model.
        tokens: special ids that are known better (see `backbones.hf_config.from_hf`).
    Raises:
        UserError: names the file and what is wrong in it.
    """
    path = Path(folder) / CONFIG_NAME
    values = read_json(path)
    if "format" not in values and ("model_type" in values or "architectures" in values):
        model = from_hf(values, read_vocabulary(folder), tokens, str(path))
        return model, vq_from_hf(model.architecture, values, str(path))
    _check_format(path, values)
    for name in ("model", "vq"):
        if name not in values:
            raise WeightsError(f"{path}: section {name!r} is missing.")
    model = from_dict(ModelConfig, values["model"], f"{path}: model")
    backbone_of(model, f"{path}: model")
    return with_tokens(model, tokens, str(path)), from_dict(VQConfig, values["vq"], f"{path}: vq")


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Token -> id of a folder's tokenizer.json; empty without such a file."""
    path = Path(folder) / TOKENIZER_NAME
    if not path.exists():
        return {}
    values = read_json(path)
    try:
        vocabulary = values["model"]["vocab"]
        vocabulary = dict(vocabulary) if isinstance(vocabulary, dict) else {}
        return vocabulary | {token["content"]: token["id"] for token in values.get("added_tokens") or ()}
    except (KeyError, TypeError):
        raise WeightsError(f"{path} is not a tokenizer file.") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The text in a safetensors file's header; empty if there is none."""
    return dict(opened(path).metadata)


def fingerprint(path: Path) -> str:
    """Identifies a backbone's file or index: sha256 of the sorted tensor names with shapes and of all 1-D tensors.

    Only the 1-D tensors are hashed, because a backbone may have 16 GB: they are the norm scales, a few kilobytes, and
    as trained parameters they differ between any two trainings. Two untrained backbones, whose scales are all ones,
    or two that differ in matrices alone are not told apart. The bytes are those stored: the dtype in which a file is
    loaded does not matter, nor how it is sharded, but the same weights saved in another dtype are another file.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(opened(path).tensors.items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        if len(tensor.shape) == 1:
            digest.update(tensor.read())
    return digest.hexdigest()


def heads_file(path: Path) -> Path:
    """The file of draft heads: the path itself, or the one in that folder, which need not be there."""
    return path / HEADS_NAME if path.is_dir() else path


def read_heads_config(path: Path, backbone_path: Path) -> HeadsConfig:
    """The config of a heads file; raises `WeightsError` unless the heads were trained on this very backbone file."""
    config, trained_on = describe_heads(path)
    if trained_on != fingerprint(backbone_path):
        raise WeightsError(f"{path}: these draft heads were trained on another backbone than {backbone_path}.")
    return config


def describe_heads(path: Path) -> tuple[HeadsConfig, str]:
    """The config of a heads file and the fingerprint of the backbone that they belong to, from its header alone."""
    metadata = read_metadata(path)
    if HEADS_KEY not in metadata:
        raise WeightsError(f"{path}: metadata {HEADS_KEY!r} is missing, so this is no file of draft heads.")
    try:
        values = parse_json(metadata[HEADS_KEY])
        found, trained_on = values["config"], values["backbone"]
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{path}: metadata {HEADS_KEY!r} is not JSON with 'config' and 'backbone'.") from None
    _check_format(path, values)
    config = from_dict(HeadsConfig, found, f"{path}: {HEADS_KEY}")
    if not config.offsets:
        raise WeightsError(f"{path}: {HEADS_KEY} lists no draft heads.")
    return config, trained_on


def _check_format(path: Path, values: Mapping[str, Any]) -> None:
    found = values.get("format")
    if found != FORMAT:
        hint = " (an earlier version of ssd_jax wrote it, with its matrices the other way round; export it anew)"
        old = found == "ssd_jax-1" or found is None and "backbone" in values
        raise WeightsError(f"{path}: format must be {FORMAT!r}, not {found!r}{hint if old else ''}.")


def _check(store: Store, leaves: Mapping[str, Any], sources: Mapping[str, Source], ignored: str) -> None:
    """Compares the headers with the wanted parameters."""
    stored, wanted = store.tensors.keys(), {source.name for source in sources.values()}
    if len(wanted) < len(sources):
        raise ValueError("two parameters have one source")
    unexpected = {name for name in stored - wanted if not re.fullmatch(ignored, name)}
    for what, names in (("is missing", wanted - stored), ("is unexpected", unexpected)):
        if names:
            raise WeightsError(f"{store.path}: tensor {min(names)!r} {what}{others(names)}.")
    for name, leaf in leaves.items():
        source = sources[name]
        shape, kind = store.tensors[source.name].shape, store.tensors[source.name].kind
        if not source.fits(shape, leaf.shape):
            expected = source.stored_shape(leaf.shape)
            raise WeightsError(
                f"{store.path}: tensor {source.name!r} has shape {shape}, but the config wants {expected}."
            )
        if kind not in _stored_as(leaf.dtype):
            expected = " or ".join(sorted(_stored_as(leaf.dtype)))
            raise WeightsError(f"{store.path}: tensor {source.name!r} has dtype {kind}, but {expected} is wanted.")


def _stored_as(dtype: DTypeLike) -> set[str]:
    """The safetensors names of the dtypes that a parameter of `dtype` may be stored in: "int8" is "I8"."""
    if jnp.issubdtype(dtype, jnp.floating):
        return _FLOATS
    return {np.dtype(dtype).name.replace("uint", "U").replace("int", "I").upper()}
