"""Builds the published models as transformers' classes with random weights; only image generation is full size."""

import math
from typing import Any

import torch
import transformers


def build(sizes: dict[str, Any], device: torch.device, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """The family's class with random weights, in no more memory than weights of dtype `dtype` need."""
    with torch.device("meta"):
        model = FAMILIES[sizes["architecture"]](sizes).to(dtype)
    model.to_empty(device=device)
    noise = torch.empty(1_000_003, device=device).uniform_(-1, 1)  # repeated: to sample billions takes minutes
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1 or "norm" in name:
                tensor.fill_(name.endswith("weight"))
                continue
            scaled = (noise * math.sqrt(3 / tensor[0].numel())).to(dtype)  # keeps activations near 1
            for part in tensor.view(-1).split(len(noise)):
                part.copy_(scaled[: len(part)])
    for module in model.modules():  # the rotary frequencies are computed on creation, and "meta" computes nothing
        if hasattr(module, "inv_freq"):
            module.inv_freq = type(module)(module.config).inv_freq.to(device)  # float32
    return model.eval()


def _emu3(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    vq = SMALL_VQ | dict(codebook_size=8, attn_resolutions=[0], hidden_size=32)
    config = transformers.Emu3Config(text_config=_text(sizes), vq_config=vq, vocabulary_map={"<image>": 0})
    return transformers.Emu3ForConditionalGeneration(config)


def _emu3_5(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    # transformers has no class for it; its network is that of Qwen3.
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_text(sizes), tie_word_embeddings=False))


def _chameleon(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    # Its forward gives ids with names starting with IMGIMG no probability; without names it generates images.
    vq = SMALL_VQ | dict(num_embeddings=8, embed_dim=8, latent_channels=32, attn_resolutions=[], resolution=32)
    config = transformers.ChameleonConfig(**_text(sizes), vq_config=vq, vocabulary_map={"<image>": 0})
    return transformers.ChameleonForConditionalGeneration(config)


def _janus(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    vision = SMALL_TOWER | dict(projection_dim=sizes["width"], num_image_tokens=sizes["rows"] * sizes["cols"])
    vq = SMALL_VQ | dict(num_embeddings=sizes["visual_size"], embed_dim=sizes["code_width"], latent_channels=32)
    vq |= dict(projection_dim=sizes["head_width"], image_token_embed_dim=sizes["width"])
    sections = dict(text_config=_text(sizes) | dict(model_type="llama"), vision_config=vision, vq_config=vq)
    config = transformers.JanusConfig(**sections, image_token_id=0, tie_word_embeddings=False)
    model = transformers.JanusForConditionalGeneration(config)
    model.generation_config.generation_kwargs = {"boi_token_id": max(sizes["boi_id"], 0)}
    return model


def _text(sizes: dict[str, Any]) -> dict[str, Any]:
    return dict(
        hidden_size=sizes["width"], intermediate_size=sizes["mlp_width"], num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"], num_key_value_heads=sizes["kv_heads"], vocab_size=sizes["vocab_size"],
        rms_norm_eps=sizes["norm_eps"], rope_parameters=dict(rope_type="default", rope_theta=sizes["rope_theta"]),
        max_position_embeddings=16384, pad_token_id=max(sizes["pad_id"], 0), bos_token_id=max(sizes["bos_id"], 0),
        eos_token_id=None, head_dim=sizes["head_dim"],
    )  # fmt: skip


SMALL_TOWER = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, image_size=32, patch_size=32)
SMALL_VQ = dict(base_channels=32, channel_multiplier=[1], num_res_blocks=1)
FAMILIES = {"emu3": _emu3, "emu3_5": _emu3_5, "chameleon": _chameleon, "janus": _janus}
