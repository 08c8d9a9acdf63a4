"""The published image tokenizers against torch: same codes, same pixels, whatever the sizes (tests/torch_vq.py)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_vq
from safetensors.numpy import save_file
from transformers import Apertus1p5VisionTokenizerConfig, Emu3ImageProcessor

from ssd_jax.backbones.emu3 import VQ as EMU3
from ssd_jax.backbones.emu3_5 import VQ as EMU3_5
from ssd_jax.backbones.hf_vq import vq_from_hf
from ssd_jax.backbones.janus import VQ as JANUS
from ssd_jax.backbones.lumina import VQ as CHAMELEON
from ssd_jax.models.config import ConfigError
from ssd_jax.models.vq import to_uint8
from ssd_jax.models.vq_config import MoVQConfig, VQGANConfig
from ssd_jax.models.vq_models import abstract_vq, vq_model
from ssd_jax.weights.load import read_vq

TINY = dict(channels=32, blocks=1, codebook_size=50)
TINY_VQGAN = TINY | dict(latent_dim=12, code_dim=5)


def under(prefix, spell=dict):
    return lambda state: {f"{prefix}{name}": x for name, x in spell(state).items()}


# family and what is special: (config, grid, how the checkpoint spells its names)
CASES = {
    "emu3": (
        MoVQConfig(**TINY, multipliers=(1, 1, 2), attention_levels=(2,)),
        (3, 5),
        under("model.vqmodel."),
    ),
    "emu3-original": (
        MoVQConfig(**TINY | dict(blocks=2, frames=2, code_dim=6), multipliers=(2, 1), attention_levels=()),
        (4, 2),
        torch_vq.emu3_original,
    ),
    "chameleon": (VQGANConfig(**TINY_VQGAN, multipliers=(1, 2, 2)), (3, 5), dict),
    "chameleon-level-attention": (
        VQGANConfig(**TINY_VQGAN, multipliers=(2, 1), attention_levels=(1,)),
        (4, 2),
        under("model.vqmodel."),
    ),
    "emu3_5": (
        VQGANConfig(**TINY_VQGAN, multipliers=(1, 1, 2), attention_levels=(2,), inner_product=True),
        (3, 5),
        dict,
    ),
    "janus": (
        VQGANConfig(**TINY_VQGAN, multipliers=(1, 1, 2), attention_levels=(2,), normalised=True),
        (3, 5),
        under("model.vqmodel."),
    ),
    "janus-original": (
        VQGANConfig(**TINY_VQGAN | dict(blocks=2), multipliers=(2, 1), attention_levels=(1,), normalised=True),
        (4, 2),
        under("gen_vision_model.", torch_vq.janus_original),
    ),
}


def run(function, *arguments):
    """The function, compiled for one call: without the optimisations, which would take most of the time."""
    return jax.jit(function).lower(*arguments).compile({"xla_backend_optimization_level": 0})(*arguments)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(family, config, grid, torch's, our parameters, read from a file)."""
    family = request.param.split("-")[0]
    config, grid, spell = CASES[request.param]
    theirs = getattr(torch_vq, family)(config)
    path = tmp_path_factory.mktemp("vq") / "model.safetensors"
    save_file({name: np.array(x, order="C") for name, x in spell(theirs.state).items()}, path)
    return family, config, grid, theirs, read_vq(path, family, abstract_vq(config))


def test_codes_are_those_of_torch(case):
    _, config, (rows, cols), theirs, params = case
    shape = (2, rows * config.stride, cols * config.stride, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    model = vq_model(config)
    latents, codes = run(
        lambda p, x: [model.apply(p, x, method=name) for name in ("latents", "encode")], params, images
    )
    np.testing.assert_allclose(latents, theirs.latents(images), atol=1e-4)
    np.testing.assert_array_equal(codes, theirs.encode(images))
    assert codes.dtype == jnp.int32
    assert len(np.unique(codes)) > rows * cols / 2  # many different ones, or equality would say little


def test_pixels_are_those_of_torch(case):
    _, config, grid, theirs, params = case
    codes = np.random.default_rng(1).integers(0, config.codebook_size, (2, *grid))
    pixels = run(lambda p, x: vq_model(config).apply(p, x, method="decode"), params, codes)
    assert pixels.dtype == jnp.float32
    wanted = theirs.decode(codes)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(pixels, wanted, atol=1e-4)


def test_the_config_is_read_from_the_published_one(case):
    family, config, _, theirs, _ = case
    assert vq_from_hf(family, {"vq_config": theirs.published}) == config


@pytest.mark.parametrize("to_bytes", ["emu3", "chameleon", "janus"])
def test_bytes_are_those_of_the_published_pipelines(to_bytes):
    """All of them clip and truncate."""
    x = np.linspace(-1.2, 1.2, 4001, dtype=np.float32)
    wanted = {
        "emu3": lambda: np.asarray(
            Emu3ImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
            .postprocess(np.stack([x[None]] * 3), return_tensors="np", input_data_format="channels_first")
            .pixel_values[0][0]
        ),
        "chameleon": lambda: ((np.clip(x, -1, 1) + 1) / 2 * 255).astype(np.uint8),
        "janus": lambda: np.clip((x + 1) / 2 * 255, 0, 255).astype(np.uint8),
    }[to_bytes]()
    np.testing.assert_array_equal(to_uint8(jnp.asarray(x)), wanted)


# -- configurations


@pytest.mark.parametrize(
    ("family", "values", "config"),
    [
        ("emu3", {"model_type": "Emu3"}, EMU3),
        ("janus", {"gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": 16384, "n_embed": 8}}}, JANUS),
        ("janus", {"gen_vision_config": {"params": {"n_embed": 4}}}, dataclasses.replace(JANUS, code_dim=4)),
        ("chameleon", {"vq_config": None}, CHAMELEON),
        ("chameleon", {"vq_config": {"attn_resolutions": None, "resolution": 512, "dropout": 0.0}}, CHAMELEON),
    ],
)
def test_original_configs_and_defaults(family, values, config):
    assert vq_from_hf(family, values) == config


def test_strides_are_the_published_ones():
    assert (EMU3.stride, EMU3_5.stride, CHAMELEON.stride, JANUS.stride) == (8, 16, 16, 16)


def test_emu3_5_has_as_many_parameters_as_published():
    """455 M (arXiv 2510.26583); its sizes are those of transformers' port."""
    assert round(sum(leaf.size for leaf in jax.tree.leaves(abstract_vq(EMU3_5))) / 1e6) == 455
    assert vq_from_hf("emu3_5", {"vq_config": Apertus1p5VisionTokenizerConfig().to_dict()}) == EMU3_5


@pytest.mark.parametrize(
    ("family", "published", "message"),
    [
        ("chameleon", [], "expected an object"),
        ("chameleon", {"double_latent": True}, "double_latent must be False"),
        ("chameleon", {"attn_type": "linear"}, "attn_type must be 'vanilla'"),
        ("chameleon", {"resolution": "big", "attn_resolutions": [16]}, "resolution must be whole numbers"),
        ("janus", {"base_channels": 100}, "multiple of 32"),
        ("janus", {"channel_multiplier": []}, "multipliers must be positive"),
        ("janus", {"channel_multiplier": 4}, "multipliers must be whole numbers"),
        ("janus", {"num_embeddings": True}, "codebook_size must be a positive whole number"),
        ("emu3", {"num_attention_heads": 2}, "num_attention_heads must be 1"),
        ("emu3", {"attn_resolutions": [4]}, "not among 4 levels"),
        ("emu3", {"temporal_downsample_factor": 3}, "power of two"),
        ("emu3", {"latent_channels": 8}, "as wide as the code vectors"),
    ],
)
def test_other_networks_are_refused(family, published, message):
    with pytest.raises(ConfigError, match=f"^config.json: vq_config.*{message}"):
        vq_from_hf(family, {"vq_config": published})
