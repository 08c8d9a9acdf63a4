"""Names and shapes of the published backbones at full size: every tensor has its use, every parameter its tensor.

tests/fixtures/backbone_names.txt lists the original repositories' tensors, {a,b} standing for both; those of
transformers come from its own classes. Nothing of that size is allocated.
"""

import dataclasses
import itertools
import math
import re
from functools import cache

import pytest
import torch
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ssd_jax.backbones.hf_config import from_hf
from ssd_jax.models.config import NONE, ModelConfig
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.names import find_sources, ignored_names

JANUS_7B = {"max_position_embeddings": 16384, "num_hidden_layers": 30, "vocab_size": 102400}
JANUS_1B = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16,
    "num_hidden_layers": 24, "vocab_size": 102400,
}  # fmt: skip


def janus_config(text: dict, width: int) -> JanusConfig:
    vq, vision = {"projection_dim": width, "image_token_embed_dim": width}, {"projection_dim": width}
    return JanusConfig(text_config=text | {"model_type": "llama"}, vision_config=vision, vq_config=vq)


@cache
def parameters(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our parameters' shapes by flat name."""
    return {name: leaf.shape for name, leaf in flatten(abstract_backbone(config)).items()}


# name: (config.json, parameters that images are made with, without the text's rows of the head)
EMU3_5 = {
    "vocab_size": 282926, "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
ORIGINAL = {
    "emu3_5": (EMU3_5 | {"model_type": "Emu3", "architectures": ["Emu3ForCausalLM"]}, 34_103_460_864),
    "emu3": ({"model_type": "Emu3", "architectures": ["Emu3ForCausalLM"], "vocab_size": 184622}, 8_492_011_520),
    "chameleon": ({"model_type": "chameleon_xllmx", "vocab_size": 65536}, 7_013_158_912),
    "janus": (
        {
            "model_type": "multi_modality",
            "language_config": {"model_type": "llama", **JANUS_7B},
            "gen_vision_config": {"params": {"image_token_size": 16384, "n_embed": 8}},
            "gen_aligner_config": {"params": {"depth": 2, "projector_type": "mlp_gelu"}},
            "gen_head_config": {"params": {"image_token_embed": 4096, "image_token_size": 16384, "n_embed": 4096}},
        },
        6_910_365_696 + 131_072 + 16_818_176 + 83_906_560 + 20_979_712,
    ),
}
TRANSFORMERS = {
    "emu3_5": (Qwen3ForCausalLM, Qwen3Config(**EMU3_5, tie_word_embeddings=False)),  # the same network and names
    "emu3": (Emu3ForConditionalGeneration, Emu3Config(vocabulary_map={"<|extra_200|>": 151846})),
    "chameleon": (ChameleonForConditionalGeneration, ChameleonConfig(vocabulary_map={"<image>": 8711})),
    "janus-7b": (JanusForConditionalGeneration, janus_config(JANUS_7B, 4096)),
    "janus-1b": (JanusForConditionalGeneration, janus_config(JANUS_1B, 2048)),
}


def check(config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """Every parameter has a tensor of its own that fits; every other tensor is left out on purpose."""
    leaves = parameters(dataclasses.replace(config, pad_id=NONE, bos_id=NONE))  # which have no part in it
    sources = find_sources(config, leaves, shapes)
    used = [source.name for source in sources.values()]
    assert sources.keys() == leaves.keys() and len(set(used)) == len(used)
    for name, source in sources.items():
        assert source.fits(shapes[source.name], leaves[name]), (name, source, shapes[source.name])
    unused = {name for name in shapes.keys() - set(used) if not re.fullmatch(ignored_names(config), name)}
    assert not unused


def listed(text: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """family -> {name: shape} of the fixture."""
    lists = {}
    for line in text.splitlines():
        if line.startswith("#"):
            names = lists[line.split()[1].rstrip(":")] = {}
            continue
        pattern, shape = line.split()
        choices = []
        for part in re.split(r"\{([^}]*)\}", pattern)[1::2]:
            low, _, high = part.partition("..")
            choices.append(map(str, range(int(low), int(high) + 1)) if high else part.split(","))
        template = re.sub(r"\{[^}]*\}", "{}", pattern)
        names |= {template.format(*chosen): tuple(map(int, shape.split("x"))) for chosen in itertools.product(*choices)}
    return lists


@pytest.mark.parametrize("family", ORIGINAL)
def test_original_names(fixtures, family):
    values, count = ORIGINAL[family]
    shapes = listed((fixtures / "backbone_names.txt").read_text(encoding="utf-8"))[family]
    assert sum(map(math.prod, shapes.values())) == count
    check(from_hf(values), shapes)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_names_of_transformers(name):
    kind, config = TRANSFORMERS[name]
    with torch.device("meta"):
        model = kind(config)
    values = EMU3_5 | {"model_type": "Emu3"} if name == "emu3_5" else config.to_diff_dict()
    check(from_hf(values), {name: tuple(x.shape) for name, x in model.state_dict().items()})
