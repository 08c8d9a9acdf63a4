"""Where each of our parameters is among the tensors of a published backbone, whose room says how it names them."""

import re
from collections.abc import Collection, Iterable

from ssd_jax.backbones import PUBLISHED
from ssd_jax.backbones.base import Naming
from ssd_jax.models.config import ModelConfig
from ssd_jax.weights.mapping import Source
from ssd_jax.weights.store import WeightsError
from ssd_jax.weights.vq_names import PREFIXES

BLOCK = {
    "attention_norm.scale": ("input_layernorm.weight", ""),
    "attention.q": ("self_attn.q_proj.weight", "(n h) d -> n h d"),
    "attention.k": ("self_attn.k_proj.weight", "(k h) d -> k h d"),
    "attention.v": ("self_attn.v_proj.weight", "(k h) d -> k h d"),
    "attention.o": ("self_attn.o_proj.weight", "d (n h) -> d n h"),
    "attention.q_norm.scale": ("self_attn.q_norm.weight", ""),
    "attention.q_norm.bias": ("self_attn.q_norm.bias", ""),
    "attention.k_norm.scale": ("self_attn.k_norm.weight", ""),
    "attention.k_norm.bias": ("self_attn.k_norm.bias", ""),
    "mlp_norm.scale": ("post_attention_layernorm.weight", ""),
    "mlp.gate": ("mlp.gate_proj.weight", ""),
    "mlp.up": ("mlp.up_proj.weight", ""),
    "mlp.down": ("mlp.down_proj.weight", ""),
}
"""Parameter of a block -> tensor of a layer, as transformers names those of a Llama, and the layout of its axes."""

ROTARY = r".*\.rotary_emb\.inv_freq"
"""Computed tensors, which a file may hold, too."""


def ignored_names(config: ModelConfig) -> str:
    """The pattern of the names that are left out on purpose when this backbone is read: those of image tokenizers,
    which are read by themselves, what is computed, and what drawing does not need."""
    patterns = [*(f"{re.escape(prefix)}.*" for prefix in PREFIXES), ROTARY, PUBLISHED[config.architecture].unused]
    return "|".join(filter(None, patterns))


def find_sources(config: ModelConfig, parameters: Iterable[str], names: Collection[str]) -> dict[str, Source]:
    """Where every parameter of a published backbone is stored.

    Args:
        config: the backbone's.
        parameters: flat names of its parameters.
        names: of the tensors in the file; they show which naming it has.
    Returns:
        flat parameter name -> source.
    Raises:
        WeightsError: the names are of no known kind.
    """
    naming = find_naming(config, names)
    return {name: _source(name, naming, config) for name in parameters}


def find_naming(config: ModelConfig, names: Collection[str]) -> Naming:
    """How the tensors of a file are named; raises `WeightsError` if it is in no known way."""
    namings = PUBLISHED[config.architecture].namings
    naming = next((naming for naming in namings if naming.embedding in names), None)
    if naming is None:
        known = " or ".join(repr(naming.embedding) for naming in namings)
        raise WeightsError(f"there is no tensor {known}, so this is no model of the family {config.architecture!r}.")
    return naming


def _source(name: str, naming: Naming, config: ModelConfig) -> Source:
    block, _, part = name.partition(".")
    if block.startswith("block_"):
        tensor, layout = BLOCK[part]
        # Files of one process have one row for all heads, others a row for every process that trained its heads.
        rows_per_process = part.startswith(("attention.q_norm", "attention.k_norm"))
        return Source(f"{naming.trunk}layers.{block.removeprefix('block_')}.{tensor}", layout, spread=rows_per_process)
    if name == "visual_head":  # a text model's head has a row for every id
        return Source(naming.rest[name], first=config.visual_offset, rows=config.vocab_size)
    own = {"embedding": naming.embedding, "final_norm.scale": f"{naming.trunk}norm.weight"}
    return Source((own | naming.rest)[name])
