"""Shards batches and training states: batch rows over the data axis, every optimizer moment like its parameter."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssd_jax.parallel.mesh import DATA


def spread(batch: Any, mesh: Mesh | None) -> Any:
    """Shards host arrays over the data axis; every process holds all rows and places its own part."""
    if mesh is None:
        return batch
    rows = NamedSharding(mesh, PartitionSpec(DATA))
    return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), rows, lambda index: x[index]), batch)


def state_shardings(state: Any, params: Any, mesh: Mesh) -> Any:
    """Shardings of a training state.

    Args:
        state: abstract `TrainState`.
        params: its parameters as `parallel.mesh.place` gives them. Every leaf of the state with a parameter's path and
            shape (the parameter itself, an optimizer moment) gets its sharding; all else is replicated.
    """
    known = {_names(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    whole = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple, leaf: Any) -> NamedSharding:
        names = _names(path)
        for start in range(len(names)):
            found = known.get(names[start:])
            if found is not None and found.shape == leaf.shape:
                return found.sharding
        return whole

    return jax.tree.map_with_path(place, state)


def placed_like(state: Any, shardings: Any) -> Any:
    """An abstract state with these shardings, or none for None."""
    if shardings is None:
        return state
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def gathered(params: Any, mesh: Mesh | None) -> Any:
    """Parameters replicated on every device, so that one process can write them."""
    if mesh is None:
        return params
    return jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(params)


def _same(x: Any) -> Any:
    return x


def _names(path: tuple) -> tuple[str, ...]:
    """The trailing dictionary keys of a path."""
    names = []
    for part in reversed(path):
        if not isinstance(part, jax.tree_util.DictKey):
            break
        names.append(part.key)
    return tuple(reversed(names))
