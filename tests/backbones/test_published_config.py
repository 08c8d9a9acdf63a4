"""Reading the config.json of a published backbone: which values are read, and which are refused."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import ChameleonConfig, Emu3Config, JanusConfig

from ssd_jax import backbones
from ssd_jax.backbones import BACKBONES, PUBLISHED, backbone_of, emu3, emu3_5, janus, lumina
from ssd_jax.backbones.hf_config import from_hf
from ssd_jax.models.config import NONE, UNKNOWN, ConfigError
from ssd_jax.weights.load import FORMAT, read_config

ARCHITECTURES = {kind: published for published in PUBLISHED.values() for kind in published.config_json.kinds}
LUMINA = {"model_type": "chameleon_xllmx", "architectures": ["ChameleonXLLMXForConditionalGeneration"]}
JANUS = {"model_type": "multi_modality", "language_config": {"num_hidden_layers": 30, "vocab_size": 102400}}
EMU3_HF = {  # as transformers' converter of 2025 writes it
    "model_type": "emu3", "text_config": {"max_position_embeddings": 9216, "rope_scaling": {"rope_type": "default"}},
}  # fmt: skip
EMU3 = {
    "model_type": "Emu3", "vocab_size": 184622, "eol_token_id": 151846, "boi_token_id": 151852, "image_area": 518400,
    "rope_theta": 1e6, "rope_scaling": None,
}  # fmt: skip

EMU3_5 = {  # the sizes of Xiaomi-Robotics-U0, trained from it; the rest as its class has them
    "model_type": "Emu3", "architectures": ["Emu3ForCausalLM"], "vocab_size": 282926, "hidden_size": 5120,
    "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8,
    "head_dim": 128, "image_area": 518400, "rope_theta": 1e6, "rope_scaling": None,
}  # fmt: skip


def image_names(count: int, first: int) -> dict[str, int]:
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    return {f"IMGIMG{str(code).translate(letters)}Z": first + code for code in range(count)}


def has(config, **fields) -> None:
    found = dataclasses.asdict(config)
    assert {name: found[name] for name in fields} == fields


@pytest.mark.parametrize(
    "values", [EMU3, EMU3_HF, Emu3Config().to_diff_dict()], ids=["original", "converted", "transformers"]
)
def test_emu3(values):
    config = from_hf(values)
    has(config, layers=32, width=4096, mlp_width=14336, heads=32, kv_heads=8, head_dim=128, vocab_size=184622)
    has(config, rope_theta=1e6, norm_eps=1e-5, qk_norm="", visual_offset=151854, visual_size=32768, rows=90, cols=90)
    has(config, pad_id=151643, bos_id=151849, boi_id=151852, row_end_id=151846, unk_id=NONE, architecture="emu3")


def test_emu3_5():
    """Emu3 and Emu3.5 have one `model_type`; the number of ids tells them apart."""
    config = from_hf(EMU3_5)
    has(config, layers=64, width=5120, heads=64, kv_heads=8, head_dim=128, vocab_size=282926, qk_norm="rms")
    has(config, visual_offset=151854, visual_size=131072, rows=64, cols=64, row_end_id=151846, architecture="emu3_5")
    has(from_hf(EMU3_5 | {"image_area": 512**2}), rows=32, cols=32)
    assert from_hf({name: value for name, value in EMU3_5.items() if name != "head_dim"}) == config
    small = {"model_type": "Emu3", "vocab_size": 200, "vocabulary_map": {"<|visual token 000000|>": 100}}
    has(from_hf(small), architecture="emu3", visual_size=1)
    has(from_hf(small | {"vq_type": "ibq"}), architecture="emu3_5", visual_size=1)


@pytest.mark.parametrize(
    "values", [LUMINA, ChameleonConfig(vocabulary_map={"<s>": 0}).to_diff_dict()], ids=["original", "transformers"]
)
def test_lumina(values):
    config = from_hf(values)
    has(config, layers=32, width=4096, mlp_width=11008, heads=32, kv_heads=32, head_dim=128, vocab_size=65536)
    has(config, rope_theta=1e4, norm_eps=1e-5, qk_norm="layer", visual_offset=4, visual_size=8192, rows=48, cols=48)
    has(config, pad_id=1, bos_id=0, boi_id=8197, row_end_id=8803, architecture="chameleon")


def test_janus():
    config = from_hf(JANUS | {"gen_head_config": {"params": {"image_token_embed": 4096}}})
    has(config, layers=30, width=4096, mlp_width=11008, heads=32, kv_heads=32, head_dim=128, vocab_size=102400)
    has(config, rope_theta=1e4, norm_eps=1e-6, qk_norm="", rows=24, cols=24, architecture="janus")
    has(config, visual_offset=0, visual_size=16384, code_width=8, head_width=4096)
    has(config, pad_id=100002, bos_id=100000, boi_id=100016, row_end_id=NONE)
    small = JanusConfig(text_config={"model_type": "llama", "vocab_size": 500}, vision_config={"image_size": 64})
    has(from_hf(small.to_diff_dict()), head_width=2048, rows=4, cols=4, vocab_size=500, boi_id=UNKNOWN)


def test_ids_come_from_names_first():
    """A published bos_token_id is wrong for some; what tokens are called is not."""
    names = {"<s>": 7, "<reserved08799>": 9, **image_names(12, 20)}
    config = from_hf(LUMINA | {"bos_token_id": 1, "pad_token_id": 5, "vocabulary_map": names})
    has(config, bos_id=7, row_end_id=9, pad_id=5, boi_id=8197, visual_offset=20, visual_size=12)
    tokenizer = {"<s>": 8, "<racm3:break>": 6}  # the map of config.json goes before the tokenizer's
    has(from_hf(LUMINA | {"vocabulary_map": names}, tokenizer), bos_id=7, boi_id=6)
    has(from_hf(LUMINA | {"vocabulary_map": names}, tokenizer, {"boi": 3, "row_end_id": 2}), boi_id=3, row_end_id=2)


def test_an_id_that_nothing_tells_is_unknown():
    small = {"vocab_size": 100, "vocabulary_map": image_names(64, 4)}
    has(from_hf(LUMINA | small), bos_id=0, pad_id=1, boi_id=UNKNOWN, row_end_id=UNKNOWN)


def test_names_of_the_tokenizer_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(JANUS))
    vocabulary = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "<begin_of_image>", "id": 12}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    has(read_config(tmp_path)[0], boi_id=12)
    has(read_config(tmp_path, {"boi": 13})[0], boi_id=13)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json is not a tokenizer file"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llama"}, "'llama' is not a model that can be loaded"),
        ({"architectures": ["GPT2LMHeadModel"]}, "is not a model that can be loaded"),
        (EMU3 | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type must be 'default', not 'linear'"),
        (EMU3 | {"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be 'default', not 'yarn'"),
        (EMU3 | {"tie_word_embeddings": True}, "tie_word_embeddings must be False"),
        (EMU3 | {"hidden_act": "gelu"}, "hidden_act must be 'silu', not 'gelu'"),
        (EMU3 | {"hidden_size": "4096"}, "wrong type"),
        (EMU3 | {"text_config": 3}, "must be an object"),
        (EMU3 | {"num_key_value_heads": 5}, "multiple of kv_heads"),
        (LUMINA | {"swin_norm": True}, "swin_norm must be False"),
        (LUMINA | {"vocabulary_map": image_names(12, 4) | {"IMGIMGDZ": 99}}, "must follow each other"),
        (JANUS | {"gen_aligner_config": {"params": {"depth": 3}}}, "2 layers with GELU, not 3"),
    ],
)
def test_another_network_is_refused(values, words):
    with pytest.raises(ConfigError, match=words) as error:
        from_hf(values, where="here/config.json")
    assert str(error.value).startswith("here/config.json: ")


@pytest.mark.parametrize("tokens", [{"boy": 3}, {"boi": "x"}, {"boi": -3}])
def test_wrong_tokens(tokens):
    with pytest.raises(ConfigError, match="special token"):
        from_hf(LUMINA, tokens=tokens)


@pytest.mark.parametrize(
    ("room", "values"),
    [
        (emu3, EMU3),
        (emu3_5, EMU3_5),
        (lumina, LUMINA),
        (janus, JANUS | {"gen_head_config": {"params": {"image_token_embed": 4096}}}),
    ],
)
def test_what_a_room_says_is_what_the_published_files_say(room, values):
    """So are the sizes in its config, which come from there."""
    assert from_hf(values) == room.MODEL == PUBLISHED[room.MODEL.architecture].model
    assert room.VQ.codebook_size == room.MODEL.visual_size


def test_every_room_is_in_the_table():
    files = Path(backbones.__file__).parent.glob("*.py")
    rooms = {path.stem for path in files if "\nBACKBONE = " in path.read_text(encoding="utf-8")}
    assert rooms >= {"emoji", "emu3", "emu3_5", "lumina", "janus"}
    assert {getattr(backbones, room).BACKBONE.name for room in rooms} == BACKBONES.keys()
    for name, published in PUBLISHED.items():
        assert backbone_of(published.model) is BACKBONES[name]


def test_a_name_that_is_not_in_the_table(tmp_path):
    model = {"vocab_size": 9, "visual_offset": 4, "visual_size": 5, "architecture": "dalle"}
    (tmp_path / "config.json").write_text(json.dumps({"format": FORMAT, "model": model, "vq": {}}))
    with pytest.raises(ConfigError, match=r"config.json: model: architecture must be one of \('emoji', .* not 'dalle'"):
        read_config(tmp_path)


def test_every_published_class_is_known():
    assert {"emu3", "Emu3", "chameleon", "chameleon_xllmx", "janus", "multi_modality"} <= ARCHITECTURES.keys()
    assert from_hf({"architectures": ["MultiModalityCausalLM"], "language_config": {}}).architecture == "janus"
