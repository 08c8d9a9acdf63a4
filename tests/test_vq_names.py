"""Names and shapes of the published image tokenizers: every tensor has its place, every parameter its tensor.

tests/fixtures/vq_names.txt lists the original repositories' tensors at full size, {a,b} standing for both; those of
transformers come from its own classes. Nothing of that size is allocated.
"""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
import torch_vq
from transformers import Emu3VQVAE, Emu3VQVAEConfig, JanusVQVAE, JanusVQVAEConfig

from ssd_jax.models.vq_config import DEFAULTS, VQGANConfig
from ssd_jax.models.vq_models import abstract_vq
from ssd_jax.weights.load import WeightsError
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.vq_names import is_vq_name, plan, read_vq

FAMILIES = ("emu3", "chameleon", "janus")
COUNTS = {"emu3": 495, "chameleon": 293, "janus": 344}
LEFT_OUT = {"emu3": 8, "chameleon": 0, "janus": 1}

full_size = cache(lambda family: abstract_vq(DEFAULTS[family]))


@pytest.fixture(scope="module")
def original(fixtures):
    """family -> {name: shape} of the original repositories."""
    lists = {}
    for line in (fixtures / "vq_names.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            names = lists[line.split()[1].rstrip(":")] = {}
            continue
        pattern, shape = line.split()
        shape = () if shape == "scalar" else tuple(map(int, shape.split("x")))
        parts = [part.strip("{}").split(",") for part in pattern.split(".")]
        names |= {".".join(name): shape for name in itertools.product(*parts)}
    return lists


def transformers_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of transformers' own class at full size."""
    with torch.device("meta"):
        model = Emu3VQVAE(Emu3VQVAEConfig()) if family == "emu3" else JanusVQVAE(JanusVQVAEConfig())
    return {name: tuple(x.shape) for name, x in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_original_tensor_is_placed(original, family):
    shapes = original[family]
    assert len(shapes) == COUNTS[family]
    assert all(map(is_vq_name, shapes))
    placements = plan(family, shapes, full_size(family))
    assert {placement.path for placement in placements.values()} == set(flatten(full_size(family)))
    assert len(shapes) - len(placements) == LEFT_OUT[family]


@pytest.mark.parametrize("prefix", ["", "vqmodel.", "model.vqmodel."])
@pytest.mark.parametrize("family", ["emu3", "janus"])
def test_both_spellings_fill_the_same_parameters(original, family, prefix):
    shapes = transformers_shapes(family)
    stand_ins = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
    renamed = getattr(torch_vq, f"{family}_original")(stand_ins)
    start = "gen_vision_model." if family == "janus" else ""
    assert {start + name: x.shape for name, x in renamed.items()} == original[family]
    theirs = plan(family, original[family], full_size(family))
    ours = plan(family, {prefix + name: shape for name, shape in shapes.items()}, full_size(family))
    for name in shapes:
        (other,) = getattr(torch_vq, f"{family}_original")({name: stand_ins[name]}).keys() - {"quantize.codebook_used"}
        if prefix + name in ours:
            assert ours[prefix + name].path == theirs[start + other].path


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("model.vqmodel.anything", True),
        ("post_quant_conv.conv.bias", True),
        ("model.embed_tokens.weight", False),
        ("lm_head.weight", False),
        ("text_model.model.layers.0.mlp.up_proj.weight", False),
        ("vision_model.vision_tower.blocks.0.norm1.weight", False),
        ("model.generation_head.vision_head.weight", False),
        ("gen_embed.weight", False),
    ],
)
def test_names_of_the_tokenizer_in_a_whole_model(name, belongs):
    assert is_vq_name(name) == belongs


# -- what does not fit

SMALL = VQGANConfig(channels=32, multipliers=(1,), blocks=1, codebook_size=5, code_dim=2, latent_dim=3)


@pytest.fixture(scope="module")
def small():
    """(shapes of a small Chameleon tokenizer, its parameters' shapes)."""
    state = torch_vq.chameleon(SMALL).state
    return {name: x.shape for name, x in state.items()}, abstract_vq(SMALL)


def test_losses_of_a_training_checkpoint_are_left_out(small):
    shapes, like = small
    assert "loss.discriminator.main.0.weight" not in plan(
        "chameleon", shapes | {"loss.discriminator.main.0.weight": (64, 3, 4, 4)}, like
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder.conv_out.bias": None}, r"no tensor for the parameter 'decoder.conv_out.bias'\."),
        ({"encoder.conv_in.bias": None, "quant_conv.bias": None}, r"'encoder.conv_in.bias' \(and for 1 more\)"),
        ({"encoder.down.7.block.0.conv1.weight": (1,)}, "'encoder.down.7.block.0.conv1.weight' is unexpected"),
        ({"model.vqmodel.extra": (1,)}, "'model.vqmodel.extra' is unexpected"),
        ({"decoder.conv_in.weight": (32, 4, 3, 3)}, r"'decoder.conv_in.weight' has shape \(32, 4, 3, 3\)"),
        ({"quant_conv.weight": (2, 3, 3, 3)}, r"'quant_conv.weight' has shape \(2, 3, 3, 3\)"),
        ({"quant_conv.weight": (2, 3, 4, 1, 1)}, "'quant_conv.weight' has shape"),  # more taps than frames in front
        ({"vqmodel.quant_conv.bias": (2,)}, "'quant_conv.bias' and 'vqmodel.quant_conv.bias' are the same parameter"),
        ({"quantize.embedding.weight": (5, 3)}, "'quantize.embedding.weight' has shape"),
    ],
)
def test_errors_name_the_tensor(small, changes, message):
    shapes = {name: shape for name, shape in (small[0] | changes).items() if shape is not None}
    with pytest.raises(WeightsError, match=message):
        plan("chameleon", shapes, small[1])


def test_an_encoder_alone_is_refused(small):
    half = {name: shape for name, shape in small[0].items() if not name.startswith("decoder.")}
    with pytest.raises(WeightsError, match="only the tokenizer's encoder"):
        plan("chameleon", half, small[1])


def test_tensors_are_read_one_by_one_and_cast(small):
    shapes, like = small
    values = {name: np.arange(np.prod(shape)).reshape(shape).astype(np.float16) for name, shape in shapes.items()}
    read = []
    params = read_vq("chameleon", shapes, lambda name: read.append(name) or values[name], like)["params"]
    assert sorted(read) == sorted(shapes)
    kernel = params["encoder"]["conv_in"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[2, 0, 1], values["encoder.conv_in.weight"][:, 1, 2, 0])
    np.testing.assert_array_equal(params["quant_conv"]["kernel"], values["quant_conv.weight"][:, :, 0, 0].T)
