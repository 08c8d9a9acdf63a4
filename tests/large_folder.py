"""A checkpoint folder so large that the memory that loading it takes can be told from all else."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ssd_jax.backbones import PUBLISHED
from ssd_jax.backbones.hf_config import from_hf
from ssd_jax.models.transformer import abstract_backbone
from ssd_jax.weights.mapping import flatten
from ssd_jax.weights.names import find_sources
from ssd_jax.weights.store import INDEX_SUFFIX

VALUES = {
    "model_type": "Emu3", "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vq_config": {"codebook_size": 4096},
    "vocabulary_map": {f"<|visual token {code:06d}|>": 4096 + code for code in range(4096)},
}  # fmt: skip


def large_folder(folder: Path) -> Path:
    """A backbone of 130 MB in bfloat16, in three shards."""
    config, naming = from_hf(VALUES), PUBLISHED["emu3"].namings[-1]
    leaves, shards, weight_map = flatten(abstract_backbone(config)), [{}, {}, {}], {}
    for index, (name, source) in enumerate(find_sources(config, leaves, [naming.embedding]).items()):
        file = f"model-{index % 3}.safetensors"
        shards[index % 3][source.name] = np.ones(source.stored_shape(leaves[name].shape), ml_dtypes.bfloat16)
        weight_map[source.name] = file
    for index, tensors in enumerate(shards):
        save_file(tensors, folder / f"model-{index}.safetensors")
    (folder / f"model.safetensors{INDEX_SUFFIX}").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(VALUES))
    return folder


needs_clear_refs = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it"
)
