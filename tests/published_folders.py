"""Folders of small published backbones as transformers saves them, with all that sample.py and train.py need."""

from pathlib import Path

import numpy as np
import torch_backbones
import torch_vq
from byte_tokenizers import byte_tokenizer
from safetensors.numpy import save_file

from ssd_jax.weights.load import read_config

CONFIGS = ("emu3", "emu3_5", "lumina_mgpt", "janus_pro")
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1)
FOLDERS = {
    "emu3": lambda folder, **changes: torch_backbones.emu3(folder, offset=300, row_end=3, grid=4, **SIZES | changes),
    "emu3_5": lambda folder, **changes: torch_backbones.emu3_5(
        folder, offset=300, row_end=3, grid=4, **SIZES | dict(head_dim=16) | changes
    ),
    "lumina_mgpt": lambda folder, **changes: torch_backbones.chameleon(folder, vocab_size=364, **SIZES | changes),
    "janus_pro": lambda folder, **changes: torch_backbones.janus(folder, grid=4, vocab_size=300, **SIZES | changes),
}
SPECIAL = {
    "emu3": {"<|extra_203|>": 1, "<|image start|>": 2, "<|extra_200|>": 3, "<|image token|>": 4},
    "emu3_5": {"<|extra_203|>": 1, "<|image start|>": 2, "<|image token|>": 4, "<|extra_100|>": 5},
    "lumina_mgpt": {"<s>": 1, "<racm3:break>": 2, "<reserved08799>": 70, "<reserved08706>": 72}
    | {f"<reserved{8800 + patches:05d}>": 74 + patches for patches in range(1, 5)},
    "janus_pro": {"<｜▁pad▁｜>": 0, "<｜begin▁of▁sentence｜>": 1, "<begin_of_image>": 2},
}
FIRST_BYTE = {"emu3": 10, "emu3_5": 10, "lumina_mgpt": 100, "janus_pro": 10}
SIZE = {"emu3": "", "emu3_5": "", "lumina_mgpt": "8x8", "janus_pro": ""}
WITHOUT_VQ = {"lumina_mgpt": torch_vq.chameleon, "emu3_5": torch_vq.emu3_5}
"""Images of 4 x 4 codes; Lumina's folder says nothing of the grid."""


def published_folder(name: str, folder: Path, **changes) -> Path:
    """Makes the folder; changes are of the language model's config.

    Lumina's has the image tokenizer in Meta's file, because transformers' has no decoder.
    """
    FOLDERS[name](folder, **changes)
    byte_tokenizer(SPECIAL[name], first=FIRST_BYTE[name]).save(str(folder / "tokenizer.json"))
    if name in WITHOUT_VQ:
        vq = WITHOUT_VQ[name](read_config(folder)[1])
        tensors = {name: np.array(x, order="C") for name, x in vq.state.items()}
        save_file(tensors, folder / "vqgan.safetensors")
    return folder
