"""Tensor names of the published backbones, and where each of our parameters is among them."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from ssd_jax.models.config import ModelConfig
from ssd_jax.weights.mapping import Source
from ssd_jax.weights.store import WeightsError

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
"""Parameter of a block -> tensor of a layer and the layout of its axes."""


@dataclasses.dataclass(frozen=True)
class Naming:
    """One way to name the tensors of a backbone.

    Attributes:
        trunk: what stands before `embed_tokens`, `layers` and `norm`.
        rest: our other parameters -> tensor.
    """

    trunk: str
    rest: Mapping[str, str]

    @property
    def embedding(self) -> str:
        """The embedding table's name, by which the naming is recognised."""
        return f"{self.trunk}embed_tokens.weight"


def _own_codes(table: str, first: str, second: str, inner: str, outer: str) -> dict[str, str]:
    """Tensors of a separate table, the two layers behind it, and the two of the output head."""
    layers = {"code_embedding.first": first, "code_embedding.second": second}
    layers |= {"visual_mlp.first": inner, "visual_mlp.second": outer}
    weights = {name: f"{layer}.weight" for name, layer in layers.items()}
    biases = {f"{name}_bias": f"{layer}.bias" for name, layer in layers.items()}
    return {"code_embedding.table": table, **weights, **biases}


NAMINGS = {
    "emu3": (
        Naming("text_model.model.", {"visual_head": "text_model.lm_head.weight"}),
        Naming("model.text_model.", {"visual_head": "lm_head.weight"}),
        Naming("model.", {"visual_head": "lm_head.weight"}),
    ),
    "chameleon": (Naming("model.", {"visual_head": "lm_head.weight"}),),
    "janus": (
        Naming(
            "model.language_model.",
            _own_codes(
                "model.generation_embeddings.weight",
                "model.generation_aligner.fc1",
                "model.generation_aligner.hidden_layers.0",
                "model.generation_head.proj_out",
                "model.generation_head.vision_head",
            ),
        ),
        Naming(
            "language_model.model.",
            _own_codes(
                "gen_embed.weight",
                "gen_aligner.layers.0",
                "gen_aligner.layers.2",
                "gen_head.output_mlp_projector",
                "gen_head.vision_head",
            ),
        ),
    ),
}
"""`ModelConfig.architecture` -> the ways in which its tensors are named: transformers' first."""

IGNORED = (
    r"(model\.)?vqmodel\..*|gen_vision_model\..*"  # the image tokenizer, which is read by itself
    r"|.*\.rotary_emb\.inv_freq"  # computed
)
"""Tensors that every architecture's files may hold and a backbone does not need."""

UNDERSTANDING = r"|(model\.)?(vision_model|aligner)\..*|(language_model\.)?lm_head\.weight"
"""Those with which Janus reads pictures and writes text."""


def ignored_names(config: ModelConfig) -> str:
    """The pattern of the names that are left out on purpose when this backbone is read."""
    return IGNORED + (UNDERSTANDING if config.architecture == "janus" else "")


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
    namings = NAMINGS[config.architecture]
    naming = next((naming for naming in namings if naming.embedding in names), None)
    if naming is None:
        known = " or ".join(repr(naming.embedding) for naming in namings)
        raise WeightsError(f"there is no tensor {known}, so this is no model of the family {config.architecture!r}.")
    return {name: _source(name, naming, config) for name in parameters}


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
