"""Shards arrays over several accelerators: a mesh with two axes, and the table from logical axes to mesh axes.

Tensor parallelism over `model`, batch rows over `data`: weight matrices are sharded over attention heads, mlp width or
codes, the cache over batch rows and key/value heads; activations are replicated within every group of `model` devices.
A block then costs two all-reduces of its window, and no weight is communicated (Megatron-LM, arXiv 1909.08053, section
3). Int8 weights cost two more, of the largest absolute value of every row.

Arrays of images rather than of the CFG batch (tokens, keys, logits after the output head) are replicated, so that all
devices take the same decisions.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ssd_jax.errors import UserError, shown
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.int8 import quantised_boxes, with_dtype

DATA, MODEL = "data", "model"

AXES: Mapping[str, str | None] = {
    # activations
    "batch": DATA,
    "window": None,
    "slot": None,
    "code": None,
    # parameters: sharded
    "heads": MODEL,
    "kv_heads": MODEL,
    "mlp": MODEL,
    "visual": MODEL,
    "table": MODEL,
    "code_mlp": MODEL,
    "head_mlp": MODEL,
    "source": MODEL,
    # parameters: replicated
    "vocab": None,
    "place": None,
    "embed": None,
    "head_dim": None,
    "norm": None,
    "code_width": None,
    "offset": None,
    "column": None,
    "seen": None,
}
"""Logical axis -> mesh axis that it is sharded over, or None. The models use these names and no others.

"table" is the width of the embedding table, which is sharded there because vocabulary sizes are odd; "source" is the
input of a draft head, 2D.
"""


def parse_mesh(text: str) -> dict[str, int]:
    """Parses "data:2,model:4" into {"data": 2, "model": 4}; an axis that is left out has size 1."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.strip().partition(":")
        if name not in (DATA, MODEL) or name in sizes or not (re.fullmatch("[0-9]{1,6}", size) and int(size)):
            raise UserError(f"A mesh is written as data:2,model:4, each axis once and at least 1, not {shown(text)}.")
        sizes[name] = int(size)
    return {DATA: 1, MODEL: 1} | sizes


def make_mesh(spec: str | Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh of the first devices.

    Args:
        spec: text (see `parse_mesh`) or axis sizes.
        devices: devices to choose from; None is all, those of other processes included.
    Raises:
        UserError: malformed text, or more devices than there are.
    """
    sizes = parse_mesh(spec) if isinstance(spec, str) else {DATA: 1, MODEL: 1} | dict(spec)
    devices = jax.devices() if devices is None else list(devices)
    count = math.prod(sizes.values())
    if count > len(devices) or (count < len(devices) and jax.process_count() > 1):
        what = f"A mesh of data:{sizes[DATA]},model:{sizes[MODEL]} takes {count} devices"
        several = "; several processes need a mesh of them all" if count < len(devices) else ""
        raise UserError(f"{what}, but there are {len(devices)} ({devices[0].platform}){several}.")
    shape = (sizes[DATA], sizes[MODEL])
    return jax.make_mesh(shape, (DATA, MODEL), axis_types=(AxisType.Auto,) * 2, devices=devices[:count])


def check_divides(config: ModelConfig, mesh: Mesh) -> None:
    """Raises `UserError` if the backbone cannot be sharded over the mesh."""
    parts = mesh.shape[MODEL]
    split = {
        "heads": config.heads,
        "mlp columns": config.mlp_width,
        "columns of the embedding table": config.width,
        "columns inside the output head" if config.head_width else "visual codes": config.head_width
        or config.visual_size,
    }
    for what, size in split.items():
        if size % parts:
            raise UserError(f"model:{parts} does not divide the {size} {what}; {_advice(config, split)}")
    if config.kv_heads % parts and parts % config.kv_heads:
        raise UserError(
            f"model:{parts} neither divides the {config.kv_heads} key/value heads nor is a multiple of them; "
            f"{_advice(config, split)}"
        )


def _advice(config: ModelConfig, split: Mapping[str, int]) -> str:
    common = math.gcd(*split.values())
    fitting = [n for n in range(1, common + 1) if not (common % n or config.kv_heads % n and n % config.kv_heads)]
    return f"it can be {', '.join(map(str, fitting))}."


def axis_of(name: str | None, size: int, mesh: Mesh) -> str | None:
    """The mesh axis that a logical axis of this size is sharded over; raises `KeyError` for a name not in the table.

    Fewer key/value heads than `model` devices are replicated, as queries of several devices share one.
    """
    if name is None or name == "kv_heads" and size % mesh.shape[MODEL]:
        return None
    return AXES[name]


def sharding_of(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding of an array of `shape` with these logical axes."""
    return NamedSharding(mesh, PartitionSpec(*(axis_of(*axis, mesh) for axis in zip(names, shape, strict=True))))


def place(boxed: Any, mesh: Mesh | None) -> Any:
    """Adds shardings to abstract parameters.

    Args:
        boxed: pytree of abstract parameters, boxed by flax with logical axis names.
        mesh: None is one device.
    Returns:
        the same unboxed; leaves are `jax.ShapeDtypeStruct`, with shardings if there is a mesh.
    """
    if mesh is None:
        return nn.unbox(boxed)

    def placed(box: nn.LogicallyPartitioned) -> jax.ShapeDtypeStruct:
        leaf = box.value
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of(box.names, leaf.shape, mesh))

    return jax.tree.map(placed, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def abstract(boxed: Any, mesh: Mesh | None, dtype: DTypeLike, quantize: str | None = None) -> Any:
    """Boxed abstract parameters with shardings (see `place`) and the dtypes of a model that is loaded with `dtype`; for
    "int8" the matrices are quantised (see `models.int8`)."""
    return with_dtype(place(quantised_boxes(boxed) if quantize else boxed, mesh), dtype)


def device_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The shape of one device's shard of an array."""
    return tuple(leaf.shape) if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)


def device_bytes(tree: Any) -> int:
    """Bytes that one device holds of all arrays of a tree; leaves may be shapes."""
    return sum(math.prod(device_shape(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@contextlib.contextmanager
def using(mesh: Mesh | None, config: ModelConfig) -> Iterator[None]:
    """A context in which this backbone's activations are sharded by the table; outside there are no constraints."""
    if mesh is None:
        yield
        return
    rules = {**AXES, "kv_heads": axis_of("kv_heads", config.kv_heads, mesh)}
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules.items())):
        yield


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Replicates arrays and keys on every device of the mesh; every process must pass the same values."""
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        values = np.asarray(x)
        return jax.make_array_from_callback(values.shape, everywhere, lambda index: values[index])

    return jax.tree.map(put, tree)
