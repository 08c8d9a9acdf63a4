"""Emu3-Gen by BAAI: 8.5 billion parameters, 90 x 90 codes, images of 720 x 720 pixels or another ratio.

    python sample.py --config=configs/emu3.py --weights=DIR --prompt="a lighthouse at dusk" [--size=16:9] [--heads=DIR]
    python sample.py --config=configs/emu3.py --plan --mesh=model:8
    python train.py --config=configs/emu3.py --config.weights=DIR --config.prompts_file=FILE

DIR is a download of the converted repository (its name ends in -hf), or of the original one, with --vq_weights=DIR2 for
Emu3-VisionTokenizer. No weights come with this project. By arithmetic they take 16 GB in bfloat16 and an image's keys
and values 2.2 GB; with all else that `--plan` counts it is at most 22 GB for `ar` and 25 GB for `ssd`.
A GPU of 24 GB needs XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 for `ar`: JAX takes three quarters by default. Nothing was
measured on the real weights; expect 8100 passes for `ar` and, with draft heads, 304 for `ssd`. No draft heads are
published; without --heads the decoders that need none run (`ar`, `jacobi-above`, `scd`, ...).

`:tiny` has the same modules in sizes for tests.
"""

import dataclasses

from ml_collections import ConfigDict

from ssd_jax.backbones import emu3
from ssd_jax.recipes.published_settings import published_training, tiny_published_training


def get_config(variant: str = "") -> ConfigDict:
    """The configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/emu3.py has no variant {variant!r}; valid are '' and 'tiny'")
    config = ConfigDict()
    config.weights = ""  # none come with the project: --weights=DIR
    config.max_batch = 1
    # As in the checkpoint's own config.json; sample.py checks the architecture.
    config.model = ConfigDict(dataclasses.asdict(emu3.MODEL))
    config.sample_prompts = ("a lighthouse on a rocky coast at dusk", "a portrait of an old fisherman, oil painting")

    # Draft heads (train.py): a step, compiled for a CPU, needs 38 GB, 16 of them the backbone.
    config.update(published_training("emu3", window=1024, accumulation=16))
    if variant == "tiny":
        config.model.update(layers=1, width=32, mlp_width=48, heads=4, kv_heads=2, head_dim=8)
        config.model.update(rows=4, cols=4, vocab_size=364, visual_offset=300, visual_size=64)
        config.model.update(pad_id=0, bos_id=1, boi_id=2, row_end_id=3)
        config.sample_prompts = config.sample_prompts[:1]
        config.update(tiny_published_training("emu3"), max_batch=4)
    return config
