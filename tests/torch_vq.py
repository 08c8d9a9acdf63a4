"""Small published image tokenizers with random weights, in torch: what the ports must reproduce.

Transformers has no Chameleon decoder; Janus's is the same network once its attention in the last level is taken out (or
left, if the config has it there) and its levels are counted from the other end.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import (
    Apertus1p5VisionTokenizerConfig,
    Apertus1p5VisionTokenizerModel,
    ChameleonVQVAEConfig,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    JanusVQVAE,
    JanusVQVAEConfig,
)
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig

torch.set_num_threads(1)


@dataclasses.dataclass
class Reference:
    """Images are float32 [B, height, width, 3], latents [B, R, C, code_dim] before quantisation, codes [B, R, C].

    Attributes:
        config: ours.
        published: the section of config.json.
        state: the checkpoint's tensors by name, without prefix, as transformers spells them.
    """

    config: VQGANConfig | MoVQConfig
    published: dict
    state: dict[str, np.ndarray]
    latents: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


def emu3(config: MoVQConfig, seed: int = 0) -> Reference:
    published = Emu3VQVAEConfig(
        **_sizes(config),
        codebook_size=config.codebook_size,
        attn_resolutions=list(config.attention_levels),
        temporal_downsample_factor=config.frames,
        hidden_size=config.widths[-1],
    )
    model = _random(Emu3VQVAE(published), seed)

    def latents(x):
        video = x.unsqueeze(1).repeat(1, config.frames, 1, 1, 1)
        return model.quant_conv(model.encoder(video).permute(0, 2, 1, 3, 4))[:, :, 0]

    def encode(x):
        sizes = torch.tensor([x.shape[2:]] * len(x))
        return torch.stack(model.encode(x, sizes, return_dict=True).image_tokens)

    return _reference(config, published, model, _numpy(model), latents, encode, model.decode)


def chameleon(config: VQGANConfig, seed: int = 0) -> Reference:
    resolution = 64
    published = ChameleonVQVAEConfig(
        **_sizes(config),
        num_embeddings=config.codebook_size,
        resolution=resolution,
        attn_resolutions=[resolution // 2**level for level in config.attention_levels],
    )
    model = _random(ChameleonVQVAE(published), seed)
    decoder = JanusVQVAE(JanusVQVAEConfig(**_sizes(config))).decoder
    if not config.attention_levels:
        for level in decoder.up:
            level.attn = torch.nn.ModuleList()
    decoder = _random(decoder, seed + 1)
    last = len(config.multipliers) - 1
    state = {f"decoder.{reverse_up(name, last)}": x for name, x in _numpy(decoder).items()} | _numpy(model)

    def encode(x):
        return model.encode(x, return_dict=True).image_tokens.view(
            len(x), *(side // config.stride for side in x.shape[2:])
        )

    def decode(codes):
        return decoder(model.post_quant_conv(model.quantize.embedding(codes).permute(0, 3, 1, 2)))

    return _reference(config, published, model, state, lambda x: model.quant_conv(model.encoder(x)), encode, decode)


def emu3_5(config: VQGANConfig, seed: int = 0) -> Reference:
    """Transformers has the encoder, for Apertus; the decoder is that of Janus, as for Chameleon."""
    resolution = 64
    published = Apertus1p5VisionTokenizerConfig(
        **_sizes(config),
        codebook_size=config.codebook_size,
        resolution=resolution,
        attn_resolutions=[resolution // 2**level for level in config.attention_levels],
    )
    model = _random(Apertus1p5VisionTokenizerModel(published), seed)
    decoder = _random(JanusVQVAE(JanusVQVAEConfig(**_sizes(config))).decoder, seed + 1)
    widen = _random(torch.nn.Conv2d(config.code_dim, config.latent_dim, 1), seed + 2)
    last = len(config.multipliers) - 1
    state = {f"decoder.{reverse_up(name, last)}": x for name, x in _numpy(decoder).items()}
    state |= {f"post_quant_conv.{name}": x for name, x in _numpy(widen).items()}
    for name, x in _numpy(model).items():
        name = re.sub(r"\.stages\.(\d)\.layers\.(\d)\.resnet\.", r".down.\1.block.\2.", name)
        name = re.sub(r"\.stages\.(\d)\.layers\.(\d)\.attention\.", r".down.\1.attn.\2.", name)
        state[re.sub(r"\.stages\.(\d)\.downsample\.", r".down.\1.downsample.", name)] = x

    def decode(codes):
        return decoder(widen(model.quantize.embedding.weight[codes].permute(0, 3, 1, 2)))

    def encode(x):
        return model.encode(x).image_tokens

    return _reference(config, published, model, state, lambda x: model.quant_conv(model.encoder(x)), encode, decode)


def janus(config: VQGANConfig, seed: int = 0) -> Reference:
    published = JanusVQVAEConfig(**_sizes(config), num_embeddings=config.codebook_size)
    model = _random(JanusVQVAE(published), seed)

    def latents(x):
        return normalize(model.quant_conv(model.encoder(x)), dim=1)

    def unit_codes():
        return normalize(model.quantize.embedding.weight, dim=-1)

    def encode(x):  # the original's rule; transformers leaves both normalisations out
        return (latents(x).permute(0, 2, 3, 1) @ unit_codes().T).argmax(-1)

    def decode(codes):  # model.decode, for any grid
        return model.decoder(model.post_quant_conv(unit_codes()[codes].permute(0, 3, 1, 2)))

    return _reference(config, published, model, _numpy(model), latents, encode, decode)


def emu3_original(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' names and shapes of Emu3 to those of BAAI/Emu3-VisionTokenizer."""
    out = {}
    for name, x in state.items():
        name = re.sub(r"\.(down|up)_block\.", ".", name)
        name = re.sub(r"\.attn_norms\.(\d)\.", r".attn.\1.norm.", name)
        name = name.replace(".middle_block.attn_norm.", ".mid.attn_1.norm.").replace(".middle_block.", ".mid.")
        short = re.sub(r"\.(q|k|v|out)_proj\.", lambda m: f".{m[1] if m[1] != 'out' else 'proj_out'}.", name)
        out[short] = x[:, :, None, None] if short != name and x.ndim == 2 else x
    return out


def janus_original(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' names of Janus to those of deepseek-ai/Janus-Pro, with what that has besides."""
    out = {"quantize.codebook_used": np.zeros(65536, np.float32)}
    for name, x in state.items():
        name = re.sub(r"\.(down|up)\.(\d)\.", r".conv_blocks.\2.", name).replace(".block.", ".res.")
        for ours, theirs in (("block_1", "0"), ("attn_1", "1"), ("block_2", "2")):
            name = name.replace(f".mid.{ours}.", f".mid.{theirs}.")
        out[name] = x
    return out


def reverse_up(name: str, last: int) -> str:
    """Counts the decoder's levels from the other end."""
    return re.sub(r"\bup\.(\d)\.", lambda match: f"up.{last - int(match[1])}.", name)


def _sizes(config: VQGANConfig | MoVQConfig) -> dict:
    return dict(
        base_channels=config.channels,
        channel_multiplier=list(config.multipliers),
        num_res_blocks=config.blocks,
        embed_dim=config.code_dim,
        latent_channels=config.latent_dim,
    )


def _random(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Norms, biases and running statistics that are not those of a fresh module, so that a missed one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                scale = (parameter[0].numel() if parameter.ndim > 2 else parameter.shape[1]) ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.05, 0.15, generator=generator)  # small enough that epsilon counts
    return module.eval()


def _reference(config, published, model, state, latents, encode, decode) -> Reference:
    """Spreads the codebook over the latents of noise, so that many codes occur, and makes numpy functions."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(7)
        z = latents(torch.rand(2, 3, 8 * config.stride, 8 * config.stride, generator=generator) * 2 - 1)
        z = z.permute(0, 2, 3, 1).reshape(-1, config.code_dim)
        book = model.quantize.embedding.weight
        book.copy_(z.mean(0) + z.std(0) * torch.randn(book.shape, generator=generator))
    state["quantize.embedding.weight"] = book.detach().numpy()

    def pixels_in(function):
        def call(images):
            with torch.no_grad():
                return function(torch.tensor(images).permute(0, 3, 1, 2))

        return call

    def to_pixels(codes):
        with torch.no_grad():
            return decode(torch.tensor(codes)).permute(0, 2, 3, 1).numpy()

    to_latents, to_codes = pixels_in(latents), pixels_in(encode)
    return Reference(
        config,
        published.to_diff_dict(),
        state,
        lambda images: to_latents(images).permute(0, 2, 3, 1).numpy(),
        lambda images: to_codes(images).numpy(),
        to_pixels,
    )


def _numpy(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: x.detach().numpy() for name, x in module.state_dict().items()}
