"""Lumina-mGPT 7B 768 by Alpha-VLLM: 7.0 billion parameters, 48 x 48 codes, images of 768 x 768 pixels or less.

    python sample.py --config=configs/lumina_mgpt.py --weights=DIR --vq_weights=DIR --prompt="a lighthouse at dusk" \\
        [--size=512x1024] [--heads=DIR]
    python sample.py --config=configs/lumina_mgpt.py --plan
    python train.py --config=configs/lumina_mgpt.py --config.weights=DIR --config.prompts_file=FILE

DIR is a download of the repository; the image tokenizer's weights are Meta's (Chameleon) and are not in it. No
weights come with this project. By arithmetic the backbone takes 14 GB in bfloat16 and an image's keys and values 2.6
GB; with all else that `--plan` counts it is at most 19 GB for `ar` and 22 GB for `ssd`, so one accelerator of 24 GB
should do. Nothing was measured on the real weights; expect 2304 passes for `ar` and, with draft heads, 162 for `ssd`.
No draft heads are published; without --heads the decoders that need none run (`ar`, `jacobi-above`, `scd`, ...).

`:tiny` has the same modules in sizes for tests.
"""

import dataclasses

from ml_collections import ConfigDict

from ssd_jax.backbones import lumina
from ssd_jax.recipes.published_settings import published_training, tiny_published_training


def get_config(variant: str = "") -> ConfigDict:
    """The configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/lumina_mgpt.py has no variant {variant!r}; valid are '' and 'tiny'")
    config = ConfigDict()
    config.weights = ""  # none come with the project: --weights=DIR
    config.max_batch = 1
    # As in the checkpoint's own config.json; sample.py checks the architecture.
    config.model = ConfigDict(dataclasses.asdict(lumina.MODEL))
    config.sample_prompts = ("a lighthouse on a rocky coast at dusk", "a portrait of an old fisherman, oil painting")

    # Draft heads (train.py): a step, compiled for a CPU, needs 36 GB, 14 of them the backbone.
    config.update(published_training("lumina-mgpt", window=1024, accumulation=8))
    if variant == "tiny":
        config.model.update(layers=1, width=32, mlp_width=48, heads=4, kv_heads=4, head_dim=8)
        config.model.update(vocab_size=364, visual_size=64, pad_id=0, bos_id=1, boi_id=2, row_end_id=70)
        config.sample_prompts = config.sample_prompts[:1]
        config.update(tiny_published_training("lumina-mgpt"), max_batch=4)
    return config
