"""Makes models of any config with random weights: real shapes, real seconds, noise for images. Nothing is downloaded.

Every array is sampled on the devices that will hold it, from a key of its own name, so the values do not depend on the
mesh. Inside the blocks they are scaled as an initialisation for training; the output head is scaled so that p has about
the entropy of the bundled model's during decoding, and sampling behaves realistically.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from ssd_jax.models.branch import boxed_branch
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.draft_heads import boxed_heads
from ssd_jax.models.int8 import SUFFIX, quantised_leaf, scales
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.matmul import fast_dtype
from ssd_jax.models.transformer import boxed_backbone
from ssd_jax.models.vq_models import AnyVQConfig, abstract_vq
from ssd_jax.parallel.mesh import abstract
from ssd_jax.pipeline.execution import Execution
from ssd_jax.pipeline.loading import mesh_for, require_model_fits, require_options
from ssd_jax.pipeline.model_sizes import Models
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.prompts.stand_in import StandIn
from ssd_jax.weights.mapping import flatten, unflatten
from ssd_jax.weights.part_file import HEADS_FILE
from ssd_jax.weights.tensors import read_tensors

NAME = "random"
"""The value of --weights for such a model."""

ENTROPY = 1.2
"""Entropy of p in nats, about that of the bundled model on its own images."""

ALIKE = 0.995
"""Correlation of an image's conditional and unconditional logits, which see the same codes and other prompts."""


BEHIND_GELU = 1.53
"""Compensates for GELU, after which the squares of normal numbers have a mean of 0.425."""


@dataclasses.dataclass(frozen=True)
class Random:
    """The origin of a pipeline with random weights.

    Attributes:
        seed: seed of the values.
    """

    seed: int = 0
    folder: None = None

    @property
    def name(self) -> str:
        """Name for records."""
        return f"{NAME}, seed {self.seed}"

    def fingerprint(self) -> str:
        """Stands in for a file's fingerprint."""
        return f"{NAME}-{self.seed}"

    def fingerprints(self, config: ModelConfig) -> dict[str, str | None]:
        """Stands in for the files' fingerprints."""
        del config
        return {"backbone": self.fingerprint(), "heads": None, "branch": None, "tokenizer": None}

    def prompts(self, config: ModelConfig) -> StandIn:
        """Frames of about the usual length."""
        return StandIn(config)

    def tokenizer(self, config: ModelConfig, vq: AnyVQConfig) -> Any:
        """The image tokenizer's parameters, also random."""
        del config
        return draw(abstract_vq(vq), self.seed)


def load_random(
    models: Models,
    seed: int = 0,
    dtype: Any = None,
    mesh: Mesh | str | None = None,
    heads: str | Path | None = None,
    attention: str = "plain",
    quantize: str | None = None,
) -> Pipeline:
    """A pipeline of these configs with random weights.

    Args:
        models: configs of the backbone, the draft heads, the image tokenizer and the vertical branch.
        seed: seed of the values.
        heads: a file of trained draft heads or its folder, of the config in `models`; None: random, too.
        dtype, mesh, attention, quantize: as for `pipeline.loading.load`, and errors as there.
    """
    config, drafters, vq, branch = models
    vq = dataclasses.replace(vq, codebook_size=config.visual_size)  # a shrunken config does not describe its tokenizer
    require_options(attention, quantize)
    dtype = fast_dtype() if dtype is None else dtype
    mesh = mesh_for(config, mesh, attention)
    backbone = abstract(boxed_backbone(config), mesh, dtype, quantize)
    like_heads = abstract(boxed_heads(drafters, config.width), mesh, dtype, quantize)
    like_branch = None if branch is None else abstract(boxed_branch(config, branch), mesh, dtype, quantize)
    require_model_fits(config, backbone, {"draft heads": like_heads, "vertical branch": like_branch}, dtype, mesh)
    if heads is None:
        heads_params = draw(like_heads, seed + 1)
    else:
        heads_params = read_tensors(HEADS_FILE.find(Path(heads)), like_heads, dtype)
    params = draw(backbone, seed, gains(config))
    branch_params = None if branch is None else draw(like_branch, seed + 2, gains(config))
    model = LoadedModel.of(config, params, drafters, heads_params, branch, branch_params)
    return Pipeline(Random(seed), model, vq, Execution(dtype, mesh, attention))


def draw(like: Any, seed: int, gains: Mapping[str, float] | None = None) -> Any:
    """Random parameters.

    Args:
        like: nested dict of `jax.ShapeDtypeStruct`; a leaf's sharding, if any, is the array's. An int8 leaf with a
            scale beside it is drawn in bfloat16 and quantised.
        seed: seed; every array's key is made from it and the array's name.
        gains: flat name -> factor of the usual standard deviation.
    Returns:
        the structure of `like` with arrays: scales are 1, biases 0, matrices uniform with a variance of 1 / fan-in.
    """
    flat, leaves = {}, flatten(like)
    for name in leaves.keys() - scales(leaves):
        leaf = leaves[name]
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        width = (gains or {}).get(name, 1.0) * spread(name, leaf.shape)
        if width == 0:
            value = 1.0 if name.split(".")[-1] in ONES else 0.0
            flat[name] = jnp.full(leaf.shape, value, leaf.dtype, device=leaf.sharding)
        elif name + SUFFIX in leaves:
            numbers = _uniform(tuple(leaf.shape), jnp.bfloat16, leaf.sharding)(key, width * 3**0.5)
            flat[name], flat[name + SUFFIX] = quantised_leaf(name, numbers)
            flat[name].block_until_ready()  # before the next one allocates memory
        else:
            flat[name] = _uniform(tuple(leaf.shape), leaf.dtype, leaf.sharding)(key, width * 3**0.5)
    return unflatten(flat)


ONES, ZEROS = ("scale", "norm", "var"), ("bias", "first_bias", "second_bias", "gate_bias", "mean")
"""Parameters that are not matrices, by the last part of the name: those initialised to 1, and to 0."""


def spread(name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation with which a matrix keeps its input's scale; 0 for other parameters."""
    last = name.split(".")[-1]
    if last in (*ONES, *ZEROS):
        return 0.0
    if last == "codebook":
        return 1.0
    if last == "kernel":  # of linen's own layers, [..., in, out]
        return math.prod(shape[:-1]) ** -0.5
    return math.prod(shape[1:] if name.endswith("attention.o") else shape[-1:]) ** -0.5


def gains(config: ModelConfig) -> dict[str, float]:
    """Flat name -> factor, for a backbone's matrices with another standard deviation: embeddings of size 1, blocks that
    add little each, and the output head."""
    branch, head = (2 * config.layers) ** -0.5, head_spread(config)
    found = {"embedding": config.width**0.5, "visual_head": head, "visual_mlp.second": head * BEHIND_GELU}
    found |= {"code_embedding.table": config.code_width**0.5, "code_embedding.second": BEHIND_GELU}
    for index in range(config.layers):
        found |= {f"block_{index}.attention.o": branch, f"block_{index}.mlp.down": branch}
    return found


@functools.cache
def head_spread(config: ModelConfig) -> float:
    """The standard deviation of logits with which p, guided and filtered as in the config, has `ENTROPY`.

    Logits are modelled as V normal numbers; conditional and unconditional ones are correlated.
    """
    normal, V, kept = NormalDist(), config.visual_size, config.top_k or config.visual_size
    logits = np.array([normal.inv_cdf((place + 0.5) / V) for place in range(V - min(kept, V), V)])
    low, high = 0.0, 64.0
    for _ in range(32):
        middle = (low + high) / 2
        p = np.exp(middle * (logits - logits[-1]))
        p /= p.sum()
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum()
        low, high = (middle, high) if entropy > ENTROPY else (low, middle)
    g = config.cfg_scale
    return float(middle / (1 + 2 * g * (g - 1) * (1 - ALIKE)) ** 0.5)


@functools.cache
def _uniform(shape: tuple[int, ...], dtype: Any, sharding: Sharding | None) -> Any:
    """(key, width) -> uniform numbers from -width to width, made on the devices that will hold them."""

    def make(key: jax.Array, width: jax.Array) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -width, width)

    return jax.jit(make, out_shardings=sharding)
