"""Defines a planned job (model, grid, batch and mesh) and the shapes of its arrays."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from ssd_jax.backbones.prompting import grid_of
from ssd_jax.decode.base import Decoder
from ssd_jax.decode.engine import cache_spec
from ssd_jax.errors import UserError
from ssd_jax.models.branch import boxed_branch
from ssd_jax.models.config import BranchConfig, HeadCounts, HeadsConfig, ModelConfig
from ssd_jax.models.draft_heads import boxed_heads
from ssd_jax.models.int8 import scales
from ssd_jax.models.transformer import boxed_backbone, layout_of
from ssd_jax.models.vq_models import AnyVQConfig, abstract_vq
from ssd_jax.parallel.mesh import DATA, MODEL, abstract, check_divides, parse_mesh, sharding_of
from ssd_jax.pipeline.loading import require_options
from ssd_jax.pipeline.model_sizes import Models
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import whole_batch
from ssd_jax.sequence.cache import KVCache
from ssd_jax.sequence.layout import Grid
from ssd_jax.weights.mapping import flatten

PROMPT = 128
"""Slots of the prompt; few beside the image's."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One batch to decode.

    Attributes:
        config, heads, vq: the backbone, its draft heads, the image tokenizer.
        grid: R and C.
        images: images decoded at once.
        guided: whether every image has an unconditional batch row.
        data, model: axis sizes of the mesh.
        dtype: dtype of weights and cache; the image tokenizer is float32.
        quantize, attention: as for `pipeline.loading.load`.
        prompt: S.
        here: whether it runs on this machine, whose windows decoders then have; otherwise those of accelerators.
        branch: the vertical branch, None without one.
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
    quantize: str | None = None
    attention: str = "plain"
    prompt: int = PROMPT
    here: bool = False
    branch: BranchConfig | None = None

    def __post_init__(self):
        require_options(self.attention, self.quantize, self.devices > 1)
        check_divides(self.config, self.mesh)
        if self.rows % self.data:
            raise UserError(f"data:{self.data} does not divide {self.rows} rows.")

    @property
    def rows(self) -> int:
        """Rows of the CFG batch."""
        return self.images * (1 + self.guided)

    @property
    def devices(self) -> int:
        """Size of the mesh."""
        return self.data * self.model

    @property
    def mesh(self) -> AbstractMesh:
        """The mesh without devices, enough to compute shard shapes."""
        return AbstractMesh((self.data, self.model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)

    @property
    def slots(self) -> int:
        """T, slots of the cache."""
        return self.prompt + layout_of(self.config, self.grid).length

    def as_run(self, decoder: Decoder) -> Decoder:
        """The decoder with its window."""
        return decoder if self.here else decoder.on_accelerator()

    def fed(self, window: int) -> int:
        """Slots of a pass over `window` visual tokens, row ends included; 0 is the prefill. A slanted front has two
        more (6 instead of 4 of 331 for Emu3), which are not counted."""
        if not window:
            return self.prompt
        ends = min(-(-window // self.grid.cols), self.grid.rows - 1)
        return window + layout_of(self.config, self.grid).row_ends * ends

    def backbone(self, mesh: Any = None) -> Any:
        """The backbone's parameters as shapes with shardings over `mesh`; None is the abstract mesh."""
        return self._abstract(boxed_backbone(self.config), mesh)

    def drafters(self, mesh: Any = None) -> Any:
        """The draft heads' parameters, likewise."""
        return self._abstract(boxed_heads(self.heads, self.config.width), mesh)

    def below(self, mesh: Any = None) -> Any:
        """The vertical branch's parameters, likewise; none without one."""
        return {} if self.branch is None else self._abstract(boxed_branch(self.config, self.branch), mesh)

    @property
    def head_counts(self) -> HeadCounts:
        """Numbers of draft heads, and of the vertical branch's layers."""
        return HeadCounts.of(self.heads, self.branch)

    def tokenizer(self) -> Any:
        """The image tokenizer's parameters as shapes; it is on one device."""
        return abstract_vq(self.vq)

    def cache(self, mesh: Any = None, branch_layers: int = 0) -> KVCache:
        """The cache as shapes with shardings, with so many layers of the vertical branch."""
        spec = cache_spec(self.config, self.grid, self.rows, self.prompt, self.dtype, self.attention, branch_layers)
        return spec.abstract(sharding_of(spec.axes, spec.shape, mesh or self.mesh))

    def _abstract(self, boxed: Any, mesh: Any) -> Any:
        return abstract(boxed, mesh or self.mesh, self.dtype, self.quantize)


def count(tree: Any) -> int:
    """Number of parameters of a tree, on all devices together, without the scales of quantised ones."""
    leaves = flatten(tree)
    return sum(leaves[name].size for name in leaves.keys() - scales(leaves))


def job_for(
    models: Models,
    mesh: str,
    size: str | None,
    images: int,
    cfg_scale: float | None,
    quantize: str | None = None,
    attention: str = "plain",
) -> Job:
    """The job of a command line: `mesh` as for --mesh ("" is one device), `size` as for --size, `images` at once,
    rounded up to fill the mesh; None is the backbone's own. Raises `UserError` for invalid values."""
    backbone, heads, tokenizer, branch = models
    sizes = parse_mesh(mesh) if mesh else {DATA: 1, MODEL: 1}
    guided = (backbone.cfg_scale if cfg_scale is None else cfg_scale) != 1.0
    return Job(
        backbone,
        heads,
        tokenizer,
        branch=branch,
        grid=grid_of(backbone, size, tokenizer.stride),
        images=whole_batch(images, guided, sizes[DATA]),
        guided=guided,
        data=sizes[DATA],
        model=sizes[MODEL],
        quantize=quantize,
        attention=attention,
    )


def job_of(pipe: Pipeline) -> Job:
    """One image of a loaded model on one device."""
    config = pipe.config
    return Job(
        config,
        pipe.heads or HeadsConfig(0, 0),
        pipe.vq_config,
        Grid(config.rows, config.cols),
        guided=config.cfg_scale != 1.0,
        dtype=jnp.dtype(pipe.dtype),
        quantize=pipe.quantize or None,
        attention=pipe.attention,
        here=True,
        branch=None if pipe.model.branch is None else pipe.model.branch.config,
    )
