"""What is peculiar to a family's classes in transformers: the model, the ids that it knows, its image tokenizer."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch.nn.functional import normalize
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """An image tokenizer.

    Attributes:
        module: float32, with the weights of the folder.
        latents: float32 [1, 3, height, width], -1 to 1, to latents before the lookup, [1, code_dim, R, C].
        encode: the same to codes int64 [1, R, C].
        decode: codes to float32 [1, 3, height, width]; None: it has no decoder here.
    """

    module: torch.nn.Module
    latents: Callable[[torch.Tensor], torch.Tensor]
    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], torch.Tensor] | None


@dataclasses.dataclass(frozen=True)
class Family:
    """Attributes:
    model: the class.
    ids: special ids by field of our `ModelConfig`, as far as the class itself knows any; it may change the model so
        that its forward gives the visual ids their logits.
    tokenizer: (section of config.json, tensors by name) -> image tokenizer.
    """

    model: type[transformers.PreTrainedModel]
    ids: Callable[[Any], dict[str, int]]
    tokenizer: Callable[[Any, Mapping[str, torch.Tensor]], Tokenizer]


def _emu3_ids(model: Any) -> dict[str, int]:
    mapping = model.model.vocabulary_mapping
    return _range(mapping.img2bpe) | {"row_end_id": mapping.eol_token_id}


def _chameleon_ids(model: Any) -> dict[str, int]:
    mapping = model.model.vocabulary_mapping
    found = _range(mapping.img2bpe)
    mapping.image_tokens = []  # those to which its forward gives no probability
    return found


def _janus_ids(model: Any) -> dict[str, int]:
    options = getattr(model.generation_config, "generation_kwargs", None) or {}
    return {"boi_id": options["boi_token_id"]} if "boi_token_id" in options else {}


def _range(ids: Mapping[int, int]) -> dict[str, int]:
    """Visual code -> id, as the first id and how many; no first one if the ids are not in a row."""
    in_a_row = all(ids.get(code) == ids[0] + code for code in range(len(ids))) if 0 in ids else False
    return {"visual_size": len(ids)} | ({"visual_offset": ids[0]} if in_a_row else {}) if ids else {}


def _emu3_tokenizer(config: Any, tensors: Mapping[str, torch.Tensor]) -> Tokenizer:
    module = _filled(transformers.Emu3VQVAE(config), tensors)

    def latents(x: torch.Tensor) -> torch.Tensor:
        video = x.unsqueeze(1).repeat(1, config.temporal_downsample_factor, 1, 1, 1)
        return module.quant_conv(module.encoder(video).permute(0, 2, 1, 3, 4))[:, :, 0]

    def encode(x: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(module.encode(x, torch.tensor([x.shape[2:]]), return_dict=True).image_tokens))

    return Tokenizer(module, latents, encode, module.decode)


def _chameleon_tokenizer(config: Any, tensors: Mapping[str, torch.Tensor]) -> Tokenizer:
    """The class has no decoder. Without attention in its levels that is the decoder of Janus, whose levels are counted
    from the other end."""
    module = _filled(ChameleonVQVAE(config), tensors)

    def latents(x: torch.Tensor) -> torch.Tensor:
        return module.quant_conv(module.encoder(x))

    def encode(x: torch.Tensor) -> torch.Tensor:
        return module.encode(x, return_dict=True).image_tokens.view(1, *latents(x).shape[2:])

    if config.attn_resolutions or "decoder.conv_in.weight" not in tensors:
        return Tokenizer(module, latents, encode, None)
    decoder = _vqgan_decoder(config, tensors, attention=False)

    def decode(codes: torch.Tensor) -> torch.Tensor:
        return decoder(module.post_quant_conv(module.quantize.embedding(codes).permute(0, 3, 1, 2)))

    return Tokenizer(module, latents, encode, decode)


def _vqgan_decoder(config: Any, tensors: Mapping[str, torch.Tensor], attention: bool) -> torch.nn.Module:
    """The decoder of Janus with the weights of a VQGAN's, whose levels are counted from the other end; `attention`:
    that has some in its lowest level, too."""
    sizes = ("base_channels", "channel_multiplier", "num_res_blocks", "embed_dim", "latent_channels")
    janus = transformers.JanusVQVAEConfig(**{name: getattr(config, name) for name in sizes})
    decoder = transformers.JanusVQVAE(janus).decoder
    if not attention:
        for level in decoder.up:
            level.attn = torch.nn.ModuleList()
    last = len(config.channel_multiplier) - 1
    turned = {re.sub(r"\bup\.(\d+)\.", lambda m: f"up.{last - int(m[1])}.", name): x for name, x in tensors.items()}
    return _filled(decoder, {n.removeprefix("decoder."): x for n, x in turned.items() if n.startswith("decoder.")})


APERTUS = (
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.stages.\1.layers.\2.resnet."),
    (r"^encoder\.down\.(\d+)\.attn\.(\d+)\.", r"encoder.stages.\1.layers.\2.attention."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.stages.\1.downsample."),
)
"""(pattern, replacement) pairs from the names of Emu3.5's image tokenizer to those of transformers' port of its encoder
for Apertus."""


def _emu3_5_tokenizer(config: Any, tensors: Mapping[str, torch.Tensor]) -> Tokenizer:
    """The port for Apertus has no decoder; with attention in the lowest level alone that is the decoder of Janus."""
    if not hasattr(transformers, "Apertus1p5VisionTokenizerModel"):
        raise ValueError("this version of transformers has no image tokenizer of Emu3.5's kind; take 5.24 or newer")
    given = {name: value for name, value in (config or {}).items() if name != "model_type"}
    config = transformers.Apertus1p5VisionTokenizerConfig(**given)
    named = dict(tensors)
    for pattern, new in APERTUS:
        named = {re.sub(pattern, new, name): x for name, x in named.items()}
    module = _filled(transformers.Apertus1p5VisionTokenizerModel(config), named)
    size, last = config.resolution, len(config.channel_multiplier) - 1
    usual = [size // 2**level in config.attn_resolutions for level in range(last + 1)] == [False] * last + [True]
    decode = None
    if usual and "decoder.conv_in.weight" in tensors:
        decoder = _vqgan_decoder(config, tensors, attention=True)
        weight, bias = tensors["post_quant_conv.weight"], tensors["post_quant_conv.bias"]

        def decode(codes: torch.Tensor) -> torch.Tensor:
            vectors = module.quantize.embedding.weight[codes].permute(0, 3, 1, 2)
            return decoder(torch.nn.functional.conv2d(vectors, weight, bias))

    return Tokenizer(
        module, lambda x: module.quant_conv(module.encoder(x)), lambda x: module.encode(x).image_tokens, decode
    )


def _janus_tokenizer(config: Any, tensors: Mapping[str, torch.Tensor]) -> Tokenizer:
    """Its `encode` leaves out both normalisations of the original, and its `decode` takes one grid only; both are
    written out here."""
    module = _filled(transformers.JanusVQVAE(config), tensors)
    book = normalize(module.quantize.embedding.weight, dim=-1)

    def latents(x: torch.Tensor) -> torch.Tensor:
        return normalize(module.quant_conv(module.encoder(x)), dim=1)

    def encode(x: torch.Tensor) -> torch.Tensor:
        return (latents(x).permute(0, 2, 3, 1) @ book.T).argmax(-1)

    def decode(codes: torch.Tensor) -> torch.Tensor:
        return module.decoder(module.post_quant_conv(book[codes].permute(0, 3, 1, 2)))

    return Tokenizer(module, latents, encode, decode)


def _filled(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The module, in float32, with all its weights from `tensors`, which may have more."""
    missing = module.float().load_state_dict(dict(tensors), strict=False).missing_keys
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"the image tokenizer lacks {missing[0]}, as transformers calls it ({len(missing)} in all)")
    return module.eval()


FAMILIES = {
    # The network of its language model is Qwen3's, with the same names.
    "emu3_5": Family(transformers.Qwen3ForCausalLM, lambda model: {}, _emu3_5_tokenizer),
    "emu3": Family(transformers.Emu3ForConditionalGeneration, _emu3_ids, _emu3_tokenizer),
    "chameleon": Family(transformers.ChameleonForConditionalGeneration, _chameleon_ids, _chameleon_tokenizer),
    "janus": Family(transformers.JanusForConditionalGeneration, _janus_ids, _janus_tokenizer),
}
"""By `ModelConfig.architecture`."""
