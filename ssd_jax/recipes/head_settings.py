"""How draft heads of a published backbone are trained: what the configs of all of them share."""

from ml_collections import ConfigDict


def head_training(name: str, window: int, accumulation: int) -> ConfigDict:
    """Settings of `train.py` for a config. No run was ever made on real weights: steps and rates are guesses.

    Args:
        name: of the folders that are made.
        window: positions that a forward of the backbone sees at once; 0 is all.
        accumulation: in how many parts a batch is gone through.
    """
    config = ConfigDict()
    config.vq_weights = ""  # the picture tokenizer's folder, if it is another
    config.mesh = ""  # devices, such as "data:1,model:4"; "" is one
    config.images = ""  # a folder of pictures with captions (captions.jsonl, or a .txt beside each); or
    config.prompts_file = ""  # a prompt per line, of which the model draws the pictures itself
    config.pictures_per_prompt = 1
    config.decoder = "jacobi-above"  # draws them; any lossless one
    config.size = ""  # of the pictures, as sample.py has it; "" is the model's own
    config.data = f"data/{name}"  # the pictures as tokens
    config.pictures_per_file = 32  # what a kill can cost
    config.heldout = 64  # pictures that are not trained on
    config.workdir = f"runs/{name}-heads"  # checkpoints, logs, report.md; the heads in <workdir>/export
    config.seed = 0
    # As published: 5 to the right, 1 down, nothing beside the source. ssd2 takes 2 down.
    config.heads_model = ConfigDict(dict(horizontal=5, vertical=2, context=0))
    config.window = window
    stage = dict(batch=16, accumulation=accumulation, warmup=100, decay=0.3, clip=1.0, weight_decay=0.01, b2=0.99)
    stage.update(caption_drop=0.1, matmul="bfloat16", save_every=250, log_every=10, eval_images=32)
    # First on Smooth L1 as published, then on the overlap of drafts and verifier; overlap.steps=0 leaves that out.
    config.heads = ConfigDict(dict(stage, steps=3000, lr=5e-4))
    config.overlap = ConfigDict(dict(stage, steps=1000, lr=2e-4))
    config.report_images = 64
    return config


def tiny_head_training(name: str) -> ConfigDict:
    """The same in sizes for tests."""
    config = head_training(f"{name}-tiny", window=8, accumulation=2)
    config.update(pictures_per_file=4, heldout=4, report_images=4)
    for stage in (config.heads, config.overlap):
        stage.update(steps=12, lr=2e-3, batch=4, warmup=2, save_every=4, log_every=4, eval_images=4, matmul="float32")
    return config
