"""Stage "backbone": train the transformer on caption -> image tokens."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from ssd_jax.backbones.emoji import EmojiPrompts
from ssd_jax.layout import Grid
from ssd_jax.models.config import ModelConfig
from ssd_jax.models.forced import image_hidden
from ssd_jax.models.products import PRODUCTS
from ssd_jax.models.transformer import Transformer
from ssd_jax.prompts import pad_left
from ssd_jax.prompts.batch import PromptBatch
from ssd_jax.shapes import bucket
from ssd_jax.training.emoji import HELD_OUT, EmojiData
from ssd_jax.training.loop import Task
from ssd_jax.training.losses import token_nll


class CaptionedCodes:
    """Pictures as codes with their captions as ids; hands out batches as a pure function of (seed, step).

    Args:
        data: the pictures' captions, splits and weights.
        codes: int32 [N, R*C], the pictures as the tokenizer sees them.
        prompts: caption -> ids.
        config: `batch`, `caption_drop`, `style_drop` and `word_drop`.
        pad_id, unk_id: special ids.
    """

    def __init__(
        self, data: EmojiData, codes: np.ndarray, prompts: EmojiPrompts, config: Any, pad_id: int, unk_id: int
    ):
        self.data, self.codes, self.config = data, codes, config
        self.pad_id, self.unk_id = pad_id, unk_id
        self.captions = [prompts.frame(text) for text in data.captions]
        self.names = [prompts.frame(text) for text in data.names]
        self.empty = prompts.frame("")
        self.length = bucket(max(map(len, self.captions)))
        self.train = data.indices("train")
        self.chance = data.weights[self.train] / data.weights[self.train].sum()

    def batch(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompt ids, prompt mask and codes of a training batch.

        Captions are sometimes dropped (for classifier-free guidance), sometimes lose their style word (so that a plain
        "red apple" is a prompt too), and sometimes a word is replaced by the unknown word.
        """
        rng = np.random.default_rng([seed, step])
        picked = rng.choice(self.train, self.config.batch, p=self.chance)
        frames = []
        for index in picked:
            frame = list((self.names if rng.random() < self.config.style_drop else self.captions)[index])
            for place in range(1, len(frame) - 1):
                if rng.random() < self.config.word_drop:
                    frame[place] = self.unk_id
            frames.append(self.empty if rng.random() < self.config.caption_drop else frame)
        return *pad_left(frames, self.pad_id, self.length), self.codes[picked]

    def split(self, split: str, limit: int) -> np.ndarray:
        """At most `limit` pictures of a split, evenly spread."""
        indices = self.data.indices(split)
        return indices[np.linspace(0, len(indices) - 1, min(limit, len(indices))).astype(int)]

    def heldout(self, limit: int) -> np.ndarray:
        """Held-out combinations, or what there is instead: a small set of one style may have none."""
        return next(picked for name in HELD_OUT if len(picked := self.split(name, limit)))

    def given(self, indices: np.ndarray, captions_of: np.ndarray | None = None):
        """Full captions and codes of the pictures; `captions_of` tells other pictures' captions instead."""
        frames = [self.captions[i] for i in (indices if captions_of is None else captions_of)]
        return *pad_left(frames, self.pad_id, self.length), self.codes[indices]

    def guided(self, indices: np.ndarray):
        """As `given`, with as many unconditional rows behind the captions; codes of the pictures once."""
        frames = [self.captions[i] for i in indices]
        batch = PromptBatch.stack(frames, [self.empty] * len(indices), self.pad_id, self.length)
        return batch.ids, batch.mask, self.codes[indices]


def corrupt(codes: np.ndarray, most: float, blind: float, rng: np.random.Generator) -> np.ndarray:
    """The codes a model is shown in training: some are replaced by codes from elsewhere in the batch.

    Each picture loses a share drawn evenly from 0 to `most`, with probability `blind` one from `most` to 1. A model
    that always sees true codes knows a picture it has memorised from the first few and stops reading the caption, and
    its own first mistake throws it off; one that sees hardly any has nothing but the caption to go by.
    """
    share = most * rng.random((len(codes), 1))
    share = np.where(rng.random((len(codes), 1)) < blind, 1.0 - (1.0 - most) * rng.random((len(codes), 1)), share)
    replaced = rng.random(codes.shape) < share
    return np.where(replaced, rng.permutation(codes.reshape(-1)).reshape(codes.shape), codes)


def mean_nll(nll, params: Any, source: CaptionedCodes, indices: np.ndarray, batch: int, captions_of=None) -> np.ndarray:
    """NLL per token of every picture, float64 [M], with the jitted `nll(params, ids, mask, codes) -> [B, P]`."""
    out = []
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        other = None if captions_of is None else captions_of[start : start + batch]
        padded = np.resize(part, batch)  # one shape, one compilation; repeats are cut off again
        values = nll(params, *source.given(padded, None if other is None else np.resize(other, batch)))
        out.append(np.asarray(values, np.float64).mean(axis=1)[: len(part)])
    return np.concatenate(out)


def backbone_task(
    model_config: ModelConfig,
    config: Any,
    seed: int,
    source: CaptionedCodes,
    code_vectors: np.ndarray,
    draw: Callable[[Any], np.ndarray],
) -> Task:
    """The backbone's part of the loop.

    Args:
        model_config: what to train.
        config: the stage's config; `matmul` names one of `PRODUCTS` for the training steps.
        seed: decides batches together with the step.
        source: captions and codes.
        code_vectors: float32 [V, code_dim], the tokenizer's codebook, from which the visual rows start.
        draw: params -> picture [height, width, 3], samples of the current model.
    """
    model, trained = Transformer(model_config), Transformer(model_config, PRODUCTS[config.matmul])
    grid = Grid(model_config.rows, model_config.cols)
    heldout = source.heldout(config.eval_images)

    def nll(model: Transformer, params: Any, ids: jax.Array, mask: jax.Array, codes: jax.Array, seen: jax.Array):
        hidden = image_hidden(model, params, ids, mask, seen)
        return token_nll(model.apply(params, hidden, method="logits"), codes)

    def batch(step: int) -> tuple[np.ndarray, ...]:
        ids, mask, codes = source.batch(seed, step)
        if step < config.code_noise_from:
            return ids, mask, codes, codes
        rng = np.random.default_rng([seed, step, 1])
        return ids, mask, codes, corrupt(codes, config.code_noise, config.code_blind, rng)

    def loss(params: Any, frozen: None, batch: tuple, key: jax.Array):
        del frozen, key
        return nll(trained, params, *batch).mean(), {}

    jitted = jax.jit(lambda params, ids, mask, codes: nll(model, params, ids, mask, codes, codes))

    def evaluate(params: Any) -> dict[str, float]:
        return {"heldout": float(mean_nll(jitted, params, source, heldout, config.batch).mean())}

    def init(key: jax.Array) -> Any:
        params = nn.unbox(model.init(key, jnp.zeros((1, grid.size), jnp.int32)))["params"]
        return {"params": _codes_alike(params, jax.random.fold_in(key, 1), code_vectors, model_config)}

    return Task("backbone", init, loss, batch, evaluate, draw, block_matrices, accumulation=config.accumulation)


def _codes_alike(params: dict, key: jax.Array, code_vectors: np.ndarray, config: ModelConfig) -> dict:
    """Mixes a projection of the code vectors into embedding and head, so that similar codes start out similar."""
    V, code_dim = code_vectors.shape
    centred = code_vectors - code_vectors.mean(axis=0)
    centred = centred / np.sqrt((centred**2).sum(axis=1).mean())
    into, out = (jax.random.normal(k, (code_dim, config.width)) * config.width**-0.5 for k in jax.random.split(key))
    first, last = config.visual_offset, config.visual_offset + V
    share = 0.5**0.5
    embedding = params["embedding"].at[first:last].multiply(share).at[first:last].add(share * (centred @ into))
    head = share * params["visual_head"] + share * (centred @ out)
    return {**params, "embedding": embedding, "visual_head": head}


MATRICES = {
    **dict.fromkeys("qkv", MuonDimensionNumbers(2, (0, 1))),
    "o": MuonDimensionNumbers((1, 2), 0),
    **dict.fromkeys(("gate", "up", "down"), MuonDimensionNumbers(1, 0)),
}
"""Input and output axes of the blocks' matrices, by parameter name."""


def block_matrices(params: Any) -> Any:
    """What Muon trains: the matrices inside the blocks, not embedding, output head and norms."""
    return jax.tree.map_with_path(lambda path, _: MATRICES.get(path[-1].key), params)
