"""Losses of the draft heads, which also measure how good their drafts are, per offset.

There are two objectives. SSD trains on the Smooth L1 between the hidden state that a head drafts and the backbone's
(arXiv 2606.20543). It is minimal at the centre of all possible continuations, but a draft is accepted with probability
sum_v min(p, q); so training may continue on 1 - sum_v min(p, q), the total variation distance between the head's
distribution q and the verifier's p (ours).

Both are means over all tokens of the images that have a target. With 8100 positions and 32768 codes their arrays do not
fit in memory at once, so images are processed one band of grid rows at a time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.models.config import HeadsConfig, ModelConfig
from ssd_jax.models.draft_heads import DraftHeads
from ssd_jax.models.matmul import PRODUCTS
from ssd_jax.models.teacher_forcing import forced
from ssd_jax.models.transformer import Transformer
from ssd_jax.sampling.distribution import Sampler, guide, log_probabilities
from ssd_jax.sequence.layout import Grid
from ssd_jax.training.losses import shared_mass, smooth_l1, valid_mean

LIMIT = 2**27
"""About the most elements of a band's largest array: half a gigabyte in float32; a loss has several."""


@dataclasses.dataclass(frozen=True)
class Drafting:
    """Configs of the backbone and its draft heads, and how much is computed at once.

    Attributes:
        model, heads: configs of the backbone and the draft heads.
        grid: the images' grid.
        matmul: one of `PRODUCTS`.
        window: positions per forward pass of the backbone; 0 is all (see `models.teacher_forcing`).
        limit: see `LIMIT`.
    """

    model: ModelConfig
    heads: HeadsConfig
    grid: Grid
    matmul: str = "float32"
    window: int = 0
    limit: int = LIMIT

    @property
    def backbone(self) -> Transformer:
        """The frozen backbone."""
        return Transformer(self.model, PRODUCTS[self.matmul])

    @property
    def drafter(self) -> DraftHeads:
        """The draft heads."""
        return DraftHeads(self.heads, self.model.width, self.model.norm_eps, PRODUCTS[self.matmul])


class Band(NamedTuple):
    """Consecutive grid rows of a batch of images.

    Attributes:
        hidden, embeddings: inputs of the draft heads at each of the P tokens: h and e, [B, P, D].
        columns: int32 [B, P].
        states: the backbone's h from the first of these tokens to the last grid row that heads reach, [B, Q, D].
        targets: int32 [O, P], index of the state that each of the O draft heads should predict.
    """

    hidden: jax.Array
    embeddings: jax.Array
    columns: jax.Array
    states: jax.Array
    targets: jax.Array


class Objective(Protocol):
    """A measure of drafts; `name` is the name of its metrics."""

    name: str

    def numbers(self, drafting: Drafting) -> int:
        """Array elements per token and offset, which decide the number of grid rows of a band."""

    def values(self, drafting: Drafting, params: Any, backbone: Any, band: Band) -> jax.Array:
        """The value of every draft of a band, [O, B, P]; undefined where the target is outside the grid row or grid."""

    def loss(self, each: jax.Array) -> jax.Array:
        """The scalar to minimise, from the means of all offsets, [O]."""


@dataclasses.dataclass(frozen=True)
class SmoothL1:
    """Smooth L1 between a drafted state and the backbone's."""

    name = "smooth_l1"

    def numbers(self, drafting: Drafting) -> int:
        return drafting.model.width

    def values(self, drafting: Drafting, params: Any, backbone: Any, band: Band) -> jax.Array:
        target = jnp.stack([band.states[:, places] for places in band.targets]).astype(jnp.float32)
        return smooth_l1(drafting.drafter.apply(params, band.hidden, band.embeddings, band.columns), target)

    def loss(self, each: jax.Array) -> jax.Array:
        return each.mean()


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The probability that speculative sampling accepts a draft, sum_v min(p, q).

    Attributes:
        distribution: logits [G, P, V] -> probabilities [B, P, V]; G = 2B with guidance (conditional rows first), else
            B. Draft heads are trained without guidance: it needs half as many batch rows as guided distributions, and
            in a comparison it raised the guided overlap as much.
    """

    distribution: Callable[[jax.Array], jax.Array] = jax.nn.softmax
    name = "overlap"

    def numbers(self, drafting: Drafting) -> int:
        return drafting.model.visual_size

    def values(self, drafting: Drafting, params: Any, backbone: Any, band: Band) -> jax.Array:
        def probabilities(states: jax.Array) -> jax.Array:
            # For sampling, a sharded model replicates its logits on every device; here they stay sharded.
            with nn.logical_axis_rules(()):
                return self.distribution(drafting.backbone.apply(backbone, states, method="logits"))

        p = probabilities(band.states)
        drafts = drafting.drafter.apply(params, band.hidden, band.embeddings, band.columns)
        pairs = zip(band.targets, drafts, strict=True)
        return jnp.stack([shared_mass(p[:, places], probabilities(draft)) for places, draft in pairs])

    def loss(self, each: jax.Array) -> jax.Array:
        return 1.0 - each.mean()


def guided_overlap(sampler: Sampler) -> Overlap:
    """The overlap under a sampler's guidance, temperature and filters, as in decoding."""
    return Overlap(lambda logits: jnp.exp(log_probabilities(guide(logits, sampler.cfg_scale, True), sampler)))


def mean_per_offset(
    objective: Objective,
    drafting: Drafting,
    params: Any,
    backbone: Any,
    ids: jax.Array,
    mask: jax.Array,
    codes: jax.Array,
) -> jax.Array:
    """An objective's mean over all tokens whose target is in the grid row and the grid, [O], by teacher forcing.

    Args:
        objective, drafting: the measure, and the models (static).
        params, backbone: parameters of the draft heads and of the backbone.
        ids, mask: prompts, int32 and bool [G, S], left-padded; G is B, or 2B with unconditional rows last.
        codes: int32 [B, R*C].
    """
    codes = jnp.tile(codes, (ids.shape[0] // codes.shape[0], 1))
    hidden = forced(drafting.backbone, backbone, ids, mask, codes, drafting.grid, drafting.window)
    embeddings = drafting.backbone.apply(backbone, codes, method="embed_codes")
    return mean_over_bands(objective, drafting, params, backbone, hidden, embeddings)


def rows_of_band(grid: Grid, limit: int, numbers: int) -> int:
    """The most grid rows of an image, a divisor of R, whose arrays have at most about `limit` elements, with `numbers`
    of them for each token."""
    rows = max(1, limit // (grid.cols * numbers))
    return next(n for n in range(min(rows, grid.rows), 0, -1) if grid.rows % n == 0)


def mean_over_bands(
    objective: Objective, drafting: Drafting, params: Any, backbone: Any, hidden: jax.Array, embeddings: jax.Array
) -> jax.Array:
    """See `mean_per_offset`; `hidden` and `embeddings` are those of all tokens, [G, R*C, D]."""
    grid, offsets = drafting.grid, drafting.heads.offsets
    G, C = hidden.shape[0], grid.cols
    columns = jnp.broadcast_to(jnp.arange(grid.size, dtype=jnp.int32) % C, hidden.shape[:2])
    targets, valid = grid.targets(offsets)
    rows = rows_of_band(grid, drafting.limit, len(offsets) * G * objective.numbers(drafting))
    if rows == grid.rows:
        band = Band(hidden, embeddings, columns, hidden, targets)
        return valid_mean(objective.values(drafting, params, backbone, band), valid[:, None])
    P, reach = rows * C, drafting.heads.vertical * C
    targets = Grid(rows + drafting.heads.vertical, C).targets(offsets)[0][:, :P]
    below = jnp.pad(hidden, ((0, 0), (0, reach), (0, 0)))

    @jax.checkpoint  # a band's arrays are recomputed for its gradient, not kept
    def sums(start: jax.Array) -> jax.Array:
        def cut(x: jax.Array, length: int) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, length, axis=1)

        band = Band(cut(hidden, P), cut(embeddings, P), cut(columns, P), cut(below, P + reach), targets)
        found = objective.values(drafting, params, backbone, band)
        return jnp.where(cut(jnp.asarray(valid), P)[:, None], found, 0.0).mean(axis=1).sum(axis=1)

    total = jax.lax.map(sums, jnp.arange(0, grid.size, P, dtype=jnp.int32)).sum(axis=0)
    return total / jnp.maximum(valid.sum(axis=1), 1).astype(jnp.float32)
