"""Emu3.5-Image by BAAI: 34 billion parameters, 64 x 64 codes, images of 1024 x 1024 pixels or another ratio.

    python sample.py --config=configs/emu3_5.py --weights=DIR --vq_weights=DIR2 --prompt="a lighthouse at dusk"
    python sample.py --config=configs/emu3_5.py --plan --mesh=model:4
    python train.py --config=configs/emu3_5.py --config.weights=DIR --config.prompts_file=FILE

DIR is a download of BAAI/Emu3.5-Image with the two tokenizer files of its code beside it, and DIR2 one of
BAAI/Emu3.5-VisionTokenizer, as safetensors (docs/big-models.md). No weights come with this project. By arithmetic they
take 67 GB in bfloat16 and an image's keys and values 2.2 GB. Nothing was measured on the real weights; expect 4096
passes for `ar` and, with draft heads, 216 for `ssd`. No draft heads are published; without --heads the decoders that
need none run (`ar`, `jacobi-above`, `scd`, ...).

DIR may also be FlashAR's checkpoint, lxazjk/Emu3.5-Image-FlashAR, for --decoder=flash (docs/big-models.md).

`:tiny` has the same modules in sizes for tests.
"""

import dataclasses

from ml_collections import ConfigDict

from ssd_jax.backbones import emu3_5
from ssd_jax.recipes.published_settings import published_training, tiny_published_training


def get_config(variant: str = "") -> ConfigDict:
    """The configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/emu3_5.py has no variant {variant!r}; valid are '' and 'tiny'")
    config = ConfigDict()
    config.weights = ""  # none come with the project: --weights=DIR
    config.max_batch = 1
    # A checkpoint's own config.json goes before these; sample.py checks the architecture.
    config.model = ConfigDict(dataclasses.asdict(emu3_5.MODEL))
    config.sample_prompts = ("a lighthouse on a rocky coast at dusk", "a portrait of an old fisherman, oil painting")

    # Draft heads (train.py).
    config.update(published_training("emu3_5", window=1024, accumulation=16))
    if variant == "tiny":
        config.model.update(layers=1, width=32, mlp_width=48, heads=4, kv_heads=2, head_dim=16)
        config.model.update(rows=4, cols=4, vocab_size=364, visual_offset=300, visual_size=64)
        config.model.update(pad_id=0, bos_id=1, boi_id=2, row_end_id=3)
        config.sample_prompts = config.sample_prompts[:1]
        config.update(tiny_published_training("emu3_5"), max_batch=4)
    return config
