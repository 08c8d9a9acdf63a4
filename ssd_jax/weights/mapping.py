"""Nested linen parameters <-> the flat tensor names of a checkpoint file: {"block_0": {"mlp": {"up": x}}} is
{"block_0.mlp.up": x}."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

COLLECTION = "params"
"""The linen collection that `init` puts around parameters; it is not part of a tensor's name."""


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flat names and leaves of a nested dict, with or without the leading "params"; leaves are arrays or abstract.

    Raises:
        TypeError: a leaf is no array; logical-partitioning boxes must be removed first (`flax.linen.meta.unbox`).
        ValueError: a key has a dot, so that its flat name could not be read back.
    """
    if set(params) == {COLLECTION}:
        params = params[COLLECTION]
    flat = {}
    for keys, leaf in traverse_util.flatten_dict(params).items():
        name = ".".join(keys)
        if any("." in key for key in keys):
            raise ValueError(f"parameter {name!r}: a key must not contain a dot.")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(f"parameter {name!r} is no array but {type(leaf).__name__}; unbox parameters first.")
        flat[name] = leaf
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: {"params": nested dict}, as `Module.apply` takes it."""
    return {COLLECTION: traverse_util.unflatten_dict(dict(flat), sep=".")}
