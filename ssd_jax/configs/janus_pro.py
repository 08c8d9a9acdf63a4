"""Janus-Pro by DeepSeek: 7 or, as `:1b`, 1 billion parameters, 24 x 24 codes, images of 384 x 384 pixels.

    python sample.py --config=configs/janus_pro.py --weights=DIR --prompt="a lighthouse at dusk" [--heads=DIR]
    python sample.py --config=configs/janus_pro.py:1b --weights=DIR
    python sample.py --config=configs/janus_pro.py --plan
    python train.py --config=configs/janus_pro.py --config.weights=DIR --config.prompts_file=FILE

DIR is a download of the converted repository (safetensors and a tokenizer.json; the original repository's .bin files
are pickles and are refused). No weights come with this project. By arithmetic the backbone takes 13 GB in bfloat16
(`:1b` 3 GB) and an image's keys and values 0.7 GB (0.3 GB); with all else that `--plan` counts it is at most 17 GB
(4 GB) for `ar` and 20 GB (5 GB) for `ssd`, so one accelerator of 24 GB (8 GB) should do. Nothing was measured on the
real weights; expect 576 passes for `ar` and, with draft heads, 80 for `ssd`. No draft heads are published; without
--heads the decoders that need none run (`ar`, `jacobi-above`, `scd`, ...).

`:tiny` has the same modules in sizes for tests.
"""

import dataclasses

from ml_collections import ConfigDict

from ssd_jax.backbones import janus
from ssd_jax.recipes.published_settings import published_training, tiny_published_training


def get_config(variant: str = "") -> ConfigDict:
    """The configuration; `variant` is "" (7B), "1b" or "tiny"."""
    if variant not in ("", "1b", "tiny"):
        raise ValueError(f"configs/janus_pro.py has no variant {variant!r}; valid are '', '1b' and 'tiny'")
    config = ConfigDict()
    config.weights = ""  # none come with the project: --weights=DIR
    config.max_batch = 4
    # As in the checkpoint's own config.json; sample.py checks the architecture.
    config.model = ConfigDict(dataclasses.asdict(janus.MODEL))
    config.sample_prompts = ("a lighthouse on a rocky coast at dusk", "a portrait of an old fisherman, oil painting")

    # Draft heads (train.py): a step, compiled for a CPU, needs 32 GB, 13 of them the backbone.
    config.update(published_training("janus-pro", window=0, accumulation=4))
    if variant == "1b":
        config.model.update(dataclasses.asdict(janus.MODEL_1B))
    if variant == "tiny":
        config.model.update(layers=1, width=32, mlp_width=48, heads=4, kv_heads=4, head_dim=8, head_width=32)
        config.model.update(rows=4, cols=4, vocab_size=300, visual_size=64, pad_id=0, bos_id=1, boi_id=2)
        config.sample_prompts = config.sample_prompts[:1]
        config.update(tiny_published_training("janus-pro"), max_batch=4)
    return config
