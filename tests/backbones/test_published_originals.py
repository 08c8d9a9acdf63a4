"""A checkpoint in the layout of its first repository is the one in that of transformers: the same parameters, image
tokenizer, special ids and frames of prompts. Sizes are small; transformers saves the models (tests/torch_backbones.py).
"""

import base64
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch_backbones
import torch_vq
from byte_tokenizers import byte_tokenizer
from safetensors.numpy import load_file, save_file

import ssd_jax
from ssd_jax.backbones.emu_text import RANKS_NAME, SPECIAL, SPECIAL_NAME, read_tiktoken
from ssd_jax.sequence.layout import Grid

CODES, SIDE = 64, 24
FIRST = 256 + len(SPECIAL)  # id of <|image token|> behind the bytes and the numbered special tokens


def emu3(folder: Path) -> tuple[Path, Path, Path]:
    """(folder of transformers, of the first repository, of the image tokenizer)."""
    theirs, ours, vq = (folder / name for name in ("theirs", "ours", "vq"))
    row_end = 256 + SPECIAL.index("<|extra_200|>")
    torch_backbones.emu3(theirs, codes=CODES, offset=FIRST + 3, row_end=row_end, grid=SIDE, num_hidden_layers=1)
    values, state = json.loads((theirs / "config.json").read_text()), load_file(theirs / "model.safetensors")
    named = [
        "<|image token|>",
        "<|image start|>",
        "<|image end|>",
        *(f"<|visual token {c:06d}|>" for c in range(CODES)),
    ]
    ids = {"boi_token_id": FIRST + 1, "bos_token_id": 256 + SPECIAL.index("<|extra_203|>"), "pad_token_id": 256}
    ids |= {"eol_token_id": row_end, "eos_token_id": 256 + SPECIAL.index("<|extra_204|>")}
    own = values["text_config"] | ids | {"model_type": "Emu3", "architectures": ["Emu3ForCausalLM"]}
    own |= {"image_area": values["image_area"], "rope_scaling": None, "rope_theta": 1e6}
    del own["rope_parameters"]
    # Left out as published, these are the sizes of the real one.
    own |= {"vq_config": values["vq_config"], "vocabulary_map": {x: FIRST + index for index, x in enumerate(named)}}
    backbone = {n.removeprefix("text_model."): x for n, x in state.items() if n.startswith("text_model.")}
    tokenizer = {n.removeprefix("vqmodel."): x for n, x in state.items() if n.startswith("vqmodel.")}
    save(ours, own, backbone)
    save(vq, {"model_type": "Emu3VisionVQ"}, torch_vq.emu3_original(tokenizer))
    (ours / RANKS_NAME).write_text("".join(f"{base64.b64encode(bytes([b])).decode()} {b}\n" for b in range(256)))
    (ours / SPECIAL_NAME).write_text("\n".join(named) + "\n")
    read_tiktoken(ours).save(str(theirs / "tokenizer.json"))
    # As the converter has it: the whole vocabulary in config.json, the ids of special tokens nowhere else.
    values["vocabulary_map"] = json.loads((theirs / "tokenizer.json").read_text())["model"]["vocab"]
    values["text_config"] = {k: v for k, v in values["text_config"].items() if not k.endswith("token_id")}
    (theirs / "config.json").write_text(json.dumps(values))
    return theirs, ours, vq


def janus(folder: Path) -> tuple[Path, Path, Path]:
    """(folder of transformers, of the first repository converted to safetensors, the same)."""
    theirs, ours = folder / "theirs", folder / "ours"
    torch_backbones.janus(theirs, codes=CODES, grid=SIDE, vocab_size=300, num_hidden_layers=1)
    values, state = json.loads((theirs / "config.json").read_text()), load_file(theirs / "model.safetensors")
    names = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.generation_embeddings.": "gen_embed.",
        "model.generation_aligner.fc1.": "gen_aligner.layers.0.",
        "model.generation_aligner.hidden_layers.0.": "gen_aligner.layers.2.",
        "model.generation_head.proj_out.": "gen_head.output_mlp_projector.",
        "model.generation_head.vision_head.": "gen_head.vision_head.",
        "model.vision_model.": "vision_model.vision_tower.",
        "model.aligner.": "aligner.",
    }
    renamed = {b + n.removeprefix(a): x for n, x in state.items() for a, b in names.items() if n.startswith(a)}
    tokenizer = {n.removeprefix("model.vqmodel."): x for n, x in state.items() if n.startswith("model.vqmodel.")}
    renamed |= {f"gen_vision_model.{n}": x for n, x in torch_vq.janus_original(tokenizer).items()}
    width = values["text_config"]["hidden_size"]
    own = {
        "model_type": "multi_modality",
        "language_config": values["text_config"],
        "gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": CODES, "n_embed": 8}},
        "gen_aligner_config": {"params": {"depth": 2, "projector_type": "mlp_gelu", "n_embed": width}},
        "gen_head_config": {"params": {"image_token_embed": width, "image_token_size": CODES, "n_embed": width}},
        "vq_config": values["vq_config"],  # left out as published, it is the real one's
    }
    save(ours, own, renamed)
    special = {"<｜▁pad▁｜>": 0, "<｜begin▁of▁sentence｜>": 1, "<begin_of_image>": 2}
    for path in (theirs, ours):
        byte_tokenizer(special, first=10).save(str(path / "tokenizer.json"))
    return theirs, ours, ours


def save(folder: Path, values: dict, tensors: dict[str, np.ndarray]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    save_file({name: np.array(x, order="C") for name, x in tensors.items()}, folder / "model.safetensors")


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("layouts", [emu3, janus], ids=["emu3", "janus"])
def test_both_layouts_are_one_model(tmp_path, layouts):
    theirs, ours, vq = layouts(tmp_path)
    one, other = (ssd_jax.load(folder, "float32", vq_weights=path) for folder, path in ((theirs, None), (ours, vq)))
    assert one.config == other.config and one.vq_config == other.vq_config
    assert one.config.rows == one.config.cols == SIDE
    assert_same(one.params, other.params)
    assert_same(one.pictures.params, other.pictures.params)
    for negative in (None, "fog"):
        frames = [pipe.prompts.pair("a red cat (2)", negative, Grid(SIDE, SIDE)) for pipe in (one, other)]
        assert frames[0] == frames[1]
