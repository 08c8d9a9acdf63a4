"""The bundled text-to-image model: captioned emoji pictures, 128 x 128 pixels, 16 x 16 codes.

    python train.py --config=configs/emoji.py

trains the tokenizer, the backbone and the draft heads one after the other. `:tiny` is the same road in under a minute,
for the tests.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/emoji.py has no variant {variant!r}; valid are '' and 'tiny'")
    config = ConfigDict()
    config.stage = "all"  # or "tokenizer", "backbone", "heads"
    config.seed = 0
    config.workdir = "runs/emoji"  # checkpoints, logs, pictures; the finished model in <workdir>/export
    config.data = "data/emoji"  # built from installed packages if absent
    config.styles = ("twemoji", "noto")
    config.limit = 0  # draw only so many emoji; 0 = all

    config.vq = ConfigDict(
        dict(
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            patch=4,
            groups=16,
            codebook_size=1024,
            code_dim=8,
            normalised=True,
        )
    )
    optimizer = dict(warmup=50, decay=0.3, clip=1.0, weight_decay=0.01, b2=0.99, log_every=20, eval_images=256)
    config.tokenizer = ConfigDict(
        dict(optimizer, steps=1000, batch=24, lr=2e-3, save_every=200, gradient_weight=0.5, usage_weight=0.5)
    )
    return config
