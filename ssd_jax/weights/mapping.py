"""Maps parameters to the stored tensors that they are read from.

Our own files hold nested linen parameters under flat names: {"block_0": {"mlp": {"up": x}}} is {"block_0.mlp.up": x}.
In published files a parameter has another name, its axes are permuted and grouped, and it may be a part of a tensor,
as described by a `Source`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

COLLECTION = "params"
"""The linen collection that `init` puts around parameters; it is not part of a tensor's name."""


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flat names and leaves of a nested dict, with or without the leading "params"; leaves are arrays or abstract.

    Raises:
        TypeError: a leaf is not an array; logical-partitioning boxes must be removed first (`flax.linen.meta.unbox`).
        ValueError: a key contains a dot, so its flat name could not be read back.
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


@dataclasses.dataclass(frozen=True)
class Source:
    """The stored tensor that a parameter is read from.

    Attributes:
        name: the tensor's name.
        layout: stored axes and the parameter's, as in "(n h) d -> d n h": stored axes in the file's order; those in
            brackets are stored as one, and a number is the length of an axis that the parameter lacks, of which the
            last entry is read. Empty: the same axes.
        first, rows: the parameter is a part of the stored axis 0, which has `rows` entries, from entry `first` on;
            `rows` 0: the full axis.
        spread: the stored axis 0 may have fewer entries than the parameter's, each repeated equally often.
    """

    name: str
    layout: str = ""
    first: int = 0
    rows: int = 0
    spread: bool = False

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the tensor of a parameter of `shape` must have in the file."""
        stored = tuple(
            group if isinstance(group, int) else math.prod(shape[axis] for axis in group)
            for group in self._groups(len(shape))
        )
        return (self.rows, *stored[1:]) if self.rows else stored

    def fits(self, stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether a tensor of shape `stored` can fill a parameter of `shape`."""
        wanted = self.stored_shape(shape)
        if self.spread and len(stored) == len(wanted) and stored and stored[0] and not wanted[0] % stored[0]:
            return stored[1:] == wanted[1:]
        return stored == wanted

    def read(self, tensor: Any, shape: tuple[int, ...], index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The part `index` of the parameter of `shape`; reads no more of the tensor than needed.

        Args:
            tensor: the stored tensor, indexable by one slice per axis; it must fit.
            shape: the parameter's shape.
            index: one slice with step 1 per axis of the parameter; None is the full parameter.
        """
        ranges = [
            part.indices(size)[:2] for part, size in zip(index or (slice(None),) * len(shape), shape, strict=True)
        ]
        groups = self._groups(len(shape))
        if self.spread:
            whole = tensor[(slice(None),) * len(groups)]
            whole = np.repeat(whole, self.stored_shape(shape)[0] // whole.shape[0], axis=0)
            return whole[tuple(slice(*part) for part in ranges)]
        slices, sizes = [], []
        for group in groups:
            if isinstance(group, int):
                slices.append(slice(group - 1, group))
                continue
            # Of axes stored as one, a range of the slowest is contiguous; ranges of the others are cut out below.
            inner = math.prod(shape[axis] for axis in group[1:])
            low, high = ranges[group[0]]
            offset = 0 if slices else self.first * inner
            slices.append(slice(offset + low * inner, offset + high * inner))
            sizes += [high - low, *(shape[axis] for axis in group[1:])]
        stored = tensor[tuple(slices)]
        axes = [group for group in groups if not isinstance(group, int)]
        order = [axis for group in axes for axis in group]
        out = stored.reshape(sizes).transpose([order.index(axis) for axis in range(len(shape))])
        leading = {group[0] for group in axes}
        return out[tuple(slice(None) if axis in leading else slice(*part) for axis, part in enumerate(ranges))]

    def _groups(self, ndim: int) -> tuple[tuple[int, ...] | int, ...]:
        """For every stored axis, the parameter's axes that it combines, or the length of an axis that it lacks."""
        return _parse(self.layout) if self.layout else tuple((axis,) for axis in range(ndim))


@functools.cache
def _parse(layout: str) -> tuple[tuple[int, ...] | int, ...]:
    """For every stored axis of a layout, the indices of its parts among our axes, or the length of one without any."""
    stored, ours = (side.split() for side in layout.replace("(", " ( ").replace(")", " ) ").split("->"))
    if sorted(token for token in stored if token not in "()" and not token.isdigit()) != sorted(ours):
        raise ValueError(f"{layout!r} does not name every axis once on both sides.")
    groups, bracket = [], None
    for token in stored:
        if token == "(":
            bracket = []
        elif token == ")":
            groups.append(tuple(bracket))
            bracket = None
        elif bracket is not None:
            bracket.append(ours.index(token))
        else:
            groups.append(int(token) if token.isdigit() else (ours.index(token),))
    return tuple(groups)
