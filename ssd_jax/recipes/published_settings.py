"""Defines the settings of `train.py` that the configs of all published backbones share."""

from ml_collections import ConfigDict


def published_training(name: str, window: int, accumulation: int) -> ConfigDict:
    """Settings of `train.py` for a config. No run was ever made on real weights: steps and rates are guesses.

    Args:
        name: name of the output folders.
        window: positions per forward pass of the backbone; 0 is all.
        accumulation: number of micro-batches per batch.
    """
    config = ConfigDict()
    config.stage = "heads"  # or "flash", a vertical branch
    config.vq_weights = ""  # the image tokenizer's folder, if separate
    config.mesh = ""  # devices, such as "data:1,model:4"; "" is one
    config.images = ""  # a folder of images with captions (captions.jsonl, or a .txt beside each); or
    config.prompts_file = ""  # a prompt per line, whose images the model generates itself
    config.pictures_per_prompt = 1
    config.decoder = "jacobi-above"  # for these images; any lossless one
    config.size = ""  # image size, as for sample.py; "" is the model's own
    config.data = f"data/{name}"  # the images as codes
    config.pictures_per_file = 32  # at most lost when interrupted
    config.heldout = 64  # held-out images
    config.workdir = f"runs/{name}"  # checkpoints, logs, report.md; what was trained is in <workdir>/export
    config.seed = 0
    config.window = window
    config.report_images = 64
    stage = dict(batch=16, accumulation=accumulation, warmup=100, decay=0.3, clip=1.0, weight_decay=0.01, b2=0.99)
    stage.update(caption_drop=0.1, matmul="bfloat16", save_every=250, log_every=10, eval_images=32)

    # Draft heads. As published: 5 to the right, 1 down, no context. ssd2 needs 2 down.
    config.heads_model = ConfigDict(dict(horizontal=5, vertical=2, context=0))
    # First on Smooth L1 as published, then on the overlap of drafts and verifier; overlap.steps=0 skips that.
    config.heads = ConfigDict(dict(stage, steps=3000, lr=5e-4))
    config.overlap = ConfigDict(dict(stage, steps=1000, lr=2e-4))

    # FlashAR (--config.stage=flash). As released: four layers, first the branch alone; then, which a backbone needs
    # that is to draw well along diagonals, all of it: flash.steps=0 skips that, which takes a machine for a training.
    config.vertical_branch = ConfigDict(dict(layers=4))
    branch = dict(stage, accumulation=stage["batch"], code_noise=0.0, code_blind=0.0, code_noise_from=0, vertical=0.05)
    config.branch = ConfigDict(dict(branch, steps=1000, lr=5e-5, distillation=0.2, temperature=2.0, backbone_rate=0.0))
    config.flash = ConfigDict(dict(config.branch, steps=0, lr=2e-5, distillation=0.0, backbone_rate=0.2))
    return config


def tiny_published_training(name: str) -> ConfigDict:
    """The same with small sizes for tests."""
    config = published_training(f"{name}-tiny", window=8, accumulation=2)
    config.update(pictures_per_file=4, heldout=4, report_images=4)
    config.vertical_branch.layers = 1
    for stage in (config.heads, config.overlap, config.branch, config.flash):
        stage.update(batch=4, lr=2e-3, warmup=2, save_every=4, log_every=4, eval_images=4, matmul="float32")
        stage.accumulation = 2
    for stage in (config.heads, config.overlap, config.branch):
        stage.steps = 12
    return config
