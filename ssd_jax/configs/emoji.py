"""The bundled text-to-image model: captioned emoji images, 128 x 128 pixels, 16 x 16 codes.

    python train.py --config=configs/emoji.py

trains the tokenizer, the backbone and the draft heads in turn. `:tiny` runs the same stages in a minute or two, for the
tests.
"""

import dataclasses

from ml_collections import ConfigDict

from ssd_jax.backbones import emoji


def get_config(variant: str = "") -> ConfigDict:
    """The configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/emoji.py has no variant {variant!r}; valid are '' and 'tiny'")
    config = ConfigDict()
    config.stage = "all"  # or "tokenizer", "backbone", "heads"; "flash", which is not part of all
    config.seed = 0
    config.workdir = "runs/emoji"  # checkpoints, logs, images; the final model is in <workdir>/export
    config.data = "data/emoji"  # built from installed packages if absent
    config.styles = ("twemoji", "noto")  # all styles: ssd_jax/data/emoji_sources.py
    config.weights = "emoji"  # what sample.py loads with this config: the bundled checkpoint, or a folder
    config.max_batch = 16  # images that sample.py decodes at once
    config.limit = 0  # number of emoji to build; 0 = all

    config.vq = ConfigDict(dataclasses.asdict(emoji.VQ))
    config.model = ConfigDict(dict(emoji.MODEL))
    config.heads_model = ConfigDict(dict(horizontal=5, vertical=2, context=2))

    optimizer = dict(warmup=50, decay=0.3, clip=1.0, weight_decay=0.01, b2=0.99, log_every=20, eval_images=256)
    captions = dict(caption_drop=0.1, style_drop=0.2, word_drop=0.02)
    config.tokenizer = ConfigDict(
        dict(optimizer, steps=1100, batch=24, lr=3e-3, save_every=220, continuous_steps=220, gradient_weight=0.5)
    )
    config.backbone = ConfigDict(
        dict(optimizer, **captions, steps=2600, batch=32, lr=3e-3, weight_decay=0.05, save_every=500)
    )
    config.backbone.update(
        code_noise=0.4,  # largest share of wrong codes in a training image, from that step on
        code_blind=0.3,  # share of images with even fewer true codes, down to none
        code_noise_from=200,
        decay=0.4,
        accumulation=8,  # half as fast again on a CPU: micro-batches of four images stay in its caches
        matmul="bfloat16",  # products of the training steps; weights, optimizer and activations are float32
    )
    # Then as many steps again, twice, with other batches: images improve although the held-out loss rises.
    # (Settings of the first phase on the command line, such as its batch, do not change those of the later ones.)
    config.continued = ConfigDict(dict(config.backbone, repeats=2, steps=2600, warmup=20, lr=2e-3, decay=0.5))
    config.continued.code_noise_from = 0
    # The draft heads: first on Smooth L1 as published, then on the overlap of their drafts with the verifier.
    config.heads = ConfigDict(dict(optimizer, **captions, steps=400, batch=16, lr=2e-3, save_every=100))
    config.overlap = ConfigDict(dict(optimizer, **captions, steps=500, batch=16, lr=2e-3, save_every=100))
    config.heads.matmul = config.overlap.matmul = config.backbone.matmul
    # FlashAR (--config.stage=flash): a vertical branch on the frozen backbone, then both together.
    config.branch_model = ConfigDict(dict(layers=2))
    config.branch = ConfigDict(dict(config.backbone, steps=200, warmup=20, save_every=200, lr=2e-3))
    config.branch.update(code_noise_from=0, vertical=0.05, distillation=0.2, temperature=2.0, backbone_rate=0.0)
    config.flash = ConfigDict(dict(config.branch, steps=800, decay=0.5, distillation=0.0, backbone_rate=0.5))
    config.report_images = 400  # per split, in <workdir>/report.md
    config.report_drawn = 64  # images of trained captions, and of held-out combinations, for the recognition report
    # Samples while the backbone trains, and default prompts of sample.py: all kinds, chosen before the model drew any.
    config.sample_prompts = (
        "crying face, noto",
        "cat face, twemoji",
        "red apple, noto",
        "rocket, twemoji",
        "flag of germany, noto",
        "santa claus, noto",
        "green heart, twemoji",
        "pizza, noto",
        "dog face, noto",
        "police car, twemoji",
        "tulip, noto",
        "strawberry, twemoji",
        "alarm clock, noto",
        "woman firefighter, twemoji",
        "tropical fish, noto",
        "orange circle, twemoji",
    )
    if variant == "tiny":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    """Shrinks all stages to a minute or two on two CPU cores: the same steps, no useful images."""
    config.workdir = "runs/emoji-tiny"
    config.data = "data/emoji-tiny"
    config.limit = 60
    config.vq.update(channels=16, groups=4, codebook_size=64)
    config.model.update(layers=2, width=32, mlp_width=64, heads=2, kv_heads=1, head_dim=16)
    config.sample_prompts = config.sample_prompts[:4]
    config.branch_model.layers = 1
    backbones = (config.backbone, config.continued, config.branch, config.flash)
    for stage in (config.tokenizer, *backbones, config.heads, config.overlap):
        stage.update(steps=12, batch=4, warmup=2, save_every=6, log_every=4, eval_images=8)
    config.tokenizer.continuous_steps = 4
    for stage in backbones:
        stage.update(code_noise_from=6, accumulation=2)
    config.report_images = config.report_drawn = 8
