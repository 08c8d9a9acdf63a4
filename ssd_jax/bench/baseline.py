"""Times Hugging Face transformers as a baseline on this machine: same family, same sizes, random weights.

Nothing is downloaded. The model runs in a process of its own (`transformers_process`), whose memory is freed when this
returns; memory that this process holds meanwhile, on an accelerator or not, is not available to it.
"""

import dataclasses
from typing import Any

from ssd_jax.bench.torch_process import PACKAGES, require_packages, run_process
from ssd_jax.errors import UserError, require_whole
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.matmul import cpu_multiplies_bfloat16

MODULE = "ssd_jax.bench.transformers_process"
WHAT = "The baseline"
"""For messages."""


def measure_baseline(
    config: ModelConfig,
    prompt: int,
    cfg_scale: float,
    top_k: int,
    repeats: int,
    passes: int | None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Times transformers on images of `config.rows` x `config.cols` codes at batch 1, on its own GPU or all cores.

    Args:
        config: the backbone's config.
        prompt: number of prompt tokens.
        cfg_scale: guidance scale; 1 is no guidance, one batch row instead of two.
        top_k: top-k of the sampler; 0 keeps all codes.
        repeats: timed runs, after one warm-up.
        passes: time this many passes in the middle of an image instead of complete images, and extrapolate.
        dtype: "bfloat16" or "float32"; None is bfloat16 where there are instructions for it, otherwise float32.

    Returns:
        "passes": tokens of an image, one pass each: R*C codes, and R row ends if the family has them (the closing
        tokens of Emu3 and Lumina-mGPT are not counted); "seconds": per image, median; "seconds range": least and most;
        "seconds per pass": median; "extrapolated": whether from `passes`; "loop": what was timed, one sentence;
        "setting": the fastest attention and cache, dtype of the weights, device; "versions".

    Raises:
        UserError: transformers lacks the family or is not installed, or its process failed.
    """
    if config.architecture == "emoji":
        raise UserError("transformers has no model of the family emoji (the bundled one), so there is no baseline.")
    for name, value, least in (("prompt", prompt, 1), ("top_k", top_k, 0), ("repeats", repeats, 1)):
        require_whole(name, value, least)
    if passes is not None:
        require_whole("passes", passes, 1)
    require_packages(WHAT, PACKAGES)
    cpu = "bfloat16" if cpu_multiplies_bfloat16() else "float32"
    sizes = dict(
        dtype=dtype, cpu_dtype=cpu, prompt=prompt, cfg_scale=cfg_scale, top_k=top_k, repeats=repeats, passes=passes
    )
    out = run_process(MODULE, dict(model=dataclasses.asdict(config), **sizes), WHAT)
    return out | {"seconds range": tuple(out["seconds range"])}
