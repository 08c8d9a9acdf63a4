"""What the verifier itself thinks of pictures: the negative log-likelihood of their tokens."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.layout import Grid
from ssd_jax.pipeline import Pipeline
from ssd_jax.prompts import pad_left
from ssd_jax.sampling import guide


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

    Args:
        pipe: the verifier.
        prompts: N texts.
        codes: int32 [N, R, C].
        cfg_scale: guidance; None is the model's own, 1 the plain conditional distribution.
        negative_prompt: of the guidance; None is the model's own.
        batch: pictures at once; the last batch is filled up.
    """
    scale = pipe.config.cfg_scale if cfg_scale is None else float(cfg_scale)
    guided = scale != 1.0
    codes = np.asarray(codes, np.int32)
    grid = Grid(*codes.shape[1:])
    codes = codes.reshape(len(prompts), -1)
    frames, negatives = zip(*(pipe.prompts.pair(text, negative_prompt, grid) for text in prompts), strict=True)
    # One width for all, so that there is one program.
    ids, mask = pad_left([*frames, *negatives], max(pipe.config.pad_id, 0))
    out = []
    for start in range(0, len(prompts), batch):
        rows = np.resize(np.arange(start, min(start + batch, len(prompts))), batch)
        given = np.concatenate([rows, len(prompts) + rows]) if guided else rows
        doubled = np.tile(codes[rows], (2, 1)) if guided else codes[rows]
        logits = pipe.visual_logits(ids[given], doubled, (grid.rows, grid.cols), mask[given])
        out.append(np.asarray(_nll(logits, codes[rows], jnp.float32(scale), guided))[: len(prompts) - start])
    return np.concatenate(out)


def _nll(logits: jax.Array, codes: np.ndarray, scale: jax.Array, guided: bool) -> jax.Array:
    log_p = jax.nn.log_softmax(guide(logits, scale, guided))
    return -jnp.take_along_axis(log_p, jnp.asarray(codes)[..., None], axis=-1)[..., 0]
