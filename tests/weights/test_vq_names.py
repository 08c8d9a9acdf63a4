"""Names and shapes of the published image tokenizers: every tensor has its place, every parameter its tensor.

tests/fixtures/vq_names.txt lists the original repositories' tensors at full size, {a,b} standing for both; those of
transformers come from its own classes. Nothing of that size is allocated.
"""

import itertools
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_vq
from safetensors.numpy import load_file, save_file
from transformers import Emu3VQVAE, Emu3VQVAEConfig, JanusVQVAE, JanusVQVAEConfig

from ssd_jax.backbones import PUBLISHED
from ssd_jax.backbones.emu3 import VQ as EMU3
from ssd_jax.errors import UserError
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.loaded_model import LoadedModel
from ssd_jax.models.vq_config import VQGANConfig
from ssd_jax.models.vq_models import abstract_vq
from ssd_jax.pipeline.execution import Execution
from ssd_jax.pipeline.origin import Checkpoint
from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.weights.load import find_vq_weights, read_config, read_vq
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.store import WeightsError
from ssd_jax.weights.vq_names import find_vq_sources, is_vq_name

FAMILIES = ("emu3", "chameleon", "janus")
COUNTS = {"emu3": 495, "chameleon": 293, "janus": 344}
LEFT_OUT = {"emu3": 8, "chameleon": 0, "janus": 1}

full_size = cache(lambda family: abstract_vq(PUBLISHED[family].vq.config))


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
def test_every_original_tensor_has_its_place(original, family):
    shapes, like = original[family], full_size(family)
    assert len(shapes) == COUNTS[family]
    assert all(map(is_vq_name, shapes))
    sources = find_vq_sources(family, like, shapes)
    leaves = flatten(like)
    assert sources.keys() == leaves.keys()
    assert len(shapes) - len({source.name for source in sources.values()}) == LEFT_OUT[family]
    for path, source in sources.items():
        assert source.fits(shapes[source.name], leaves[path].shape), (path, source)


@pytest.mark.parametrize("family", ["emu3", "janus"])
def test_both_spellings_fill_the_same_parameters(original, family):
    shapes, like = transformers_shapes(family), full_size(family)
    rename = getattr(torch_vq, f"{family}_original")
    start = "gen_vision_model." if family == "janus" else ""
    renamed = {}
    for name, shape in shapes.items():
        (renamed[name],) = rename({name: np.broadcast_to(np.int8(0), shape)}).keys() - {"quantize.codebook_used"}
    assert {start + name for name in renamed.values()} == set(original[family]) - {start + "quantize.codebook_used"}
    theirs = find_vq_sources(family, like, original[family])
    for prefix in ("", "vqmodel.", "model.vqmodel."):
        ours = find_vq_sources(family, like, {prefix + name: shape for name, shape in shapes.items()})
        for path, source in ours.items():
            name = source.name.removeprefix(prefix)
            assert start + renamed[name] == theirs[path].name
            assert source.fits(shapes[name], flatten(like)[path].shape)


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


@pytest.fixture
def write(small, tmp_path):
    """write(changes) -> a file with the small tokenizer's tensors; other shapes where `changes` has them, None: not."""

    def make(changes):
        shapes = {name: shape for name, shape in (small[0] | changes).items() if shape is not None}
        rng = np.random.default_rng(0)
        save_file({name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}, tmp_path / "vq")
        return tmp_path / "vq"

    return make


def test_what_is_not_the_tokenizers_is_passed_over(small, write):
    params = read_vq(
        write({"loss.discriminator.main.0.weight": (4, 3), "lm_head.weight": (5, 2)}), "chameleon", small[1]
    )
    assert flatten(params).keys() == flatten(small[1]).keys()


def test_axes_are_ours_and_numbers_float32(small, write):
    path = write({})
    params = read_vq(path, "chameleon", small[1])["params"]
    stored = load_file(path)
    kernel = params["encoder"]["conv_in"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[2, 0, 1], stored["encoder.conv_in.weight"][:, 1, 2, 0])
    np.testing.assert_array_equal(params["quant_conv"]["kernel"], stored["quant_conv.weight"][:, :, 0, 0].T)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder.conv_out.bias": None}, r"no tensor is the image tokenizer's 'decoder.conv_out.bias'\."),
        ({"encoder.conv_in.bias": None, "quant_conv.bias": None}, r"'encoder.conv_in.bias' \(and 1 more\)"),
        ({"encoder.down.7.block.0.conv1.weight": (1,)}, "'encoder.down.7.block.0.conv1.weight' is unexpected"),
        ({"model.vqmodel.extra": (1,)}, "'model.vqmodel.extra' is unexpected"),
        ({"decoder.conv_in.weight": (32, 4, 3, 3)}, r"'decoder.conv_in.weight' has shape \(32, 4, 3, 3\)"),
        ({"quant_conv.weight": (2, 3, 3, 3)}, r"'quant_conv.weight' has shape \(2, 3, 3, 3\)"),
        ({"quant_conv.weight": (2, 3, 4, 1, 1)}, "'quant_conv.weight' has shape"),  # four taps along time, not three
        ({"quantize.embedding.weight": (5, 3)}, "'quantize.embedding.weight' has shape"),
        ({"vqmodel.quant_conv.bias": (2,)}, "'quant_conv.bias' and 'vqmodel.quant_conv.bias' are the same parameter"),
    ],
)
def test_errors_name_file_and_tensor(small, write, changes, message):
    with pytest.raises(WeightsError, match=f"vq: .*{message}"):
        read_vq(write(changes), "chameleon", small[1])


def test_a_file_with_half_a_tokenizer_or_none_is_refused(small):
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        shapes = {name: shape for name, shape in small[0].items() if not name.startswith(f"{other}.")}
        with pytest.raises(WeightsError, match=f"only the {half}, without {other}; .*--vq_weights"):
            find_vq_sources("chameleon", small[1], shapes)
    with pytest.raises(WeightsError, match="there is no image tokenizer; .*--vq_weights"):
        find_vq_sources("chameleon", small[1], {"lm_head.weight": (4, 4)})


def test_where_a_tokenizer_is_looked_for(tmp_path):
    assert find_vq_weights(tmp_path, "emoji") == tmp_path / "vq.safetensors"
    with pytest.raises(WeightsError, match="model.safetensors does not exist"):
        find_vq_weights(tmp_path, "emu3")
    for name in ("model.safetensors", "vqgan.safetensors", "vq.safetensors"):  # the last one goes before the others
        (tmp_path / name).touch()
        assert find_vq_weights(tmp_path, "chameleon") == tmp_path / name
    assert find_vq_weights(tmp_path / "model.safetensors", "janus") == tmp_path / "model.safetensors"


def test_a_published_config_tells_of_its_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "Emu3"}')
    assert read_config(tmp_path)[1] == EMU3
    (tmp_path / "config.json").write_text('{"model_type": "janus", "vq_config": {"embed_dim": 0}}')
    with pytest.raises(UserError, match="config.json: vq_config: code_dim must be"):
        read_config(tmp_path)


def test_a_pipeline_draws_with_weights_from_elsewhere(write, tmp_path):
    model = ModelConfig(vocab_size=9, visual_offset=4, visual_size=5, architecture="chameleon")
    pipe = Pipeline(Checkpoint(tmp_path, vq_weights=write({})), LoadedModel(None, model), SMALL, Execution(jnp.float32))
    pixels = pipe.decode(np.arange(6).reshape(1, 2, 3) % 5)
    assert (pixels.shape, pixels.dtype) == ((1, 2, 3, 3), np.uint8)
    assert pipe.encode(pixels).shape == (1, 2, 3)
