"""Computes the negative log-likelihood of images' tokens under the verifier."""

from collections.abc import Sequence

import numpy as np

from ssd_jax.pipeline.pipeline import Pipeline
from ssd_jax.pipeline.request import guidance_of
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.sequence.layout import Grid


def token_nll(
    pipe: Pipeline,
    prompts: Sequence[str],
    codes: np.ndarray,
    cfg_scale: float | None = None,
    negative_prompt: str | None = None,
    batch: int = 16,
) -> np.ndarray:
    """-log p of every token given its prompt and all earlier tokens, in nats; float32 [N, R*C].

    p is the guided distribution that decoders sample from, at temperature 1 and before top-k and top-p, under which a
    token can be impossible. A value far below that of ancestral samples is as bad a sign as one far above.

    Beside the weights it needs memory for the keys and values of a batch (2.2 GB for each image of Emu3 with guidance,
    in bfloat16), the embeddings of the sequences (0.14 GB, in float32 0.27), and one window: nothing grows with the
    square of the sequence, and only one window's logits are kept.

    Args:
        pipe: the verifier.
        prompts: N texts.
        codes: int32 [N, R, C].
        cfg_scale: guidance; None is the model's own, 1 the plain conditional distribution.
        negative_prompt: negative prompt of the guidance; None is the model's own.
        batch: the most images at once; the last batch is padded. On a mesh it is rounded up to fill the data axis.
    Raises:
        UserError: a `cfg_scale` that `Pipeline.generate` would not take; codes that the model does not have.
    """
    scale = guidance_of(pipe.config, cfg_scale)
    guided = scale != 1.0
    codes = np.asarray(codes, np.int32)
    grid = Grid(*codes.shape[1:])
    codes = codes.reshape(len(prompts), -1)
    frames, negatives = zip(*(pipe.prompts.pair(text, negative_prompt, grid) for text in prompts), strict=True)
    # One prompt length for all, so that there is one program.
    batched = PromptBatch.stack(frames, negatives, pipe.config.pad_id)
    batched = batched if guided else batched.conditional()
    batch = pipe.execution.whole_rows(min(batch, len(prompts)), guided)
    out = []
    for start in range(0, len(prompts), batch):
        rows = np.resize(np.arange(start, min(start + batch, len(prompts))), batch)
        given = batched.take(rows)
        found = pipe.visual_nll(given.ids, codes[rows], (grid.rows, grid.cols), given.mask, scale)
        out.append(np.asarray(found)[: len(prompts) - start])
    return np.concatenate(out)
