"""What is planned: a model, a grid, a batch and a mesh; and the arrays that a decode of it takes, as shapes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from ssd_jax.cache import AXES, KVCache
from ssd_jax.errors import UserError
from ssd_jax.layout import Grid
from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.heads import boxed_heads
from ssd_jax.models.transformer import boxed_backbone, layout_of
from ssd_jax.models.vq_models import AnyVQConfig, abstract_vq
from ssd_jax.sharding import DATA, MODEL, check_divides, place, sharding_of

PROMPT = 128
"""Slots of the prompt; it hardly matters beside the picture's."""


# Shapes are found by tracing a model's `init`, which takes a second for a large one.
_backbone, _drafters, _tokenizer = map(functools.lru_cache, (boxed_backbone, boxed_heads, abstract_vq))


@dataclasses.dataclass(frozen=True)
class Job:
    """One batch to decode.

    Attributes:
        config, heads, vq: the backbone, its draft heads, the image tokenizer.
        grid: R and C.
        images: pictures decoded at once.
        guided: whether every picture has an unconditional row.
        data, model: sizes of the mesh.
        dtype: of weights and cache; the image tokenizer is float32.
        prompt: S.
    """

    config: ModelConfig
    heads: HeadsConfig
    vq: AnyVQConfig
    grid: Grid
    images: int = 1
    guided: bool = True
    data: int = 1
    model: int = 1
    dtype: Any = jnp.bfloat16
    prompt: int = PROMPT

    def __post_init__(self):
        check_divides(self.config, self.mesh)
        if self.rows % self.data:
            raise UserError(f"data:{self.data} does not divide {self.rows} rows.")

    @property
    def rows(self) -> int:
        """Batch rows, those of guidance included."""
        return self.images * (1 + self.guided)

    @property
    def devices(self) -> int:
        """Size of the mesh."""
        return self.data * self.model

    @property
    def mesh(self) -> AbstractMesh:
        """The mesh without devices: enough to tell which part of an array each has."""
        return AbstractMesh((self.data, self.model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)

    @property
    def slots(self) -> int:
        """T, slots of the cache."""
        return self.prompt + layout_of(self.config, self.grid).length

    @property
    def context(self) -> float:
        """Slots that are filled on average while a picture is drawn."""
        return self.prompt + layout_of(self.config, self.grid).length / 2

    def fed(self, window: int) -> int:
        """Slots of a pass over `window` visual tokens, those for row ends included; 0 is the prompt's pass."""
        if not window:
            return self.prompt
        return window + layout_of(self.config, self.grid).row_ends * -(-window // self.grid.cols)

    def backbone(self, mesh: Any = None) -> Any:
        """The backbone's parameters as shapes with shardings over `mesh`; None is the abstract mesh."""
        return self._cast(place(_backbone(self.config), mesh or self.mesh))

    def drafters(self, mesh: Any = None) -> Any:
        """Likewise the draft heads' parameters."""
        return self._cast(place(_drafters(self.heads, self.config.width), mesh or self.mesh))

    def tokenizer(self) -> Any:
        """The image tokenizer's parameters as shapes; it is whole on one device."""
        return _tokenizer(self.vq)

    def cache(self, mesh: Any = None) -> KVCache:
        """The cache as shapes with shardings."""
        c = self.config
        shape = (self.rows, c.kv_heads, self.slots, c.head_dim)
        leaf = jax.ShapeDtypeStruct(shape, self.dtype, sharding=sharding_of(AXES["plain"], shape, mesh or self.mesh))
        return KVCache((leaf,) * c.layers, (leaf,) * c.layers)

    def _cast(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, self.dtype, sharding=x.sharding), tree)


def device_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The shape of the part of an array that one device has."""
    return tuple(leaf.shape) if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)


def count(tree: Any) -> int:
    """Numbers in all arrays of a tree, on all devices together."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
