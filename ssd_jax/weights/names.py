"""Maps each of our parameters to a tensor of a published backbone, by the namings of `ssd_jax.backbones`."""

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
"""Parameter of a block -> tensor of a layer, as transformers names a Llama's, and the layout of its axes."""

ROTARY = r".*\.rotary_emb\.inv_freq"
"""Pattern of computed tensors that a file may contain."""


def ignored_names(config: ModelConfig) -> str:
    """Pattern of the tensor names that are ignored when this backbone is read: those of image tokenizers, which are
    read separately, computed tensors, and tensors that generation does not need."""
    patterns = [*(f"{re.escape(prefix)}.*" for prefix in PREFIXES), ROTARY, PUBLISHED[config.architecture].unused]
    return "|".join(filter(None, patterns))


def find_sources(config: ModelConfig, parameters: Iterable[str], names: Collection[str]) -> dict[str, Source]:
    """Finds the stored tensor of every parameter of a published backbone.

    Args:
        config: the backbone's config.
        parameters: flat names of its parameters.
        names: names of the tensors in the file, from which the naming is recognised.
    Returns:
        flat parameter name -> source.
    Raises:
        WeightsError: no known naming fits.
    """
    naming = find_naming(config, names)
    return {name: _source(name, naming, config) for name in parameters}


def find_branch_sources(config: ModelConfig, parameters: Iterable[str]) -> dict[str, Source]:
    """Flat names of the parameters of a published vertical branch -> sources."""
    branch = PUBLISHED[config.architecture].branch
    assert branch is not None
    return {name: _source(name, branch.naming, config) for name in parameters}


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
        # Files written by one process have one row for all attention heads, others one for every process of a training.
        rows_per_process = part.startswith(("attention.q_norm", "attention.k_norm"))
        tensor = f"{naming.blocks}{block.removeprefix('block_')}.{tensor}"
        return Source(tensor, layout, spread=rows_per_process)
    if name == "visual_head":  # a text model's head has an output for every id
        return Source(naming.rest[name], first=config.visual_offset, rows=config.vocab_size)
    own = {"embedding": naming.embedding, "final_norm.scale": f"{naming.trunk}norm.weight"}
    return Source((own | naming.rest)[name])
