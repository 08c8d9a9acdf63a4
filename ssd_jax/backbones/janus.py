"""Janus-Pro by DeepSeek (arXiv 2501.17811; github.com/deepseek-ai/Janus), 7 and 1 billion parameters.

    BOS "<|User|>: text\\n\\n<|Assistant|>:" BOI | ROWS * COLS codes

Prompts and the one size follow its `generation_inference.py`. It is published without negative prompts. Giving them a
full frame is our choice, after Emu3's example; how well they work on this model is not known.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ssd_jax.backbones.base import Backbone, ConfigJson, Naming, Published, PublishedVQ, Token
from ssd_jax.backbones.fields import section
from ssd_jax.errors import UserError
from ssd_jax.models.config import NONE, ConfigError, ModelConfig
from ssd_jax.models.vq_config import VQGANConfig
from ssd_jax.prompts.byte_level import ByteLevelPrompts
from ssd_jax.prompts.sizes import is_ratio, parse_size
from ssd_jax.sequence.layout import Grid

MODEL = ModelConfig(
    architecture="janus",
    vocab_size=102400,
    visual_offset=0,
    visual_size=16384,
    layers=30,
    width=4096,
    mlp_width=11008,
    heads=32,
    kv_heads=32,
    head_dim=128,
    rope_theta=1e4,
    norm_eps=1e-6,
    qk_norm="",
    code_width=8,
    head_width=4096,
    rows=24,
    cols=24,
    pad_id=100002,
    unk_id=NONE,
    bos_id=100000,
    boi_id=100016,
    row_end_id=NONE,
    cfg_scale=5.0,
    top_k=0,
)
"""Of 7 billion parameters."""

MODEL_1B = dataclasses.replace(MODEL, layers=24, width=2048, mlp_width=5632, heads=16, kv_heads=16, head_width=2048)

TOKENS = {
    "pad": Token("<\uff5c\u2581pad\u2581\uff5c>", "pad_token_id"),
    "bos": Token("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "bos_token_id"),
    "boi": Token("<begin_of_image>", "boi_token_id"),
}

VQ = VQGANConfig(
    channels=128,
    multipliers=(1, 1, 2, 2, 4),
    blocks=2,
    attention_levels=(4,),
    codebook_size=MODEL.visual_size,
    code_dim=8,
    latent_dim=256,
    normalised=True,
)
"""VQ-16 of LlamaGen (arXiv 2406.06525)."""


def _codes(values: Mapping, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """Reads the sections of the original repository, or those of transformers."""
    del vocabulary  # does not contain the codes
    if "language_config" in values:
        sections = ("gen_vision_config", "gen_aligner_config", "gen_head_config")
        vision, aligner, head = (section(section(values, name), "params") for name in sections)
        found = {"visual_size": vision.get("image_token_size", MODEL.visual_size)}
        found |= {"code_width": vision.get("n_embed", MODEL.code_width)}
        found["head_width"] = head.get("image_token_embed", 2048)
        depth, act = aligner.get("depth", 2), aligner.get("projector_type", "mlp_gelu")
    else:
        vq, vision = section(values, "vq_config"), section(values, "vision_config")
        found = {"visual_size": vq.get("num_embeddings", MODEL.visual_size)}
        found |= {"code_width": vq.get("embed_dim", MODEL.code_width)}
        found["head_width"] = vq.get("projection_dim", 2048)
        depth, act = vq.get("num_hidden_layers", 2), vq.get("hidden_act", "gelu")
        side = vision.get("image_size", MODEL.rows * VQ.stride) // vision.get("patch_size", VQ.stride)
        found |= {"rows": side, "cols": side}
    if depth != 2 or act not in ("gelu", "mlp_gelu"):
        raise ConfigError(f"the visual codes' mlp must have 2 layers with GELU, not {depth} with {act}.")
    return found


def _attention_levels(values: Mapping, levels: int) -> tuple[int, ...]:
    """The last level; config.json does not say so."""
    del values
    return (levels - 1,)


def _naming(trunk: str, table: str, first: str, second: str, inner: str, outer: str) -> Naming:
    """Tensor names, with the codes' own table, the two layers after it, and the two of the output head."""
    layers = {"code_embedding.first": first, "code_embedding.second": second}
    layers |= {"visual_mlp.first": inner, "visual_mlp.second": outer}
    weights = {name: f"{layer}.weight" for name, layer in layers.items()}
    biases = {f"{name}_bias": f"{layer}.bias" for name, layer in layers.items()}
    return Naming(trunk, {"code_embedding.table": table, **weights, **biases})


VQ_RULES = (
    (r"^encoder\.conv_blocks\.", "encoder.down."),
    (r"^decoder\.conv_blocks\.", "decoder.up."),
    (r"\.res\.(\d+)\.", r".block.\1."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
)

TEMPLATE, EMPTY = "<|User|>: {}\n\n<|Assistant|>:", "<|User|>:<|Assistant|>:{}"
"""The conversation turn of a text, and that of an empty text, which has no separators."""


class JanusPrompts(ByteLevelPrompts):
    """Frames of Janus-Pro. The unconditional frame is as long as the prompt's, with padding that is attended to."""

    NAMES: ClassVar = {key: token.name for key, token in TOKENS.items()}

    def frame(self, text: str) -> list[int]:
        """`BOS "<|User|>: text\\n\\n<|Assistant|>:" BOI`."""
        text = text.strip()
        return [self.id("bos"), *self.text(text, TEMPLATE if text else EMPTY), self.id("boi")]

    def pair(self, text: str, negative: str | None, grid: Grid) -> tuple[list[int], list[int]]:
        """The prompt's frame, and the negative prompt's or, without one, the prompt's with all ids but the first and
        the last replaced by padding."""
        del grid  # always the same
        frame = self.frame(text)
        if negative is not None:
            return frame, self.frame(negative)
        return frame, [frame[0], *[self.id("pad")] * (len(frame) - 2), frame[-1]]

    @staticmethod
    def grid(config: ModelConfig, size: tuple[int, int] | str, stride: int) -> Grid:
        """The model's own grid; raises `UserError` for another size."""
        own = Grid(config.rows, config.cols)
        if is_ratio(size) or parse_size(size) != (own.rows * stride, own.cols * stride):
            raise UserError(
                f"Janus-Pro draws images of {own.rows * stride}x{own.cols * stride} pixels only, not {size}."
            )
        return own


BACKBONE = Backbone(
    "janus",
    JanusPrompts,
    Published(
        model=MODEL,
        config_json=ConfigJson(
            kinds=("janus", "multi_modality", "JanusForConditionalGeneration", "MultiModalityCausalLM"),
            codes=_codes,
            sections=("text_config", "language_config"),
            missing={"vocab_size": 32000, "layers": 32, "kv_heads": None},  # transformers' defaults of a Llama
            unused=("tie_word_embeddings",),  # concerns the text output head
        ),
        tokens=TOKENS,
        vq=PublishedVQ(
            VQ,
            _attention_levels,
            keys={"num_embeddings": "codebook_size", "image_token_size": "codebook_size", "n_embed": "code_dim"},
            sections=(("vq_config",), ("gen_vision_config", "params")),
            prefixes=("model.vqmodel.", "vqmodel.", "gen_vision_model."),
            rules=VQ_RULES,
            lowest_first=True,
        ),
        namings=(
            _naming(
                "model.language_model.",
                "model.generation_embeddings.weight",
                "model.generation_aligner.fc1",
                "model.generation_aligner.hidden_layers.0",
                "model.generation_head.proj_out",
                "model.generation_head.vision_head",
            ),
            _naming(
                "language_model.model.",
                "gen_embed.weight",
                "gen_aligner.layers.0",
                "gen_aligner.layers.2",
                "gen_head.output_mlp_projector",
                "gen_head.vision_head",
            ),
        ),
        # These read images and write text.
        unused=r"(model\.)?(vision_model|aligner)\..*|(language_model\.)?lm_head\.weight",
        safetensors="of Janus-Pro those of deepseek-community",
    ),
)
