"""Self-distillation (arXiv 2606.20543): generates the draft heads' training images with the backbone itself."""

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from ssd_jax.data.token_shards import TokenShards
from ssd_jax.parallel.processes import is_first, together

Draw = Callable[[list[int], list[int]], np.ndarray]
"""(indices of prompts, seeds), both of length n -> int32 [n, R, C]."""


def jobs(prompts: int, per_prompt: int) -> np.ndarray:
    """Prompt and number of every image to generate, int32 [prompts * per_prompt, 2], prompt by prompt."""
    return np.stack(np.divmod(np.arange(prompts * per_prompt, dtype=np.int32), np.int32(per_prompt)), axis=1)


def picture_seed(seed: int, prompt: int, number: int) -> int:
    """The seed of an image, below 2**32, independent of all other images."""
    return int(np.random.SeedSequence([seed, prompt, number]).generate_state(1)[0])


def draw_missing(shards: TokenShards, jobs: np.ndarray, seed: int, batch: int, draw: Draw) -> None:
    """Writes the missing shards; `jobs` has one entry per image of all shards.

    A shard's images are decoded in the same batches whatever shards exist already, so its bytes do not depend on them.
    """
    missing = shards.missing()
    first = is_first()
    left = sum(len(shards.pictures(shard)) for shard in missing)
    with tqdm(
        total=len(jobs), initial=len(jobs) - left, desc="drawing", unit="image", dynamic_ncols=True, disable=not first
    ) as bar:
        for shard in missing:
            pictures, codes = shards.pictures(shard), []
            for start in range(pictures.start, pictures.stop, batch):
                part = jobs[start : min(start + batch, pictures.stop)].tolist()
                seeds = [picture_seed(seed, prompt, number) for prompt, number in part]
                codes.append(np.asarray(draw([prompt for prompt, _ in part], seeds)))
                bar.update(len(part))
            together(f"tokens: {shard}", lambda: shards.write(shard, np.concatenate(codes)))  # noqa: B023 - called here


def digest_of(texts: Sequence[object]) -> str:
    """Digest of a list of prompts, or of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=False).encode()).hexdigest()
