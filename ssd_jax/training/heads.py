"""Stage "heads", first part: train the draft heads on the frozen backbone's hidden states (arXiv 2606.20543)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from optax.contrib import MuonDimensionNumbers

from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.forced import forced
from ssd_jax.models.heads import DraftHeads, boxed_heads, init_heads
from ssd_jax.models.products import PRODUCTS
from ssd_jax.models.transformer import Transformer
from ssd_jax.sharding import place
from ssd_jax.training.bands import Setup, mean_over_bands
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import smooth_l1
from ssd_jax.training.spread import spread
from ssd_jax.weights.export import heads_metadata, write_heads_card, write_tensors

EXPORT_DTYPE = jnp.bfloat16

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Prompt ids int32 and prompt mask bool [G, S], codes int32 [B, R*C]; G is B, or 2B with unconditional rows behind."""


class PromptedSource(Protocol):
    """Pictures as codes with their prompts as ids."""

    def batch(self, seed: int, step: int) -> Rows:
        """A training batch; some prompts are dropped."""

    def heldout(self, limit: int) -> np.ndarray:
        """At most so many pictures that are not trained on."""

    def given(self, indices: np.ndarray) -> Rows:
        """Pictures with their prompts."""

    def guided(self, indices: np.ndarray) -> Rows:
        """Pictures with their prompts and, behind these, as many unconditional ones."""


def make_heads(model: ModelConfig, heads: HeadsConfig, matmul: str = "float32") -> DraftHeads:
    """The heads of a backbone; `matmul` is one of `PRODUCTS`."""
    return DraftHeads(heads, model.width, model.norm_eps, PRODUCTS[matmul])


def modules_of(setup: Setup) -> tuple[Transformer, DraftHeads]:
    """The backbone and its heads."""
    return Transformer(setup.model, PRODUCTS[setup.matmul]), make_heads(setup.model, setup.heads, setup.matmul)


def sources_of(
    setup: Setup, model: Transformer, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What heads start from at every token of whole pictures: h and e, float32 [B, R*C, D]."""
    hidden = forced(model, frozen, ids, mask, codes, setup.grid, setup.window)
    return hidden, model.apply(frozen, codes, method="embed_codes")


def per_offset_loss(setup: Setup) -> Callable:
    """Returns (heads' params, backbone, prompt ids, prompt mask, codes) -> Smooth L1 of every offset, [O]."""
    model, heads = modules_of(setup)

    def values(params: Any, frozen: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array) -> jax.Array:
        def errors(hidden, embeddings, columns, states, where) -> jax.Array:
            target = jnp.stack([states[:, places] for places in where]).astype(jnp.float32)
            return smooth_l1(heads.apply(params, hidden, embeddings, columns), target)

        return mean_over_bands(errors, setup, setup.model.width, *sources_of(setup, model, frozen, ids, mask, codes))

    return values


def heads_task(
    setup: Setup, backbone: Any, config: Any, seed: int, source: PromptedSource, mesh: Mesh | None = None
) -> Task:
    """The heads' part of the loop; `backbone` are the frozen parameters, on `mesh` if there is one."""
    values = per_offset_loss(setup)
    heldout = source.heldout(config.eval_images)

    def loss(params: Any, frozen: Any, batch: Rows, key: jax.Array):
        del key
        each = values(params, frozen, *batch)
        return each.mean(), named("smooth_l1", each, setup.heads)

    measure = measured(values, backbone, source.given, config.batch // setup.accumulation, mesh)

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": float(measure(params, heldout).mean())}

    def init(key: jax.Array) -> Any:
        return init_heads(make_heads(setup.model, setup.heads), key)

    return Task(
        "heads", init, loss, lambda step: source.batch(seed, step), evaluate, matrices=head_matrices,
        frozen=backbone, accumulation=setup.accumulation, mesh=mesh, placed=placed_heads(setup, mesh),
    )  # fmt: skip


def untrained(setup: Setup, mesh: Mesh | None = None) -> Any:
    """The heads that copy, on the mesh."""
    shardings = None if mesh is None else jax.tree.map(lambda leaf: leaf.sharding, placed_heads(setup, mesh))
    heads = make_heads(setup.model, setup.heads)
    return jax.jit(lambda: init_heads(heads, jax.random.key(0)), out_shardings=shardings)()


def placed_heads(setup: Setup, mesh: Mesh | None) -> Any:
    """Where the heads go on a mesh, as `Task.placed` wants it."""
    return None if mesh is None else place(boxed_heads(setup.heads, setup.model.width), mesh)


def head_matrices(params: Any) -> Any:
    """What Muon trains: the stacked matrices, one per offset."""
    return jax.tree.map(lambda p: MuonDimensionNumbers(p.ndim - 1, p.ndim - 2) if p.ndim > 2 else None, params)


def offset_name(offset: tuple[int, int]) -> str:
    """ "right+2", "down+1"."""
    down, right = offset
    return f"down+{down}" if down else f"right+{right}"


def named(what: str, each: jax.Array, config: HeadsConfig) -> dict[str, jax.Array]:
    """Metrics of a step from one value per offset, [O]: {"<what>_right+1": value, ...}."""
    return {f"{what}_{offset_name(offset)}": value for offset, value in zip(config.offsets, each, strict=True)}


def measured(
    values: Callable, backbone: Any, rows: Callable[[np.ndarray], Rows], batch: int, mesh: Mesh | None = None
) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Compiles values(params, backbone, ids, mask, codes) -> [O]; returns (params, indices of pictures) -> its mean
    over whole batches of `rows(indices)`, float64 [O]."""
    jitted = jax.jit(values)

    def measure(params: Any, indices: np.ndarray) -> np.ndarray:
        parts = whole_batches(indices, batch)
        found = [np.asarray(jitted(params, backbone, *spread(rows(part), mesh)), np.float64) for part in parts]
        return np.mean(found, axis=0)

    return measure


def whole_batches(indices: np.ndarray, batch: int) -> list[np.ndarray]:
    """Batches of one size; a rest is left out, fewer pictures than a batch are repeated."""
    parts = [indices[start : start + batch] for start in range(0, len(indices) - batch + 1, batch)]
    return parts or [np.resize(indices, batch)]


def export_heads(path: Path, params: Any, heads: HeadsConfig, backbone_path: Path) -> None:
    """Writes heads.safetensors and, beside it, its model card."""
    write_tensors(path, params, EXPORT_DTYPE, heads_metadata(heads, backbone_path))
    write_heads_card(path, heads, backbone_path)
