"""Reads parameters from safetensors files, after checking all headers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ssd_jax.errors import shown
from ssd_jax.models.int8 import SUFFIX, quantised_leaf, scales
from ssd_jax.weights.mapping import COLLECTION, Source, flatten, unflatten
from ssd_jax.weights.store import Store, WeightsError, opened, others

SMALL = 2**20
"""Tensors with fewer numbers are checked by NumPy."""

_FLOATS = {"F64", "F32", "F16", "BF16"}


def read_tensors(
    path: Path,
    like: Mapping[str, Any],
    dtype: DTypeLike,
    sources: Mapping[str, Source] | None = None,
    ignored: str = "",
) -> dict[str, Any]:
    """Reads parameters one tensor at a time: host memory holds one tensor beyond the result, and a device at most one
    that is not cast yet. Headers are compared with the wanted parameters before any data is read.

    Args:
        path: a safetensors file or the index of a sharded one.
        like: nested dict of `jax.ShapeDtypeStruct`, with or without the leading "params". A leaf's sharding, if
            any, is the array's; every device then gets only its own shard. An int8 leaf with a scale beside it (see
            `models.int8`) is stored as a float tensor and quantised when it is read.
        dtype: dtype to cast floating-point tensors to; others must be stored with the dtype in `like`.
        sources: the stored tensor of every flat name of `like` except scales; None: the tensor of that name.
        ignored: pattern of the names of tensors to ignore.
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
    """The float parameter from which a quantised one is made."""
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)


def _read(store: Store, leaf: Any, source: Source, dtype: DTypeLike | None) -> jax.Array:
    """Reads one parameter; `dtype` None keeps the stored dtype."""
    tensor, shape = store.tensors[source.name], tuple(leaf.shape)
    kind = dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
    if leaf.sharding is None:
        values = source.read(tensor, shape)
        # The device permutes the axes, many times faster than NumPy.
        array = jax.device_put(values).block_until_ready()
        del values  # before the cast allocates memory
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

    Reads the array once, at memory speed: sums of rows are ten times as fast as checking each number, which is done
    only where a sum overflows. (Maxima would not do: on a CPU with jax 0.10.2 those of large arrays ignore NaN.) NumPy
    checks small arrays, as every shape would have to be compiled.
    """
    if not array.size or not jnp.issubdtype(array.dtype, jnp.floating):
        return True
    if array.size < SMALL and array.is_fully_addressable:
        return bool(np.isfinite(np.asarray(array).astype(np.float32)).all())
    return bool(_sums_finite(array)) or bool(_each_finite(array))


def _check(store: Store, leaves: Mapping[str, Any], sources: Mapping[str, Source], ignored: str) -> None:
    """Compares the headers with the wanted parameters."""
    stored, wanted = store.tensors.keys(), {source.name for source in sources.values()}
    if len(wanted) < len(sources):
        raise ValueError("two parameters have one source")
    unexpected = {name for name in stored - wanted if not re.fullmatch(ignored, name)}
    for what, names in (("is missing", wanted - stored), ("is unexpected", unexpected)):
        if names:
            raise WeightsError(f"{store.path}: tensor {shown(min(names), 200)} {what}{others(names)}.")
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
